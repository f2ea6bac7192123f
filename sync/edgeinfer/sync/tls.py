"""How a broker proves who it is, and how this side does. Imported only where a broker wants TLS."""

import ssl

from edgeinfer.runtime.errors import BrokerError
from edgeinfer.sync.broker import BrokerConfig

__all__ = ["tls_context"]


_HANDSHAKE_S = 5.0


class _Socket(ssl.SSLSocket):
    """paho gives a handshake a whole keep-alive of time, and drops a socket whose handshake failed without closing
    it."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(_HANDSHAKE_S)
        try:
            super().do_handshake(block)
        except TimeoutError as error:
            self.close()
            raise TimeoutError("no TLS handshake in time") from error
        except OSError:
            self.close()
            raise


def tls_context(config: BrokerConfig) -> ssl.SSLContext:
    """Raises BrokerError for files that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=config.tls_ca or None)
    except OSError as error:
        raise BrokerError(f"tls_ca: {config.tls_ca}: cannot be used: {error}") from error
    if config.tls_cert:
        try:
            context.load_cert_chain(config.tls_cert, config.tls_key or None)
        except OSError as error:
            files = " and ".join(filter(None, (config.tls_cert, config.tls_key)))
            raise BrokerError(f"tls_cert, tls_key: {files}: cannot be used: {error}") from error
    context.sslsocket_class = _Socket
    return context
