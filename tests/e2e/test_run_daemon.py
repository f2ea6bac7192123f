"""`edgeinfer run` as a process: its document, its signals, its service manager, its exit statuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from daemon_process import Daemon, configuration, results_of, run_until_end
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.manifest import AnomalyPost, ImagePre, WindowPre
from edgeinfer.runtime.results import Kind
from packages import identity_model, linear_model, make_package, picture_model
from waiting import wait_until

FRAMES = 250
HOST = 'kind = "host"\ninterval_s = 0.02\nwindow = 4'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two packages and recorded inputs."""
    make_package(tmp_path / "m.edgepkg", linear_model(tmp_path / "m.onnx"), name="m", labels=["a", "b", "c"])
    make_package(
        tmp_path / "vitals.edgepkg",
        identity_model(tmp_path / "vitals.onnx", features=20),
        name="vitals",
        pre=WindowPre(4),
        post=AnomalyPost(0.5),
    )
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(FRAMES, 8)).astype(np.float32))
    return tmp_path


def tensors(folder: Path, name: str = "rec", extra: str = "") -> str:
    return (
        f'name = "{name}"\npackage = "{folder}/m.edgepkg"\n'
        f'[pipeline.source]\nkind = "tensors"\npath = "{folder}/x.npz"\n{extra}'
    )


def vitals(folder: Path, name: str = "host") -> str:
    return f'name = "{name}"\npackage = "{folder}/vitals.edgepkg"\n[pipeline.source]\n{HOST}'


