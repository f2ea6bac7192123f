"""The databases where the daemon and the agent meet."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from edgeinfer.runtime.errors import BufferStorageError, ConfigError, PackageError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb, is_made
from edgeinfer.runtime.rows import Desired, Download, UpdateRow
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.store import Store
from packages import linear_model, make_package


def test_a_database_may_be_closed_while_another_thread_uses_it(tmp_path: Path) -> None:
    """SQLite takes the whole process along where it may not."""
    for number in range(50):
        db = RuntimeDb(tmp_path / f"{number}.db")
        refused = threading.Event()

        def use(db: RuntimeDb = db, refused: threading.Event = refused) -> None:
            try:
                while True:
                    db.set_status(b"{}")
                    db.models()
            except BufferStorageError:
                refused.set()

        user = threading.Thread(target=use)
        user.start()
        db.close()
        user.join()
        assert refused.is_set()


class TestSyncDb:
    def test_acknowledgements_never_go_back(self, tmp_path: Path) -> None:
        with SyncDb(tmp_path / "sync.db") as db:
            assert db.acknowledged(1) == 0
            db.set_acknowledged(1, 10)
            db.set_acknowledged(1, 5)
            db.set_acknowledged(2, 3)
            assert (db.acknowledged(1), db.acknowledged(2)) == (10, 3)

    def test_rows_survive_and_another_connection_reads_them(self, tmp_path: Path) -> None:
        path = tmp_path / "sync.db"
        download = Download("a" * 64, 100, 50, done=False, error="cut")
        with SyncDb(path) as db, SyncDb(path, read_only=True) as reader:
            db.set_desired(Desired(3, b"envelope"))
            db.set_download(download)
            db.set_counter("job:x", 1)
            assert reader.desired() == Desired(3, b"envelope")
            assert reader.download("a" * 64) == download
            assert reader.counter("job:x") == 1
            assert reader.counter("other") == 0
            db.forget_downloads(keep="b" * 64)
            assert reader.download("a" * 64) is None
            with pytest.raises(BufferStorageError, match="cannot be written"):
                reader.set_counter("x", 1)
        with SyncDb(path, read_only=True) as reader:
            assert reader.desired() == Desired(3, b"envelope")

    def test_what_is_no_database_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BufferStorageError, match="no such database"):
            SyncDb(tmp_path / "none.db", read_only=True)
        os.mkfifo(tmp_path / "fifo.db")
        with pytest.raises(BufferStorageError, match="no such database"):
            SyncDb(tmp_path / "fifo.db", read_only=True)
        (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 20)
        with pytest.raises(BufferStorageError):
            SyncDb(tmp_path / "text.db", read_only=True)

    @pytest.mark.parametrize("kind", [SyncDb, RuntimeDb])
    @pytest.mark.parametrize("damage", ["no database", "a page inside"])
    def test_a_damaged_database_is_set_aside_by_its_writer(
        self, tmp_path: Path, kind: type[SyncDb | RuntimeDb], damage: str
    ) -> None:
        path = tmp_path / "x.db"
        if damage == "no database":
            path.write_bytes(bytes(range(256)) * 32)
        else:
            kind(path).close()
            content = bytearray(path.read_bytes())
            content[4096:8192] = b"\xff" * 4096
            path.write_bytes(content)
        broken = path.read_bytes()
        with kind(path):
            pass
        with kind(path):  # and stays usable
            pass
        (aside,) = (one for one in tmp_path.glob("x.db.damaged-*") if one.suffix.startswith(".damaged"))
        assert aside.read_bytes()[4096:] == broken[4096:], "for whoever wants to look into it"

    def test_a_database_that_may_not_be_written_is_not_set_aside(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").mkdir()
        with pytest.raises(BufferStorageError, match="cannot be opened"):
            SyncDb(tmp_path / "x.db")
        assert [one.name for one in tmp_path.iterdir()] == ["x.db"]

    def test_a_wish_that_cannot_be_read_is_a_storage_error(self, tmp_path: Path) -> None:
        with SyncDb(tmp_path / "sync.db") as db:
            db._db.execute("INSERT INTO desired VALUES (1, x'ff00')")
            with pytest.raises(BufferStorageError, match="cannot be read"):
                db.desired()


class TestRuntimeDb:
    def test_the_machine_s_row_and_the_status(self, tmp_path: Path) -> None:
        with RuntimeDb(tmp_path / "runtime.db") as db:
            assert db.update() == UpdateRow()
            assert db.status() == b"{}"
            row = UpdateRow("TRIAL", job="j", finished={"i": "FAILED"})
            db.set_update(row)
            db.set_status(b'{"t_ns":1}')
            assert db.update() == row
            assert db.status() == b'{"t_ns":1}'

    def test_a_row_that_cannot_be_read_is_dropped_by_the_writer_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "runtime.db"
        with RuntimeDb(path) as db:
            db.set_slots("m", {"active": "d"})
            db._db.execute("INSERT INTO machine VALUES (1, x'c1')")
            with RuntimeDb(path, read_only=True) as reader, pytest.raises(BufferStorageError, match="cannot be read"):
                reader.update()
        with RuntimeDb(path) as db:
            assert db.update() == UpdateRow()
            assert db.slots("m") == {"active": "d"}

    def test_row_and_slots_change_together_or_not_at_all(self, tmp_path: Path) -> None:
        with RuntimeDb(tmp_path / "runtime.db") as db:
            db.commit(UpdateRow("TRIAL"), "m", {"active": "old"})
            with pytest.raises(BufferStorageError):
                db.commit(UpdateRow("COMMITTED"), "m", {"active": None})  # type: ignore[dict-item]  # fails in the middle
            assert (db.update().state, db.slots("m")) == ("TRIAL", {"active": "old"})

    def test_two_threads_may_write_with_one_connection(self, tmp_path: Path) -> None:
        """A reload and the updater do."""
        errors: list[BaseException] = []
        with RuntimeDb(tmp_path / "runtime.db") as db:

            def write(model: str) -> None:
                try:
                    for number in range(100):
                        db.set_slots(model, {"active": str(number)})
                except BaseException as error:
                    errors.append(error)
                    raise

            threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors
            assert db.models() == ("a", "b", "c")
            assert db.slots("b") == {"active": "99"}


class TestSlots:
    @pytest.fixture
    def slots(self, tmp_path: Path) -> Slots:
        model = linear_model(tmp_path / "m.onnx")
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            make_package(tmp_path / version, model, name="m", version=version)
        return Slots(RuntimeDb(tmp_path / "runtime.db"), Store(tmp_path))

    def deploy(self, slots: Slots, path: Path) -> str:
        """What the updater does at a commit."""
        digest = slots._store.install(path).digest
        now = slots.of("m")
        slots.replace("m", {**now, "active": digest, "previous": now["active"]})
        return digest

    def test_what_is_configured_runs_until_something_is_deployed(self, slots: Slots, tmp_path: Path) -> None:
        first = slots.from_config(tmp_path / "1.0.0")
        assert slots.active("m").digest == first.digest
        deployed = self.deploy(slots, tmp_path / "2.0.0")
        assert slots.from_config(tmp_path / "1.0.0").digest == deployed, "the deployed one stays over restarts"
        assert slots.of("m")["previous"] == first.digest

    def test_another_file_in_the_configuration_wins(self, slots: Slots, tmp_path: Path) -> None:
        slots.from_config(tmp_path / "1.0.0")
        deployed = self.deploy(slots, tmp_path / "2.0.0")
        third = slots.from_config(tmp_path / "3.0.0")
        assert third.manifest.version == "3.0.0"
        assert slots.of("m") == {"configured": third.digest, "active": third.digest, "previous": deployed}
        assert slots.from_config(tmp_path / "3.0.0").digest == third.digest

    def test_a_damaged_active_package_gives_way_to_the_configured_one(self, slots: Slots, tmp_path: Path) -> None:
        first = slots.from_config(tmp_path / "1.0.0")
        deployed = self.deploy(slots, tmp_path / "2.0.0")
        (slots._store.open(deployed).folder / "m.onnx").write_bytes(b"rotten")
        assert slots.from_config(tmp_path / "1.0.0").digest == first.digest
        assert slots.of("m")["active"] == first.digest

    @pytest.mark.parametrize("loss", ["gone", "damaged"])
    def test_a_configured_file_that_is_lost_is_done_without_while_a_version_is_active(
        self, slots: Slots, tmp_path: Path, loss: str
    ) -> None:
        slots.from_config(tmp_path / "1.0.0")
        deployed = self.deploy(slots, tmp_path / "2.0.0")
        (tmp_path / "1.0.0").unlink()
        if loss == "damaged":
            (tmp_path / "1.0.0").write_bytes(b"half a")
        before = slots.of("m")
        assert slots.from_config(tmp_path / "1.0.0").digest == deployed
        assert slots.of("m") == before
        with pytest.raises(ConfigError, match="no such package"):
            slots.from_config(tmp_path / "never.seen")

    def test_a_model_that_was_never_installed_is_refused(self, slots: Slots) -> None:
        with pytest.raises(PackageError, match="no package of model 'm' is installed"):
            slots.active("m")

    def test_every_digest_in_a_slot_is_kept(self, slots: Slots, tmp_path: Path) -> None:
        first = slots.from_config(tmp_path / "1.0.0").digest
        deployed = self.deploy(slots, tmp_path / "2.0.0")
        slots.put("m", "candidate", "c")
        assert slots.all_digests() == {first, deployed, "c"}
        slots.replace("m", slots.of("m"), drop="candidate")
        assert slots.all_digests() == {first, deployed}


def test_a_database_that_is_just_being_made_is_none_yet(tmp_path: Path) -> None:
    path = tmp_path / "sync.db"
    assert not is_made(path)
    begun = sqlite3.connect(path)
    begun.execute("PRAGMA journal_mode=WAL")
    assert path.exists()
    assert not is_made(path)
    begun.close()
    with SyncDb(path):
        assert is_made(path)
    assert is_made(path)
    path.write_bytes(b"rubbish" * 1000)
    assert is_made(path), "what is wrong with it is said when it is read"
