"""Commands as values: which are carried out, and what of a log may leave the device."""

import logging

import msgspec
import pytest

from edgeinfer.sync.commands import TOLERANCE_S, why_not
from edgeinfer.sync.device_logs import in_parts
from edgeinfer.sync.log_ring import listening, without_secrets
from edgeinfer.sync.messages import Command

NOW_S = 1_800_000_000
GOOD = Command(id="c-1", device="dev-1", kind="logs", issued_s=NOW_S - 10, expires_s=NOW_S + 600)


def judged(**changes: object) -> str:
    return why_not(msgspec.structs.replace(GOOD, **changes), device="dev-1", now_s=NOW_S)


def test_a_good_command_is_carried_out() -> None:
    assert judged() == ""
    assert judged(issued_s=NOW_S + TOLERANCE_S, expires_s=NOW_S + TOLERANCE_S + 1) == ""
    assert judged(issued_s=NOW_S - 1000, expires_s=NOW_S - TOLERANCE_S) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "dev-2"}, "for dev-1"),
        ({"id": "../x"}, "an id of letters"),
        ({"kind": "reboot"}, "of one of the kinds logs, bench, cancel, found 'reboot'"),
        ({"issued_s": NOW_S + TOLERANCE_S + 1, "expires_s": NOW_S + 1000}, "after now"),
        ({"expires_s": NOW_S - TOLERANCE_S - 1, "issued_s": NOW_S - 1000}, "expired"),
        ({"expires_s": NOW_S + 86_401 - 10}, "at most 86400"),
        ({"issued_s": NOW_S, "expires_s": NOW_S - 1}, "at most 86400"),
    ],
)
def test_what_is_not_carried_out(changes: dict[str, object], reason: str) -> None:
    assert reason in judged(**changes)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("opening rtsp://admin:hunter2@camera/1", "opening rtsp://***@camera/1"),
        ("event=x password=hunter2 host=a", "event=x password=*** host=a"),
        ('{"mqtt_password": "hunter2", "host": "a"}', '{"mqtt_password": ***, "host": "a"}'),
        ("API-Key: abc, next", "API-Key: ***, next"),
        ("Authorization: Bearer abcdefghijkl.mno", "Authorization: Bearer ***"),
        ("sent bearer abcdefghijklmno", "sent bearer ***"),
        ("token='a b c' n=1", "token=*** n=1"),
        ("event=started device=dev-1", "event=started device=dev-1"),
    ],
)
def test_secrets_stay_on_the_device(line: str, kept: str) -> None:
    assert without_secrets(line) == kept


def test_lines_are_bounded() -> None:
    assert len(without_secrets("x." * 100_000)) == 2000


def test_the_ring_keeps_the_latest_records_in_order() -> None:
    logger = logging.getLogger("edgeinfer.test_ring")
    with listening() as ring:
        for number in range(700):
            logger.error("event=numbered number=%d\nsecond line", number)
        logger.error("event=bug", exc_info=RuntimeError("broken"))
    logger.error("event=not_heard")
    lines = ring.lines(1000)
    assert len(lines) == 500
    assert lines[-1].endswith("ERROR event=bug [RuntimeError('broken')]")
    assert "number=699 second line" in lines[-2]
    assert len(ring.lines(3)) == 3
    assert ring.lines(0) == []


def test_parts_are_whole_lines_of_at_most_48_kib() -> None:
    lines = [f'{number} "{"é" * 500}' for number in range(300)]
    parts = in_parts(lines)
    assert [line for part in parts for line in part] == lines
    assert len(parts) > 1
    assert max(len(msgspec.json.encode(part)) for part in parts) <= (48 << 10) + 2
    assert in_parts([]) == [()]
