"""What a device shows a broker beside its certificate. Read at each connect, and never kept."""

from pathlib import Path

from edgeinfer.sync.broker import BrokerConfig

__all__ = ["credentials"]


def credentials(config: BrokerConfig, identity: str) -> tuple[str, str]:
    """User name and password, each empty where there is none; `identity` is the user name of a token without one.
    Raises OSError, and ValueError for a file that holds no text."""
    if config.token_file:
        return config.username or identity, _secret(config.token_file)
    return config.username, _secret(config.password_file) if config.password_file else ""


def _secret(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
