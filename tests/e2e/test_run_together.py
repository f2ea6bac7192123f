"""`edgeinfer run --with-sync`: one process that infers and delivers."""

from pathlib import Path

import pytest

from loops import Installation, Service, free_of_tracebacks
from waiting import wait_until


@pytest.mark.slow
def test_one_process_infers_and_delivers(tmp_path: Path) -> None:
    loop = Installation(tmp_path)
    loop.agent = Service(tmp_path, "unused", "--version")
    loop.daemon = Service(
        tmp_path,
        "both",
        *("run", "--config", str(tmp_path / "edgeinfer.toml"), "--with-sync", str(tmp_path / "sync.toml")),
    )
    with loop:
        wait_until(lambda: loop.acknowledged() > 50, what="acknowledged results")
        assert loop.daemon.terminate() == 0
        assert loop.console.audit("dev-1")["stored"] >= loop.acknowledged()
        assert free_of_tracebacks(tmp_path)
