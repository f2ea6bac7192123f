"""kill -9 at random moments, also during starts, of daemon, agent, console and broker while they work: what was durable
is in the console's database, once."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from campaign import Campaign
from edgeinfer.runtime.results import OF_A_FRAME
from fault_report import FaultReport
from loops import DEVICE, Installation, free_of_tracebacks
from stored import doubled, integrity, stored_results


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, faults: FaultReport) -> None:
    kills = faults.size(ci=40, full=1000)
    print(f"seed={faults.seed}")
    with Installation(tmp_path) as loop:
        campaign = Campaign(loop, random.Random(faults.seed))
        campaign.run(kills)
        made = campaign.finish()
        audit = loop.console.audit(DEVICE)
        assert loop.console.terminate() == 0

        rows = stored_results(tmp_path / "console" / "console.db", DEVICE)
        numbers = [row.seq for row in rows]
        faults.add(
            "kill -9", times=sum(campaign.kills.values()), made=made, durable=campaign.durable, stored=len(rows),
            refused=audit["duplicates"], lost=made - len(set(numbers)), doubled=doubled(rows),
            gaps=audit["gaps"], **campaign.kills,
        )  # fmt: skip
        assert numbers == list(range(1, made + 1)), "the console has exactly what was durable, each once"
        assert len({row.epoch for row in rows}) == 1
        assert (audit["stored"], audit["gaps"]) == (made, 0)
        assert integrity(tmp_path / "console" / "console.db") == ["ok"]

        held = {seq: (pipeline, result.frame, result.t_ns) for seq, pipeline, result in loop.buffered()}
        assert set(held) == set(range(min(held), made + 1)), "the device's own numbering has no holes"
        assert {row.seq: (row.pipeline, row.frame, row.t_ns) for row in rows if row.seq in held} == held
        if min(held) == 1:
            inferred = sum(1 for _, _, result in loop.buffered() if result.kind in OF_A_FRAME)
            assert loop.frames()["inferred"] == inferred, "the count of frames has not lost what the results prove"
        own = device_audit(tmp_path)
        assert (own["made"], own["durable"], own["acknowledged"]) == (made, made, made)
        assert free_of_tracebacks(tmp_path)


def device_audit(folder: Path) -> dict[str, Any]:
    """What `edgeinfer audit` says at the device; it finds nothing wrong."""
    folders = ["--state-dir", str(folder / "device"), "--sync-dir", str(folder / "agent")]
    command = [sys.executable, "-m", "edgeinfer", "audit", *folders, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document
