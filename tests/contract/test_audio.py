"""Sound: what a WAV file or a card gives, in windows; and what comes of files that are wrong."""

import errno
import itertools
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io.wavfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.errors import ConfigError, DependencyError, SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.manifest import AudioPre, TensorPre
from edgeinfer.runtime.sources import microphone
from edgeinfer.runtime.sources.audio_settings import check_sound
from edgeinfer.runtime.sources.base import Source, is_live, is_recorded, open_source
from edgeinfer.runtime.sources.settings import AudioSource
from reading import open_files
from sounds import tone, wav_bytes, write_wav

Array = npt.NDArray[Any]
EXTENSION = struct.pack("<HHIH", 22, 24, 0, 1) + bytes.fromhex("000000001000800000aa00389b71")


def frames(source: Source, *, most: int = 10_000) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < most and (frame := source.read()) is not None:
        found.append(frame)
    return found


def windows(config: AudioSource, *, most: int = 10_000) -> Array:
    source = open_source(config, threading.Event())
    try:
        return np.array([frame.data for frame in frames(source, most=most)])
    finally:
        source.close()
        source.close()


def sound_of(path: Path, count: int, **fields: Any) -> Array:
    """The first `count` samples."""
    found: Array = windows(AudioSource(path=str(path), window=count, **fields), most=1)[0]
    return found


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """Sample i is i / 32768."""
    return write_wav(tmp_path / "ramp.wav", np.arange(1000, dtype=np.int16))


class TestWindows:
    @pytest.mark.parametrize(
        ("window", "hop", "lead_in", "begins"),
        [
            (100, 100, 0, range(0, 1000, 100)),
            (100, 0, 0, range(0, 1000, 100)),
            (300, 100, 0, range(0, 701, 100)),
            (300, 7, 0, range(0, 701, 7)),
            (999, 1, 0, range(2)),
            (1000, 1000, 0, range(1)),
            (90, 80, 10, range(-10, 911, 80)),
            (1000, 1000, 999, [-999]),
        ],
    )
    def test_windows_overlap_and_begin_where_they_should(
        self, ramp: Path, window: int, hop: int, lead_in: int, begins: Any
    ) -> None:
        found = windows(AudioSource(path=str(ramp), window=window, hop=hop, lead_in=lead_in))
        padded = np.concatenate([np.zeros(lead_in), np.arange(1000)]) / 32_768
        wanted = [padded[begin + lead_in : begin + lead_in + window] for begin in begins]
        assert np.array_equal(found, np.array(wanted, np.float32))

    @settings(max_examples=60, deadline=None)
    @given(window=st.integers(1, 1100), hop=st.integers(1, 1100), lead_in=st.integers(0, 1000))
    def test_any_window_and_hop(self, ramp: Path, window: int, hop: int, lead_in: int) -> None:
        try:
            config = AudioSource(path=str(ramp), window=window, hop=hop, lead_in=lead_in)
            found = windows(config)
        except (ValueError, SourceError):
            assert hop > window or lead_in >= window or window - lead_in > 1000
            return
        padded = np.concatenate([np.zeros(lead_in), np.arange(1000)]).astype(np.float32) / np.float32(32_768)
        assert np.array_equal(found, np.lib.stride_tricks.sliding_window_view(padded, window)[::hop])

    def test_a_frame_has_an_array_of_its_own_and_a_number(self, ramp: Path) -> None:
        source = open_source(AudioSource(path=str(ramp), window=100, hop=50), threading.Event())
        found = frames(source)
        assert [frame.index for frame in found] == list(range(19))
        assert all(frame.data.dtype == np.float32 and frame.data.base is None for frame in found)
        assert all(a.mono_ns <= b.mono_ns for a, b in itertools.pairwise(found))
        source.close()

    def test_repeat_goes_on_without_a_seam(self, ramp: Path) -> None:
        found = windows(AudioSource(path=str(ramp), window=300, repeat=True), most=10).reshape(-1)
        assert np.array_equal(found * 32_768, np.arange(3000) % 1000)

    def test_a_file_that_is_shorter_than_a_window_may_repeat(self, tmp_path: Path) -> None:
        path = write_wav(tmp_path / "s.wav", np.arange(3, dtype=np.int16))
        found = windows(AudioSource(path=str(path), window=8, repeat=True), most=2)
        assert (found * 32_768).tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], [2, 0, 1, 2, 0, 1, 2, 0]]

    def test_a_paced_file_is_live_and_takes_its_time(self, tmp_path: Path) -> None:
        path = write_wav(tmp_path / "s.wav", tone(4000))
        began_s = time.monotonic()
        source = open_source(AudioSource(path=str(path), window=800, paced=True), threading.Event())
        found = frames(source)
        assert source.live
        assert len(found) == 5
        assert time.monotonic() - began_s >= 0.25 - 0.01
        assert found[0].mono_ns >= (began_s + 0.05 - 0.001) * 1e9, "a window is there once its last sample is"
        source.close()

    def test_a_stop_ends_the_wait(self, tmp_path: Path) -> None:
        path = write_wav(tmp_path / "s.wav", tone(16_000 * 20))
        stop = threading.Event()
        source = open_source(AudioSource(path=str(path), window=16_000 * 10, paced=True), stop)
        threading.Timer(0.05, stop.set).start()
        began_s = time.monotonic()
        assert source.read() is None
        assert time.monotonic() - began_s < 5
        source.close()