class TestUntilEnd:
    def test_the_document_has_the_keys_of_the_contract(self, folder: Path) -> None:
        done = run_until_end(configuration(folder, tensors(folder), tensors(folder, "second")), "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        first, second = document["pipelines"]
        assert {
            "name",
            "captured",
            "frames",
            "results",
            "events",
            "durable_seq",
            "seconds",
            "fps",
            "package",
            "variant",
        } <= first.keys()
        assert (first["name"], second["name"]) == ("rec", "second")
        assert first["captured"] == first["results"] == first["frames"]["inferred"] == FRAMES
        assert sum(first["frames"].values()) == FRAMES
        assert first["package"] == "m 1.0.0"
        assert first["variant"] == "onnx-fp32"
        assert first["fps"] > 0
        assert first["durable_seq"] == 2 * (FRAMES + 1), "and a count of frames for each pipeline"
        for name in ("rec", "second"):
            found = [result for result in results_of(folder, name) if result.kind is Kind.CLASSIFICATION]
            assert [result.frame for result in found] == list(range(FRAMES))
        with BufferReader(folder / "state" / "buffer.db") as reader:
            assert reader.frames() == {name: {"inferred": FRAMES} for name in ("rec", "second")}

    def test_without_json_a_line_says_it(self, folder: Path) -> None:
        done = run_until_end(configuration(folder, tensors(folder)))
        assert done.returncode == 0
        assert done.stdout.startswith("rec: m 1.0.0 (onnx-fp32): 250 frames (inferred 250), 250 results")
        assert "Traceback" not in done.stderr

    def test_a_second_run_goes_on_with_the_numbers(self, folder: Path) -> None:
        config = configuration(folder, tensors(folder))
        for run in (1, 2):
            document = json.loads(run_until_end(config, "--json").stdout)
            assert document["pipelines"][0]["durable_seq"] == run * (FRAMES + 1)

    def test_standard_input_is_a_source(self, folder: Path) -> None:
        source = 'name = "in"\npackage = "{}/vitals.edgepkg"\n[pipeline.source]\nkind = "stdin"\nwindow = 4\nstride = 4'
        rows = "a,b,c,d,e\n" + "1,2,3,4,5\n" * 40
        done = run_until_end(configuration(folder, source.format(folder)), "--json", stdin=rows.encode())
        assert json.loads(done.stdout)["pipelines"][0]["frames"]["inferred"] == 10

    def test_an_empty_standard_input_is_a_failure_and_not_a_wait(self, folder: Path) -> None:
        source = 'name = "in"\npackage = "{}/vitals.edgepkg"\n[pipeline.source]\nkind = "stdin"\nwindow = 4'
        done = run_until_end(configuration(folder, source.format(folder)))
        assert done.returncode == 1
        assert "expected a CSV header" in done.stderr


class TestExitStatus:
    def check(self, done: "subprocess.CompletedProcess[str]", status: int, *parts: str) -> None:
        assert done.returncode == status, done.stderr
        assert "edgeinfer: error: " in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        for part in parts:
            assert part in done.stderr

    def test_a_missing_configuration(self, tmp_path: Path) -> None:
        self.check(run_until_end(tmp_path / "none.toml"), 2, "none.toml", "No such file")

    def test_an_unknown_key(self, folder: Path) -> None:
        config = configuration(folder, tensors(folder, extra="repaet = true"))
        self.check(run_until_end(config), 2, "'pipeline[0].source.repaet'", "did you mean 'repeat'?")

    def test_no_toml(self, folder: Path) -> None:
        self.check(run_until_end(configuration(folder, extra="= 3")), 2, "is not TOML")

    def test_a_missing_package(self, folder: Path) -> None:
        config = configuration(folder, tensors(folder))
        (folder / "m.edgepkg").unlink()
        self.check(run_until_end(config), 2, "m.edgepkg: no such package")

    def test_a_damaged_package(self, folder: Path) -> None:
        content = bytearray((folder / "m.edgepkg").read_bytes())
        content[content.index(b"MatMul")] ^= 1
        (folder / "m.edgepkg").write_bytes(content)
        self.check(run_until_end(configuration(folder, tensors(folder))), 3, "m.onnx")
        (folder / "m.edgepkg").write_bytes(content[:1000])
        self.check(run_until_end(configuration(folder, tensors(folder))), 3, "expected an edgeinfer package")

    def test_a_model_that_is_not_installed(self, folder: Path) -> None:
        config = configuration(folder, f'name = "a"\nmodel = "none"\n[pipeline.source]\n{HOST}')
        self.check(run_until_end(config), 2, "no package of model 'none'")

    def test_an_unknown_variant(self, folder: Path) -> None:
        config = configuration(folder, 'variant = "int4"\n' + tensors(folder))
        self.check(run_until_end(config), 2, "'int4'", "onnx-fp32")

    @pytest.mark.parametrize("kind", ["video", "images", "tensors"])
    def test_a_recorded_source_that_is_not_there(self, folder: Path, kind: str) -> None:
        config = configuration(
            folder, f'name = "a"\npackage = "{folder}/m.edgepkg"\n[pipeline.source]\nkind = "{kind}"\npath = "/nowhere"'
        )
        done = run_until_end(config, "--json")
        self.check(subprocess.CompletedProcess([], done.returncode, "", done.stderr), 1, "/nowhere")
        (document,) = json.loads(done.stdout)["pipelines"]
        assert "/nowhere" in document["error"]
        assert document["captured"] == 0

    def test_a_state_dir_that_cannot_be_made(self, folder: Path) -> None:
        (folder / "state").write_text("a file")
        self.check(run_until_end(configuration(folder, tensors(folder))), 2, "state_dir")

    def test_a_state_dir_in_use(self, folder: Path) -> None:
        config = configuration(folder, vitals(folder))
        with Daemon(folder, config) as daemon:
            daemon.wait_for("event=started")
            self.check(run_until_end(config), 1, "another process is writing it", "already running")
            assert daemon.process.poll() is None

    def test_debug_shows_the_traceback(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "edgeinfer", "--debug", "run", "--config", str(tmp_path / "none.toml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" in done.stderr


class TestService:
    def test_the_service_manager_is_told(self, folder: Path) -> None:
        with Daemon(folder, configuration(folder, vitals(folder)), watchdog_s=0.6) as daemon:
            wait_until(lambda: any(message.startswith("READY=1") for message in daemon.messages))
            wait_until(lambda: daemon.messages.count("WATCHDOG=1") >= 3)
            daemon.end()
            wait_until(lambda: "STOPPING=1" in daemon.messages)
            assert daemon.messages.index("STOPPING=1") > daemon.messages.index("WATCHDOG=1")
            assert daemon.process.returncode == 0
            assert not any("Traceback" in line for line in daemon.log)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_within_two_seconds_with_everything_durable(
        self, folder: Path, number: signal.Signals
    ) -> None:
        config = configuration(
            folder, tensors(folder, extra="repeat = true"), vitals(folder), extra="[buffer]\nflush_interval_s = 3600"
        )
        with Daemon(folder, config) as daemon:
            wait_until(lambda: daemon.pipeline("rec").get("results", 0) > 500)
            daemon.end(number)
            assert daemon.process.returncode == 0
            status = daemon.status()
        stored = {name: results_of(folder, name) for name in ("rec", "host")}
        with BufferReader(folder / "state" / "buffer.db") as reader:
            counts, frames = reader.audit_counts(), reader.frames()
        assert counts["made"] == counts["durable"] == sum(len(rows) for rows in stored.values())
        for name, rows in stored.items():
            found = status["pipelines"][name]
            assert found["captured"] == sum(frames[name].values()) == sum(found["frames"].values())
            inferred = [row.frame for row in rows if row.kind not in {Kind.FRAMES}]
            assert len(inferred) == frames[name]["inferred"]
            assert inferred == sorted(set(inferred)), "each once, in order"

    def test_kill_9_loses_no_more_than_the_interval(self, folder: Path) -> None:
        config = configuration(
            folder, tensors(folder, extra="repeat = true"), extra="[buffer]\nflush_interval_s = 0.05"
        )
        for _ in range(3):
            with Daemon(folder, config) as daemon:
                daemon.wait_for("event=started")
                before = daemon.durable_seq()
                wait_until(lambda daemon=daemon, b=before: daemon.durable_seq() > b + 200)  # type: ignore[misc]  # bound in the loop
                said = daemon.durable_seq()
                daemon.process.kill()
                daemon.process.wait()
            with BufferReader(folder / "state" / "buffer.db") as reader:
                assert reader.durable_seq() >= said
                following = 1
                for chunk in reader.chunks(0, limit=1_000_000):
                    assert chunk.first_seq == following
                    following += chunk.n

    def test_a_reload_changes_pipelines_and_leaves_the_others(self, folder: Path) -> None:
        config = configuration(folder, vitals(folder))
        with Daemon(folder, config) as daemon:
            wait_until(lambda: daemon.pipeline("host").get("captured", 0) > 5)
            configuration(folder, vitals(folder), vitals(folder, "more"))
            daemon.send(signal.SIGHUP)
            daemon.wait_for("event=reloaded pipelines=2")
            wait_until(lambda: daemon.pipeline("more").get("captured", 0) > 5)
            configuration(folder, vitals(folder, "more"))
            daemon.send(signal.SIGHUP)
            daemon.wait_for("event=reloaded pipelines=1")
            wait_until(lambda: list(daemon.status()["pipelines"]) == ["more"])
            kinds = ("RELOADING=1", "READY=1")
            wait_until(lambda: [sum(m.startswith(kind) for m in daemon.messages) for kind in kinds] == [2, 3])
            daemon.end()
        with BufferReader(folder / "state" / "buffer.db") as reader:
            for name, states in reader.frames().items():
                assert states["inferred"] == len([r for r in results_of(folder, name) if r.kind is Kind.ANOMALY])

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("nonsense = ", "is not TOML"),
            ('device = "dev-2"\n', "without a restart"),
            ('device = "dev-1"\nstate_dir = "FOLDER/state"\npipelines = 3\n', "did you mean 'pipeline'?"),
            (
                (
                    'device = "dev-1"\nstate_dir = "FOLDER/state"\n[[pipeline]]\nname = "x"\npackage = "/none"\n'
                    '[pipeline.source]\nkind = "host"\n'
                ),
                "no such package",
            ),
        ],
        ids=["toml", "device", "key", "package"],
    )
    def test_a_bad_reload_keeps_the_old_configuration(self, folder: Path, text: str, part: str) -> None:
        config = configuration(folder, vitals(folder))
        with Daemon(folder, config) as daemon:
            wait_until(lambda: daemon.pipeline("host").get("captured", 0) > 2)
            config.write_text(text.replace("FOLDER", str(folder)))
            daemon.send(signal.SIGHUP)
            daemon.wait_for("event=reload_failed")
            assert any(part in line for line in daemon.log), daemon.log
            captured = daemon.pipeline("host")["captured"]
            wait_until(lambda: daemon.pipeline("host")["captured"] > captured + 5)
            daemon.end()
            assert not any("Traceback" in line for line in daemon.log)

    def test_a_camera_that_is_not_there_keeps_nothing_else_from_running(self, folder: Path) -> None:
        make_picture_package(folder)
        camera = (
            f'name = "cam"\npackage = "{folder}/p.edgepkg"\n[pipeline.source]\nkind = "camera"\ndevice = "/dev/video93"'
        )
        with Daemon(folder, configuration(folder, camera, vitals(folder))) as daemon:
            daemon.wait_for("event=source_failed pipeline=cam", times=3)
            waits = [
                float(line.split("retry_s=")[1].split()[0])
                for line in daemon.log
                if "pipeline=cam" in line and "retry_s" in line
            ]
            assert waits[2] > waits[0], "waits grow"
            wait_until(lambda: daemon.pipeline("host").get("captured", 0) > 5)
            found = daemon.pipeline("cam")
            assert found["source"] == "waiting"
            assert "/dev/video93" in found["error"]
            daemon.end()

    def test_a_damaged_deployed_package_does_not_keep_the_device_from_inferring(self, folder: Path) -> None:
        config = configuration(folder, tensors(folder))
        assert run_until_end(config).returncode == 0
        (stored,) = (folder / "state" / "models" / "packages").iterdir()
        (stored / "m.onnx").write_bytes(b"rotten")
        done = run_until_end(config, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pipelines"][0]["frames"]["inferred"] == FRAMES

    def test_a_damaged_buffer_does_not_keep_the_device_from_inferring(self, folder: Path) -> None:
        (folder / "state").mkdir()
        (folder / "state" / "buffer.db").write_bytes(os.urandom(10_000))
        done = run_until_end(configuration(folder, tensors(folder)), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pipelines"][0]["durable_seq"] == FRAMES + 1
        assert len(list((folder / "state").glob("buffer.db.damaged-????????"))) == 1


def make_picture_package(folder: Path) -> None:
    """A linear model over small pictures."""
    make_package(
        folder / "p.edgepkg", picture_model(folder / "p.onnx", width=4, height=4), name="p", pre=ImagePre(4, 4)
    )
