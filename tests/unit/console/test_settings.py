"""The console's configuration."""

from pathlib import Path

import pytest

from edgeinfer.console.settings import ConsoleConfig, is_loopback, load_console_config, read_token
from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError


def test_an_empty_file_is_a_configuration() -> None:
    config = parse_config("", ConsoleConfig)
    assert (config.tenant, config.web.host, config.web.port, config.broker.port) == ("default", "127.0.0.1", 8080, 1883)


def test_an_open_door_needs_a_token() -> None:
    with pytest.raises(ConfigError, match="token_file"):
        parse_config('[web]\nhost = "0.0.0.0"', ConsoleConfig)
    parse_config('[web]\nhost = "0.0.0.0"\ntoken_file = "t"', ConsoleConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tenannt = 'x'", "tenant"),
        ("[web]\nprot = 1", "port"),
        ("[web]\nport = 70000", "65535"),
        ("tenant = 'a/b'", "name"),
        ("[broker]\nhots = 'x'", "host"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text, ConsoleConfig)


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "console.toml").write_text('data_dir = "data"\n[web]\ntoken_file = "/etc/token"\n')
    config = load_console_config(tmp_path / "console.toml")
    assert (config.data_dir, config.web.token_file) == (str(tmp_path / "data"), "/etc/token")


@pytest.mark.parametrize("content", [None, "short", b"\xff" * 40])
def test_a_token_that_cannot_be_used_is_refused(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = parse_config(f'[web]\ntoken_file = "{path}"', ConsoleConfig)
    with pytest.raises(ConfigError, match="token_file"):
        read_token(config.web)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("192.0.2.1", False),
        ("host", False),
    ],
)
def test_loopback(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback
