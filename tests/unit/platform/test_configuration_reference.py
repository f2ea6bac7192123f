"""The examples of docs/configuration.md are configurations that the daemon and the agent would take."""

import re
from pathlib import Path

import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.sync.settings import SyncConfig

_BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_examples_are_configurations(repository: Path) -> None:
    daemon, heading, agent = (repository / "docs" / "configuration.md").read_text().partition("\n# The agent\n")
    assert heading
    for text, type_ in ((daemon, RuntimeConfig), (agent, SyncConfig)):
        blocks = _BLOCK.findall(text)
        assert len(blocks) >= 2
        for block in blocks:
            parse_config(block if block.startswith("device =") else f'device = "d"\n{block}', type_)


def test_the_examples_in_the_agents_file_are_right_when_they_are_switched_on(repository: Path) -> None:
    text = (repository / "packaging" / "etc" / "sync.toml").read_text()
    shown = re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)
    config = parse_config(shown, SyncConfig)
    assert config.homeassistant.enabled
    assert config.network[0].kind == "cellular"
    assert config.blobs.examples


@pytest.mark.parametrize(
    "key",
    ["[[network]]", "`bytes_per_day`", 'kind = "camera"', "[governor]", "[[pipeline.rule]]", "`flush_interval_s`"],
)
def test_the_reference_names_every_part(repository: Path, key: str) -> None:
    assert key in (repository / "docs" / "configuration.md").read_text()
