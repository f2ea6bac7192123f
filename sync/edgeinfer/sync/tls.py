"""How a broker proves who it is, and how this side does. Imported only where a broker wants TLS."""

import ssl

from edgeinfer.runtime.errors import BrokerError
from edgeinfer.runtime.tls_socket import TlsSocket
from edgeinfer.sync.broker import BrokerConfig

__all__ = ["tls_context"]


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
    context.sslsocket_class = TlsSocket
    return context
