"""Sound through `edgeinfer run`: packages made with `edgeinfer package create`, WAV files, results in the buffer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon_process import Daemon, configuration, results_of, run_until_end
from data_files import published
from edgeinfer.runtime.results import Kind, Result
from sounds import tone, write_wav
from stateful import loudness, loudness_model
from waiting import wait_until

WINDOW, HOP, LEAD_IN = 576, 512, 64
WORDS = ["Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown"]


def create(folder: Path, model: Path, preprocess: str, *options: str) -> None:
    command = [sys.executable, "-m", "edgeinfer", "package", "create", str(model), "--name", "m", "--version", "1.0.0"]
    command += ["--task", "classification", "--preprocess", preprocess, "-o", str(folder / "m.edgepkg"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr


def pipeline(folder: Path, name: str, wav: Path, extra: str) -> str:
    return (
        f'name = "{name}"\npackage = "{folder}/m.edgepkg"\n[pipeline.source]\nkind = "audio"\npath = "{wav}"\n{extra}'
    )


def listen(folder: Path, wav: Path, extra: str) -> list[Result]:
    """Every frame of the file is inferred; their results in order."""
    done = run_until_end(configuration(folder, pipeline(folder, "ear", wav, extra)), "--json")
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)["pipelines"]
    assert document["captured"] == document["frames"]["inferred"] == document["results"], document
    found = [result for result in results_of(folder, "ear") if result.kind is Kind.CLASSIFICATION]
    assert len(found) == document["captured"]
    return found


def scores(found: list[Result]) -> list[float]:
    return [result.items[0].score for result in found]


def windows(samples: "np.ndarray[Any, Any]", *, window: int = WINDOW, hop: int = HOP, lead_in: int = LEAD_IN) -> Any:
    return np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(lead_in), samples]), window)[::hop]


class TestAModelThatRemembers:
    SOURCE = f"window = {WINDOW}\nhop = {HOP}\nlead_in = {LEAD_IN}"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        fed = ("--state", "before=now", "--constant", "factor=3")
        create(tmp_path, loudness_model(tmp_path / "m.onnx"), f"kind=audio,length={WINDOW}", *fed)
        return tmp_path

    def test_states_go_from_frame_to_frame(self, folder: Path) -> None:
        samples = tone(20_000) * np.linspace(0, 1, 20_000)
        wav = write_wav(folder / "s.wav", samples)
        found = scores(listen(folder, wav, self.SOURCE))
        assert np.allclose(found, loudness(windows(samples), 3.0), atol=2e-3)

    def test_each_source_begins_with_zeros(self, folder: Path) -> None:
        """Two pipelines share the model's file, not what it remembers."""
        loud, quiet = tone(20_000, level=0.9), tone(20_000, level=0.01)
        texts = [
            pipeline(folder, name, write_wav(folder / f"{name}.wav", samples), self.SOURCE)
            for name, samples in (("loud", loud), ("quiet", quiet))
        ]
        done = run_until_end(configuration(folder, *texts))
        assert done.returncode == 0, done.stderr
        for name, samples in (("loud", loud), ("quiet", quiet)):
            found = scores([result for result in results_of(folder, name) if result.kind is Kind.CLASSIFICATION])
            assert np.allclose(found, loudness(windows(samples), 3.0), atol=2e-3), name

    def test_another_rate_and_two_channels(self, folder: Path) -> None:
        samples = tone(44_100, rate_hz=44_100, hertz=500.0)
        wav = write_wav(folder / "s.wav", np.stack([samples, samples], axis=1), rate_hz=44_100)
        found = scores(listen(folder, wav, self.SOURCE))
        wanted = loudness(windows(tone(16_000, hertz=500.0)), 3.0)
        assert np.allclose(found, wanted, atol=5e-3)

    def test_a_paced_file_loses_no_window_and_ends_at_once_when_told(self, folder: Path) -> None:
        wav = write_wav(folder / "s.wav", tone(16_000))
        text = pipeline(folder, "ear", wav, f"{self.SOURCE}\npaced = true\nrepeat = true")
        with Daemon(folder, configuration(folder, text)) as daemon:
            daemon.wait_for("event=started")
            daemon.wait_for("event=source_opened")
            # A window each 32 ms: some seconds' worth of none lost.
            wait_until(lambda: daemon.durable_seq() >= 40)
            daemon.end()
        found = results_of(folder, "ear")
        counts: dict[str, int] = {}
        for result in found:
            for state, count in (result.extra or {}).items() if result.kind is Kind.FRAMES else ():
                counts[state] = counts.get(state, 0) + int(count)
        inferred = [result for result in found if result.kind is Kind.CLASSIFICATION]
        assert counts["inferred"] == len(inferred) >= 40
        assert set(counts) <= {"inferred", "stale"}

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            (f"window = {HOP}", f"source.window: the package takes {WINDOW}, found {HOP}"),
            (f"window = {WINDOW}\nrate_hz = 8000", "source.rate_hz: the package takes 16000, found 8000"),
            (f"window = {WINDOW}\nlead_in = {WINDOW}", "expected a lead_in below"),
        ],
    )
    def test_sound_that_the_package_does_not_take_is_refused_at_once(self, folder: Path, extra: str, said: str) -> None:
        wav = write_wav(folder / "s.wav", tone(16_000))
        done = run_until_end(configuration(folder, pipeline(folder, "ear", wav, extra)))
        assert done.returncode == 2
        assert said in done.stderr

    def test_a_file_that_is_no_sound_fails(self, folder: Path) -> None:
        (folder / "s.wav").write_bytes(b"RIFF")
        done = run_until_end(configuration(folder, pipeline(folder, "ear", folder / "s.wav", self.SOURCE)))
        assert done.returncode == 1
        assert "s.wav: is cut" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.data
