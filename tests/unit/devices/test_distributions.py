"""Versions of installed distributions, held against what importlib.metadata says."""

from importlib.metadata import distributions

import pytest

from edgeinfer.devices.distributions import installed_version

NAMES = sorted({distribution.metadata["Name"] for distribution in distributions()})


@pytest.mark.parametrize("name", ["numpy", "onnxruntime", "ai-edge-litert", "AI_Edge.LiteRT", "opencv-python-headless"])
def test_the_engines_are_found_however_they_are_written(name: str) -> None:
    from importlib.metadata import version

    assert installed_version(name) == version(name)


def test_every_installed_distribution_is_found() -> None:
    versions = {d.metadata["Name"]: d.version for d in distributions() if ".egg-info" not in str(d.files)[:0]}
    assert {name: installed_version(name) for name in NAMES} == {name: versions[name] for name in NAMES}


def test_what_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-distribution") == ""
    assert installed_version("num") == ""