class TestFormats:
    @pytest.mark.parametrize("kind", ["u1", "<i2", "<i4", "<f4", "<f8"])
    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_what_scipy_writes(self, tmp_path: Path, kind: str, channels: int) -> None:
        rng = np.random.default_rng(0)
        if kind == "u1" or "i" in kind:
            limits = np.iinfo(kind)
            data = rng.integers(limits.min, limits.max, (50, channels), dtype=np.dtype(kind).type, endpoint=True)
            real = (data.astype(np.float64) - (128 if kind == "u1" else 0)) / (
                128 if kind == "u1" else limits.max + 1.0
            )
        else:
            data = rng.uniform(-1, 1, (50, channels)).astype(kind)
            real = data.astype(np.float64)
        scipy.io.wavfile.write(tmp_path / "s.wav", 16_000, data)
        assert np.abs(sound_of(tmp_path / "s.wav", 50) - real.mean(axis=1)).max() < 1e-6

    @pytest.mark.parametrize("extensible", [False, True])
    def test_24_bits(self, tmp_path: Path, extensible: bool) -> None:
        levels = np.array([0, 1, -1, 8_388_607, -8_388_608, 123_456])
        body = b"".join(int(level).to_bytes(3, "little", signed=True) for level in levels)
        path = tmp_path / "s.wav"
        path.write_bytes(
            wav_bytes(body=body, bits=24, tag=0xFFFE if extensible else 1, extension=EXTENSION if extensible else b"")
        )
        assert np.allclose(sound_of(path, 6), levels / 8_388_608, atol=1e-7)

    def test_floats_that_are_none_or_too_large(self, tmp_path: Path) -> None:
        body = np.array([np.nan, np.inf, -np.inf, 3.0, -3.0, 0.5], "<f4").tobytes()
        (tmp_path / "s.wav").write_bytes(wav_bytes(body=body, tag=3, bits=32))
        assert sound_of(tmp_path / "s.wav", 6).tolist() == [0, 1, -1, 1, -1, 0.5]

    def test_other_chunks_are_passed_over(self, tmp_path: Path) -> None:
        notes = b"LIST" + struct.pack("<I", 5) + b"notes\0" + b"cue " + struct.pack("<I", 0)
        (tmp_path / "s.wav").write_bytes(wav_bytes(body=b"\1\0\2\0", before=notes) + b"LIST")
        assert (sound_of(tmp_path / "s.wav", 2) * 32_768).tolist() == [1, 2]

    def test_sound_that_goes_on_until_the_end(self, tmp_path: Path) -> None:
        """What programs write into a pipe: they cannot go back to say how long it became."""
        (tmp_path / "s.wav").write_bytes(wav_bytes(body=b"\1\0\2\0\3", size=0xFFFFFFFF))
        assert (sound_of(tmp_path / "s.wav", 2) * 32_768).tolist() == [1, 2]

    @pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
    @pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
    def test_what_ffmpeg_writes_into_a_pipe(self, tmp_path: Path, codec: str) -> None:
        samples = tone(800)
        source = write_wav(tmp_path / "in.wav", np.stack([samples, samples], axis=1))
        command = ["ffmpeg", "-v", "error", "-i", str(source), "-c:a", codec, "-f", "wav", "pipe:1"]
        (tmp_path / "out.wav").write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        assert np.abs(sound_of(tmp_path / "out.wav", 800) - samples).max() < (2e-2 if codec == "pcm_u8" else 1e-4)

    @pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
    def test_another_rate_is_resampled(self, tmp_path: Path, rate_hz: int) -> None:
        path = write_wav(tmp_path / "s.wav", tone(rate_hz, rate_hz=rate_hz, hertz=1000.0), rate_hz=rate_hz)
        found = sound_of(path, 16_000)
        wanted = tone(16_000, hertz=1000.0)
        middle = slice(500, -500)
        assert np.abs(found[middle] - wanted[middle]).max() < 1e-4
        assert len(windows(AudioSource(path=str(path), window=160))) == 100, "as long as before"


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is cut"),
            (b"RIFF", "is cut"),
            (b"hello, this is no sound at all", "expected a WAV file"),
            (b"RIFX" + b"\0" * 40, "expected a WAV file"),
            (wav_bytes(body=b""), "expected sound in frames of 2 bytes, found 0"),
            (wav_bytes(body=b"\0" * 9), "found 9 bytes"),
            (wav_bytes(body=b"\0" * 8, size=10), "is cut: its header promises 10 bytes of sound, 8 are there"),
            (wav_bytes(body=b"\0" * 8, size=0xFFFFFFF0), "is cut: its header promises 4294967280"),
            (wav_bytes(body=b"\0" * 8, bits=12, frame_bytes=2), "found format 0x1 of 12 bits"),
            (wav_bytes(body=b"\0" * 8, tag=6, bits=8), "found format 0x6"),
            (wav_bytes(body=b"\0" * 8, tag=0xFFFE), "found format 0xfffe"),
            (wav_bytes(body=b"\0" * 8, channels=0), "0 at 16000"),
            (wav_bytes(body=b"\0" * 8, channels=65), "65 at 16000"),
            (wav_bytes(body=b"\0" * 8, rate_hz=0), "1 at 0"),
            (wav_bytes(body=b"\0" * 8, rate_hz=4_000_000_000), "4000000000"),
            (wav_bytes(body=b"\0" * 8, frame_bytes=4), "frames of 2 bytes, its header says 4"),
            (wav_bytes(body=b"\0" * 8, frame_bytes=0), "frames of 2 bytes, its header says 0"),
            (b"RIFF\0\0\0\0WAVEdata\x08\0\0\0" + b"\0" * 8, "expected the format before"),
            (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0\0\0\0\0", "expected a format of 16 bytes"),
            (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff", "expected a format of 16 bytes"),
            (wav_bytes(body=b"\0" * 8, before=b"LIST" + struct.pack("<I", 1 << 31)), "is cut"),
            (wav_bytes(body=b"\0" * 8, before=b"junk\0\0\0\0" * 2000), "within 1000 chunks"),
        ],
    )
    def test_they_are_refused(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "s.wav"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=said):
            open_source(AudioSource(path=str(path), window=2), threading.Event())

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        content = write_wav(tmp_path / "s.wav", np.arange(20, dtype=np.int16)).read_bytes()
        for length in range(len(content)):
            (tmp_path / "cut.wav").write_bytes(content[:length])
            with pytest.raises(SourceError, match=r"cut\.wav"):
                open_source(AudioSource(path=str(tmp_path / "cut.wav"), window=2), threading.Event())

    def test_a_file_that_shrinks_while_it_is_read(self, tmp_path: Path) -> None:
        path = write_wav(tmp_path / "s.wav", tone(100_000))
        source = open_source(AudioSource(path=str(path), window=100), threading.Event())
        assert source.read() is not None
        os.truncate(path, 20_000)
        with pytest.raises(SourceError, match="is cut"):
            frames(source)
        source.close()

    @pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "device"])
    def test_what_is_no_file(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "s.wav"
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path = Path("/dev/null")
        before = open_files()
        with pytest.raises(SourceError):
            open_source(AudioSource(path=str(path), window=2), threading.Event())
        assert open_files() <= before

    def test_sound_that_fills_no_window(self, ramp: Path) -> None:
        with pytest.raises(SourceError, match=r"at least one window of 0\.069 s, found 0\.062 s"):
            open_source(AudioSource(path=str(ramp), window=1100), threading.Event())

    def test_a_rate_in_no_simple_ratio(self, tmp_path: Path) -> None:
        path = write_wav(tmp_path / "s.wav", tone(1000), rate_hz=191_999)
        with pytest.raises(SourceError, match="simple ratio"):
            open_source(AudioSource(path=str(path), window=2), threading.Event())

    @settings(max_examples=300, deadline=None)
    @given(
        content=st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=100).map(lambda tail: b"RIFF\0\0\0\0WAVE" + tail),
            st.builds(
                wav_bytes,
                body=st.binary(max_size=64),
                tag=st.sampled_from([0, 1, 3, 0xFFFE]),
                channels=st.integers(0, 70),
                rate_hz=st.one_of(st.sampled_from([8000, 16_000, 44_100]), st.integers(0, 0xFFFFFFFF)),
                bits=st.sampled_from([8, 16, 24, 32, 64]),
                size=st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),
                extension=st.one_of(st.just(b""), st.just(EXTENSION), st.binary(max_size=30)),
            ),
        )
    )
    def test_any_bytes_give_sound_or_are_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "s.wav"
        path.write_bytes(content)
        try:
            found = windows(AudioSource(path=str(path), window=4, hop=2), most=1000)
        except SourceError:
            return
        assert np.isfinite(found).all()
        assert np.abs(found).max(initial=0.0) <= 1.2, "resampling may overshoot a little"

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), min_size=1, max_size=5))
    def test_flipped_bytes_give_sound_or_are_refused(self, tmp_path: Path, flips: list[tuple[int, int]]) -> None:
        content = bytearray(wav_bytes(body=bytes(range(16))))
        for place, value in flips:
            content[place % len(content)] = value
        path = tmp_path / "s.wav"
        path.write_bytes(bytes(content))
        try:
            windows(AudioSource(path=str(path), window=2), most=1000)
        except SourceError:
            return


