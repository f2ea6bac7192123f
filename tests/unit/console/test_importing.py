"""What a console takes of a stick, and what it says about it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import append, fill
from carried import DEVICE, MemoryConsole, carrier, stick_at
from edgeinfer.console.importing import import_folder
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.errors import ConsoleError, StorageError, UsageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.export.exporting import export
from edgeinfer.sync.export.layout import manifest_name, receipt_name
from edgeinfer.sync.sinks.framing import Frame


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    (tmp_path / "runtime").mkdir()
    made = fill(tmp_path, 2000)
    yield made
    made.close()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    return stick_at(tmp_path)


@pytest.fixture
def console() -> MemoryConsole:
    return MemoryConsole()


def test_there_and_back(tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole) -> None:
    exported = export(carrier(tmp_path, console.key), stick, max_file_bytes=1500)
    report = import_folder(stick, console)
    (epoch,) = report.epochs
    assert report.ok
    assert (epoch.device, epoch.epoch, epoch.files) == (DEVICE, buffer.epoch, len(exported.files))
    assert (epoch.stored, epoch.duplicates, epoch.gaps, epoch.acknowledged) == (2000, 0, (), 2000)
    assert (epoch.first_seq, epoch.last_seq, epoch.notes) == (1, 2000, ())
    append(buffer, 2000, 100)
    again = export(carrier(tmp_path, console.key), stick)
    with SyncDb(tmp_path / "sync" / "sync.db", read_only=True) as db:
        assert db.acknowledged(buffer.epoch) == 2000
    assert (again.first_seq, again.last_seq) == (2001, 2100)
    (second,) = import_folder(stick, console).epochs
    assert (second.stored, second.duplicates, second.acknowledged) == (100, 0, 2100)


def test_importing_again_does_no_harm(tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole) -> None:
    del buffer
    export(carrier(tmp_path), stick)
    import_folder(stick, console)
    (epoch,) = import_folder(stick, console).epochs
    assert (epoch.stored, epoch.duplicates, epoch.acknowledged) == (0, 2000, 2000)


def test_a_damaged_file_is_named_and_the_rest_is_taken(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole
) -> None:
    exported = export(carrier(tmp_path, console.key), stick, max_file_bytes=1500)
    bad = stick / exported.files[1]
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    report = import_folder(stick, console)
    (epoch,) = report.epochs
    assert not report.ok
    assert [damaged.name for damaged in report.damaged] == [bad.name]
    assert "cut off" in report.damaged[0].reason
    ((low, high),) = epoch.gaps
    assert epoch.acknowledged == low - 1
    assert epoch.stored == 2000 - (high - low + 1)
    assert any(bad.name in note for note in epoch.notes)
    # Back at the device: what the console lacks is exported again, and only that counts which it has.
    again = export(carrier(tmp_path, console.key), stick)
    with SyncDb(tmp_path / "sync" / "sync.db", read_only=True) as db:
        assert db.acknowledged(buffer.epoch) == low - 1
    assert (again.last_seq, again.complete) == (2000, True)
    (last,) = import_folder(stick, console).epochs
    assert (last.gaps, last.acknowledged) == ((), 2000)


def test_what_was_damaged_after_a_second_export_is_still_missed(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole
) -> None:
    """The newer file must not say that what is on the older one can never come."""
    (first,) = export(carrier(tmp_path, console.key), stick).files
    append(buffer, 2000, 500)
    export(carrier(tmp_path, console.key), stick)
    (stick / first).write_bytes(b"EIEX")
    (epoch,) = import_folder(stick, console).epochs
    assert (epoch.acknowledged, epoch.stored, epoch.gaps) == (0, 500, ((1, 2000),))
    assert console.books(DEVICE)[buffer.epoch].missing == 0
    export(carrier(tmp_path, console.key), stick)
    (epoch,) = import_folder(stick, console).epochs
    assert (epoch.acknowledged, epoch.gaps) == (2500, ())


def test_another_tenants_files_are_not_taken(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole
) -> None:
    del buffer
    export(carrier(tmp_path), stick)
    console.tenant = "elsewhere"
    report = import_folder(stick, console)
    assert (report.ok, report.epochs) == (False, ())
    assert "tenant" in report.damaged[0].reason


def test_an_unfinished_export_is_taken_as_far_as_it_is_whole(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole
) -> None:
    exported = export(carrier(tmp_path), stick, max_file_bytes=1500)
    (stick / manifest_name(DEVICE, buffer.epoch)).unlink()
    last = stick / exported.files[-1]
    last.rename(last.with_name(f"{last.name}.part"))
    (epoch,) = import_folder(stick, console).epochs
    assert 0 < epoch.acknowledged < 2000
    assert "not finished" in epoch.notes[0]


def test_several_devices_share_a_stick(tmp_path: Path, stick: Path, console: MemoryConsole) -> None:
    buffers = []
    for name in ("a", "b"):
        (tmp_path / name / "runtime").mkdir(parents=True)
        buffers.append(fill(tmp_path / name, 300))
        export(carrier(tmp_path / name, device=f"dev-{name}"), stick)
    report = import_folder(stick, console)
    assert [(epoch.device, epoch.stored) for epoch in report.epochs] == [("dev-a", 300), ("dev-b", 300)]
    for buffer in buffers:
        buffer.close()


def test_a_console_that_fails_in_the_middle_can_be_asked_again(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export(carrier(tmp_path), stick, max_file_bytes=1500)
    honest, left = console.hand_in, len(exported.files) - 1

    def failing(device: str, frames: list[Frame]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConsoleError("away")
        honest(device, frames)

    monkeypatch.setattr(console, "hand_in", failing)
    with pytest.raises(ConsoleError, match="away"):
        import_folder(stick, console)
    assert not (stick / receipt_name(DEVICE, buffer.epoch)).exists()
    left = 1000
    (epoch,) = import_folder(stick, console).epochs
    assert epoch.acknowledged == 2000


def test_where_the_console_has_something_else_nothing_is_signed(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(carrier(tmp_path), stick)
    honest = console.hand_in

    def belied(device: str, frames: list[Frame]) -> None:
        console.conflicts += 1
        honest(device, frames)

    monkeypatch.setattr(console, "hand_in", belied)
    report = import_folder(stick, console)
    assert not report.ok
    assert (report.epochs[0].conflicts, report.epochs[0].receipt) == (1, "")
    assert not (stick / receipt_name(DEVICE, buffer.epoch)).exists()


def test_a_receipt_that_cannot_be_left_is_said(
    tmp_path: Path, buffer: Buffer, stick: Path, console: MemoryConsole
) -> None:
    export(carrier(tmp_path), stick)
    (stick / receipt_name(DEVICE, buffer.epoch)).mkdir()
    with pytest.raises(StorageError, match="everything is stored"):
        import_folder(stick, console)
    assert console.books(DEVICE)[buffer.epoch].acknowledged == 2000


def test_an_empty_stick(stick: Path, console: MemoryConsole) -> None:
    with pytest.raises(UsageError, match="none"):
        import_folder(stick, console)
    with pytest.raises(UsageError, match="mounted"):
        import_folder(stick / "nothing", console)
