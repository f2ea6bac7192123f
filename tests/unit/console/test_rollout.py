"""Decisions about rollouts."""

import itertools

import msgspec
import pytest

from edgeinfer.console import rollout as decisions
from edgeinfer.console.repository.base import Deployment, Device, Package
from edgeinfer.runtime.errors import UsageError
from edgeinfer.sync.messages import JobStatus, is_name


def _device(name: str, *groups: str) -> Device:
    return Device(
        name=name, first_seen_ns=1, last_seen_ns=1, online=True, session="", agent_version="1", groups=groups,
        profile={}, engines={}, reported={}, telemetry={}, refused=0,
    )  # fmt: skip


def _deployment(state: str, *, rollout: int = 1, model: str = "digits", digest: str = "d1") -> Deployment:
    return Deployment(
        rollout=rollout, device="a", job=f"r{rollout}-1", digest=digest, model=model, state=state,
        desired_version=1, created_ns=1, changed_ns=1,
    )  # fmt: skip


def _package(digest: str, name: str = "digits") -> Package:
    return Package(
        digest=digest, name=name, version="1.0.0", task="classification", blob_sha256="b" * 64, blob_bytes=5,
        added_ns=1, labels=(), label_offset=0, variants=(), signed_by="",
    )  # fmt: skip


DEVICES = [_device("a", "north"), _device("b", "north", "canary"), _device("c")]


@pytest.mark.parametrize(
    ("target", "names"),
    [("all", ["a", "b", "c"]), ("device:b", ["b"]), ("group:north", ["a", "b"]), ("group:canary", ["b"])],
)
def test_targets(target: str, names: list[str]) -> None:
    assert decisions.choose_devices(target, DEVICES) == names


@pytest.mark.parametrize("target", ["", "some", "device:", "device:zz", "group:", "group:zz", "device:<b>", "all:x"])
def test_a_target_that_means_nobody_is_refused(target: str) -> None:
    with pytest.raises(UsageError):
        decisions.choose_devices(target, DEVICES)


def test_nobody_is_not_all() -> None:
    with pytest.raises(UsageError, match="none has connected"):
        decisions.choose_devices("all", [])


def test_a_job_has_a_name_that_fits_a_topic() -> None:
    assert is_name(decisions.job_name(10**9, 10**6))


def test_a_deployment_goes_through_its_states_to_success() -> None:
    deployment = _deployment(decisions.PENDING)
    for t_ns, state in enumerate(("ASSIGNED", "DOWNLOADING", "GATE", "TRIAL", "COMMITTED", "REPORTED"), start=2):
        changed = decisions.after_report(deployment, JobStatus("r1-1", 1, state), t_ns=t_ns)
        assert changed is not None
        assert (changed.state, changed.changed_ns) == (state, t_ns)
        deployment = changed
    assert deployment.state in decisions.FINAL


@pytest.mark.parametrize(("current", "reported"), list(itertools.product(sorted(decisions.FINAL), decisions.PROGRESS)))
def test_an_older_report_never_undoes_an_end(current: str, reported: str) -> None:
    changed = decisions.after_report(_deployment(current), JobStatus("r1-1", 1, reported), t_ns=9)
    rolling_back = current in decisions.SUCCESSES and reported == "ROLLING_BACK"
    assert (changed is not None) == rolling_back


def test_a_committed_device_may_still_roll_back() -> None:
    status = JobStatus("r1-1", 1, "ROLLED_BACK", reason="it crashed")
    changed = decisions.after_report(_deployment("COMMITTED"), status, t_ns=9)
    assert changed is not None
    assert (changed.state, changed.reason) == ("ROLLED_BACK", "it crashed")


@pytest.mark.parametrize("state", ["", "IDLE", "PENDING", "SUPERSEDED", "hacked"])
def test_states_that_no_device_reports_change_nothing(state: str) -> None:
    assert decisions.after_report(_deployment("GATE"), JobStatus("r1-1", 1, state), t_ns=9) is None


def test_the_same_report_again_changes_nothing() -> None:
    status = JobStatus("r1-1", 1, "DOWNLOADING", offset=5, bytes=10)
    once = decisions.after_report(_deployment("ASSIGNED"), status, t_ns=2)
    assert once is not None
    assert decisions.after_report(once, status, t_ns=3) is None
    further = decisions.after_report(once, msgspec.structs.replace(status, offset=6), t_ns=4)
    assert further is not None
    assert further.offset == 6


def test_a_device_is_to_run_the_newest_of_each_model_that_did_not_fail() -> None:
    deployments = [
        _deployment("FAILED", rollout=4, digest="d4"),
        _deployment("PENDING", rollout=3, model="vitals", digest="v3"),
        _deployment("COMMITTED", rollout=2, digest="d2"),
        _deployment("COMMITTED", rollout=1, digest="d1"),
    ]
    packages = {d: _package(d) for d in ("d1", "d2", "d4")} | {"v3": _package("v3", "vitals")}
    state = decisions.desired_state("a", deployments, packages, version=9, issued_s=5)
    assert (state.version, state.device, state.issued_s) == (9, "a", 5)
    assert [(a.model, a.digest, a.job) for a in state.assignments] == [
        ("vitals", "v3", "r3-1"),
        ("digits", "d2", "r2-1"),
    ]


def test_a_later_rollout_of_the_same_model_supersedes_what_is_unfinished() -> None:
    existing = [_deployment("DOWNLOADING"), _deployment("COMMITTED"), _deployment("GATE", model="vitals")]
    assert [(d.model, d.state) for d in decisions.superseded(existing, model="digits")] == [("digits", "SUPERSEDED")]


def test_an_outcome_adds_up() -> None:
    states = ["COMMITTED", "REPORTED", "FAILED", "ROLLED_BACK", "SUPERSEDED", "PENDING", "GATE"]
    outcome = decisions.outcome([_deployment(state) for state in states])
    assert (outcome["devices"], outcome["succeeded"], outcome["failed"]) == (7, 2, 2)
    assert (outcome["superseded"], outcome["running"]) == (1, 2)