class TestSettings:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({}, "either path"),
            ({"path": "a", "device": "b"}, "either path"),
            ({"path": "a", "hop": 11}, "a hop of at most"),
            ({"path": "a", "lead_in": 10}, "a lead_in below"),
            ({"device": "a", "paced": True}, "paced and repeat are for files"),
            ({"path": "a", "window": 0}, "window"),
            ({"path": "a", "rate_hz": 10}, "rate_hz"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(msgspec.ValidationError, match=said):
            msgspec.convert({"kind": "audio", "window": 10} | fields, AudioSource)

    def test_a_file_ends_and_a_card_does_not(self) -> None:
        file, card = AudioSource(path="a", window=1), AudioSource(device="a", window=1)
        assert (is_live(file), is_live(card)) == (False, True)
        assert (is_recorded(file), is_recorded(card)) == (True, False)
        assert not is_recorded(AudioSource(path="a", window=1, paced=True))

    def test_the_package_s_rate_and_length_are_the_source_s(self) -> None:
        source = AudioSource(path="a", window=100, rate_hz=8000)
        check_sound(source, AudioPre(100, rate_hz=8000))
        check_sound(source, TensorPre())
        with pytest.raises(ConfigError, match=r"source\.rate_hz: the package takes 16000, found 8000"):
            check_sound(source, AudioPre(100))
        with pytest.raises(ConfigError, match=r"source\.window: the package takes 200, found 100"):
            check_sound(source, AudioPre(200, rate_hz=8000))


LISTEN = """
import sys, threading
import numpy as np
from edgeinfer.runtime.sources.base import open_source
from edgeinfer.runtime.sources.settings import AudioSource
device, rate_hz, channels, count, out = sys.argv[1:]
source = open_source(AudioSource(device=device, rate_hz=int(rate_hz), channels=int(channels), window=512, hop=256),
                     threading.Event())
found = [source.read() for _ in range(int(count))]
times = [frame.mono_ns for frame in found]
assert source.live and times == sorted(times) and [frame.index for frame in found] == list(range(len(found)))
np.save(out, np.array([frame.data for frame in found]))
source.close()
source.close()
"""


class TestAlsa:
    """ALSA itself, without a sound card: its plug-in `file` gives what lies in a file."""

    def listen(
        self, folder: Path, samples: Array, *, device: str = "tape", rate_hz: int = 16_000, count: int = 10
    ) -> Array:
        """In a process of its own: the library reads its configuration once."""
        pytest.importorskip("alsaaudio", reason="pyalsaaudio is not installed")
        base = Path("/usr/share/alsa/alsa.conf")
        if not base.is_file():
            pytest.skip("ALSA's own configuration (libasound2-data) is not installed")
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        (folder / "tape.raw").write_bytes((samples * 32_768).astype("<i2").tobytes())
        (folder / "asoundrc").write_text(
            f'pcm.tape {{ type file slave.pcm "null" file "/dev/null" infile "{folder}/tape.raw" format "raw" }}\n'
        )
        environment = {**os.environ, "ALSA_CONFIG_PATH": f"{base}:{folder}/asoundrc"}
        arguments = [device, str(rate_hz), str(channels), str(count), str(folder / "out.npy")]
        done = subprocess.run(
            [sys.executable, "-c", LISTEN, *arguments],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if done.returncode:
            raise SourceError(done.stderr)
        found: Array = np.load(folder / "out.npy")
        return found

    def test_windows_are_what_the_tape_holds(self, tmp_path: Path) -> None:
        samples = np.rint(tone(10_000) * 32_768) / 32_768
        found = self.listen(tmp_path, samples)
        wanted = np.lib.stride_tricks.sliding_window_view(samples, 512)[::256][:10]
        assert np.array_equal(found, wanted.astype(np.float32))

    def test_channels_are_averaged(self, tmp_path: Path) -> None:
        samples = np.rint(np.stack([tone(10_000), tone(10_000, hertz=700.0)], axis=1) * 32_768) / 32_768
        found = self.listen(tmp_path, samples)
        wanted = np.lib.stride_tricks.sliding_window_view(samples.mean(axis=1), 512)[::256][:10]
        assert np.allclose(found, wanted, atol=1e-6)

    def test_no_such_card(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="sound card 'nothing' cannot be opened: No such file or directory"):
            self.listen(tmp_path, tone(100), device="nothing")


class Card:
    """In the place of alsaaudio.PCM: gives what a test lays ready. A number is an error of read, an exception is
    raised."""

    def __init__(self, given: list[Any], *, form: str = "S16_LE", rate_hz: int = 16_000, channels: int = 1) -> None:
        self.given, self.closed = given, False
        self._info = {"format_name": form, "rate": rate_hz, "channels": channels}
        self._reading, self._writing = os.pipe()
        os.write(self._writing, b"x")  # always readable

    def info(self) -> dict[str, Any]:
        return self._info

    def polldescriptors(self) -> list[tuple[int, int]]:
        return [(self._reading, 1)]

    def read(self) -> tuple[int, bytes]:
        one = self.given.pop(0) if self.given else b""
        if isinstance(one, Exception):
            raise one
        return (one, b"") if isinstance(one, int) else (len(one) // 2, one)

    def close(self) -> None:
        if not self.closed:
            os.close(self._reading)
            os.close(self._writing)
        self.closed = True


Plug = Callable[..., tuple[Source, Card]]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Opens a source on a `Card`."""

    def open_on(
        given: list[Any], *, stop: threading.Event | None = None, config: AudioSource | None = None, **card: Any
    ) -> Any:
        made = Card(given, **card)
        library = SimpleNamespace(
            PCM=lambda *_, **__: made, ALSAAudioError=OSError, PCM_CAPTURE=1, PCM_NONBLOCK=1, PCM_FORMAT_S16_LE=2
        )
        monkeypatch.setattr(microphone, "_alsaaudio", lambda: library)
        source = open_source(config or AudioSource(device="card", window=4, hop=2), stop or threading.Event())
        return source, made

    return open_on


def levels(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


class TestFaultsOfACard:
    """What no card without hardware does: overruns, silence, being unplugged."""

    def test_no_window_reaches_across_a_gap(self, plug: Plug, caplog: pytest.LogCaptureFixture) -> None:
        source, _ = plug([levels(1, 2, 3), -errno.EPIPE, levels(7, 8), levels(9, 10, 11, 12)])
        found = [(frame.data * 32_768).tolist() for frame in frames(source, most=2)]
        assert found == [[7, 8, 9, 10], [9, 10, 11, 12]]
        assert isinstance(source, microphone.Microphone)
        assert source.gaps == 1
        assert "event=sound_lost device=card gaps=1" in caplog.text
        source.close()

    def test_after_a_gap_there_is_a_lead_in_again(self, plug: Plug) -> None:
        config = AudioSource(device="card", window=4, hop=2, lead_in=2)
        source, _ = plug([levels(1, 2), levels(3, 4), -errno.EPIPE, levels(7, 8)], config=config)
        assert [(frame.data * 32_768).tolist() for frame in frames(source, most=3)] == [
            [0, 0, 1, 2],
            [1, 2, 3, 4],
            [0, 0, 7, 8],
        ]
        source.close()

    def test_many_gaps_are_one_line_of_the_log(self, plug: Plug, caplog: pytest.LogCaptureFixture) -> None:
        source, _ = plug([-errno.EPIPE, levels(1)] * 100 + [levels(1, 2, 3, 4)])
        assert source.read() is not None
        assert caplog.text.count("event=sound_lost") == 1
        source.close()

    def test_nothing_but_gaps_is_an_error(self, plug: Plug) -> None:
        source, _ = plug([-errno.EPIPE] * 100)
        with pytest.raises(SourceError, match="only gives overruns"):
            source.read()
        source.close()

    @pytest.mark.parametrize("given", [OSError("No such device [card]"), -errno.ENODEV, -errno.EIO])
    def test_a_card_that_is_unplugged(self, plug: Plug, given: Any) -> None:
        source, card = plug([levels(1, 2, 3, 4), given])
        assert source.read() is not None
        with pytest.raises(SourceError, match="sound card 'card' cannot be read"):
            source.read()
        source.close()
        assert card.closed

    def test_a_card_that_falls_silent(self, plug: Plug) -> None:
        source, _ = plug([levels(1, 2, 3)], config=AudioSource(device="card", window=4, timeout_s=0.05))
        with pytest.raises(SourceError, match=r"'card' has given nothing for \d+\.\d s"):
            source.read()
        source.close()

    def test_a_stop_ends_the_wait(self, plug: Plug) -> None:
        stop = threading.Event()
        source, _ = plug([], stop=stop)
        threading.Timer(0.05, stop.set).start()
        assert source.read() is None
        source.close()

    def test_the_card_s_own_rate_and_format_count(self, plug: Plug) -> None:
        samples = tone(48_000, rate_hz=48_000, hertz=500.0)
        data = (np.repeat(samples, 2) * (1 << 31)).astype("<i4").tobytes()
        blocks = [data[begin : begin + 8000] for begin in range(0, len(data), 8000)]
        source, _ = plug(
            list(blocks),
            config=AudioSource(device="card", window=8000),
            form="S32_LE",
            rate_hz=48_000,
            channels=2,
        )
        (frame,) = frames(source, most=1)
        assert np.abs(frame.data[500:] - tone(8000, hertz=500.0)[500:]).max() < 1e-4
        source.close()

    def test_a_format_that_nobody_reads(self, plug: Plug) -> None:
        with pytest.raises(SourceError, match=r"found DSD_U8.*plughw"):
            plug([], form="DSD_U8")

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "alsaaudio", None)
        with pytest.raises(DependencyError, match=r"edgeinfer\[audio\]"):
            open_source(AudioSource(device="default", window=4), threading.Event())


@pytest.mark.data
def test_the_clips_are_as_python_s_own_module_reads_them(data_dir: Path) -> None:
    for path in sorted((data_dir / "audio").glob("*.wav")):
        with wave.open(str(path)) as file:
            wanted = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32_768)
        assert np.array_equal(sound_of(path, len(wanted)), wanted)
