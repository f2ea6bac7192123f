"""What a configuration may say of the local page and the metrics."""

from edgeinfer.runtime.config import Section

__all__ = ["LocalConfig"]


class LocalConfig(Section, frozen=True):
    """`listen`: a loopback address and port (`127.0.0.1:9464`), or `unix:PATH`. Nothing else is allowed: there are
    no accounts."""

    listen: str = "127.0.0.1:9464"
    page: bool = True
    metrics: bool = True
