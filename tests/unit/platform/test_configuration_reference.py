"""The examples of docs/configuration.md are configurations that the daemon would take."""

import re
from pathlib import Path

import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.settings import RuntimeConfig

_BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_examples_are_configurations(repository: Path) -> None:
    blocks = _BLOCK.findall((repository / "docs" / "configuration.md").read_text())
    assert len(blocks) >= 2
    for block in blocks:
        parse_config(f'device = "d"\n{block}', RuntimeConfig)


@pytest.mark.parametrize("key", ['kind = "camera"', "[governor]", "[[pipeline.rule]]", "`flush_interval_s`"])
def test_the_reference_names_every_part(repository: Path, key: str) -> None:
    assert key in (repository / "docs" / "configuration.md").read_text()
