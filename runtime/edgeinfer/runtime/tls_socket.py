"""A TLS socket that is closed when its handshake fails.

context.sslsocket_class = TlsSocket
"""

import ssl

__all__ = ["TlsSocket"]

# Over 1 kB/s with 3 s there and back, two certificates take some 12 s.
_HANDSHAKE_S = 30.0


class TlsSocket(ssl.SSLSocket):
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
