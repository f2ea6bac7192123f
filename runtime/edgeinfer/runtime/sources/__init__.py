"""Sources: where frames come from. One narrow contract, one module per kind, imported when used."""

from edgeinfer.runtime.sources.base import Source, open_source
from edgeinfer.runtime.sources.settings import SourceConfig

__all__ = ["Source", "SourceConfig", "open_source"]