class TestKeywords:
    @pytest.mark.parametrize("model", ["kws.onnx", "kws_float.tflite"])
    @pytest.mark.parametrize(("word", "said"), [("yes", "Yes"), ("no", "No"), ("silence", "Silence")])
    def test_a_word_is_recognised(self, tmp_path: Path, data_dir: Path, model: str, word: str, said: str) -> None:
        create(tmp_path, data_dir / "tiny" / model, "kind=audio,length=16000,features=mfcc,gain=max")
        (result,) = listen(tmp_path, data_dir / "audio" / f"{word}_1000ms.wav", "window = 16000")
        assert WORDS[result.items[0].label] == said


@pytest.mark.data
class TestVoice:
    """Silero VAD: 64 samples of what was and 512 new ones, a state of (2, 1, 128), and the rate as an input."""

    @pytest.fixture
    def folder(self, tmp_path: Path, data_dir: Path) -> Path:
        fed = ("--state", "state=stateN", "--constant", "sr=16000")
        create(tmp_path, published(data_dir, "models/silero_vad_16k_op15.onnx"), f"kind=audio,length={WINDOW}", *fed)
        return tmp_path

    def test_the_probabilities_are_the_published_ones(self, folder: Path, data_dir: Path) -> None:
        found = scores(listen(folder, data_dir / "audio" / "vad_test.wav", TestAModelThatRemembers.SOURCE))
        wanted = np.load(data_dir / "audio" / "vad_test_probs.npy").reshape(-1)
        assert np.abs(np.array(found) - wanted).max() < 1e-3
        assert (len(found), sum(score > 0.5 for score in found)) == (1875, 1452)

    @pytest.mark.parametrize(("clip", "speech"), [("yes", 12), ("no", 11), ("silence", 0), ("noise", 0)])
    def test_speech_in_short_clips(self, folder: Path, data_dir: Path, clip: str, speech: int) -> None:
        wav = data_dir / "audio" / f"{clip}_1000ms.wav"
        found = scores(listen(folder, wav, TestAModelThatRemembers.SOURCE))
        assert (len(found), sum(score > 0.5 for score in found)) == (31, speech)
