"""Models of several inputs, and models that leave sizes open: what feeds them, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.quantize.commands import create_package
from edgeinfer.quantize.feeding import Feeding, OneInput, parse_feeding
from edgeinfer.quantize.preprocessing import declare, model_rows
from edgeinfer.quantize.rows import stacked
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ConfigError, SamplesError, UsageError
from edgeinfer.runtime.gate import run_gate
from edgeinfer.runtime.manifest import AudioPre, Constant, StateTensor, TensorPre, TensorSpec
from edgeinfer.runtime.preprocess import compile_preprocess
from edgeinfer.runtime.store import Store
from stateful import loudness, loudness_model

FED: dict[str, Any] = {"states": ["before=now"], "constants": ["factor=3"]}


def create(folder: Path, **fields: Any) -> Path:
    path = folder / "m.edgepkg"
    given = {"preprocess": "kind=audio,length=20"} | FED | fields
    create_package(
        [loudness_model(folder / "m.onnx")], task="classification", name="m", version="1.0.0", output=path, **given
    )
    return path


def test_what_the_options_say() -> None:
    assert parse_feeding(["a=b"], ["c=16000", "d=-0.5"]) == Feeding(
        (StateTensor("a", "b"),), (Constant("c", 16_000.0), Constant("d", -0.5))
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"states": ["before"]}, "--state: expected NAME=VALUE, found 'before'"),
        ({"states": ["=now"]}, "--state: expected NAME=VALUE"),
        ({"constants": ["factor=much"]}, "--constant: expected a number for factor, found 'much'"),
        ({"constants": ["factor=nan"]}, "expected a number"),
        ({"states": []}, r"m\.onnx: expected a model with one input for the frame, found 2: before, sound"),
        ({"constants": ["factor=1", "sound=2"]}, "one input for the frame, found 0"),
        ({"constants": ["factor=1", "before=2"]}, "one input for the frame"),
        (
            {"states": ["after=now"]},
            r"m\.onnx: expected an input of the model \(before, sound, factor\), found 'after'",
        ),
        ({"states": ["before=then"]}, r"expected an output of the model \(now\), found 'then'"),
        ({"preprocess": ""}, "fixed sizes after it"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        create(tmp_path, **fields)
    assert not (tmp_path / "m.edgepkg").exists()


@pytest.mark.parametrize("preprocess", ["kind=tensor", "kind=audio"])
def test_sizes_that_stay_open_are_refused(tmp_path: Path, preprocess: str) -> None:
    with pytest.raises(ConfigError, match=r"open|length of the sound"):
        create(tmp_path, preprocess=preprocess)


def test_a_package_of_it_passes_its_gate(tmp_path: Path) -> None:
    installed = Store(tmp_path / "state").install(create(tmp_path))
    (variant,) = installed.manifest.variants
    assert variant.states == (StateTensor("before", "now"),)
    assert variant.constants == (Constant("factor", 3.0),)
    assert [spec.shape for spec in variant.inputs] == [(1, 1), (-1, -1), ()]
    assert installed.manifest.preprocess == AudioPre(20)
    golden = installed.manifest.golden
    assert golden is not None
    with np.load(installed.folder / golden.file) as vectors:
        sound, now = vectors["input"], vectors[f"{variant.id}/0"]
    assert sound.shape == (golden.count, 20)
    # Each golden vector is the first frame of a source.
    assert np.allclose(now.reshape(-1), [loudness(one[None], 3.0)[0] for one in sound])
    assert run_gate(installed).variant == variant.id


def test_golden_inputs_of_an_open_tensor(tmp_path: Path) -> None:
    installed = Store(tmp_path / "state").install(create(tmp_path, preprocess="kind=tensor,shape=20"))
    assert installed.manifest.preprocess == TensorPre((20,))
    assert run_gate(installed).variant


def test_each_call_of_one_input_is_the_first(tmp_path: Path) -> None:
    engine = OneInput(load_engine("onnx", loudness_model(tmp_path / "m.onnx")), parse_feeding(**FED))
    sound = np.ones((1, 5), np.float32)
    assert [float(engine.run([sound])[0][0, 0]) for _ in range(3)] == [3.0, 3.0, 3.0]
    assert [spec.name for spec in engine.inputs] == ["sound"]
    engine.close()


class TestAudio:
    """What `--preprocess kind=audio` says."""

    MFCC = TensorSpec("x", (-1, 49, 10, 1), "float32")

    def test_a_declaration_of_keyword_spotting(self) -> None:
        declared = declare("kind=audio,length=16000,features=mfcc,gain=max,scale=2,mean=1,raw=true", self.MFCC)
        assert declared.preprocess == AudioPre(16_000, features="mfcc", gain="max", scale=2.0, mean=(1.0,))
        assert declared.raw

    def test_the_length_of_raw_sound_follows_from_the_model(self) -> None:
        declared = declare("kind=audio,rate_hz=8000", TensorSpec("x", (1, 1, 576), "float32"))
        assert declared.preprocess == AudioPre(576, rate_hz=8000)

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("kind=audio,features=mfcc", "expected the length of the sound"),
            ("kind=audio,length=16000", r"16000 samples of sound give \(16000,\), the model takes \(49, 10, 1\)"),
            ("kind=audio,length=16000,features=mfcc,coefficients=12", r"give \(49, 12\)"),
            ("kind=audio,length=16000,features=mfcc,window_ms=5000", "expected a window of 1 to 16000"),
            ("kind=audio,length=16000,features=mfcc,mean=1,2", "1 or 10 numbers for mean"),
            ("kind=audio,length=16000,features=mfcc,lenght=3", "unknown key 'lenght'"),
            ("kind=audio,length=16000,features=mfcc,scale=loud", "scale"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, spec: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            declare(spec, self.MFCC)

    @pytest.mark.parametrize("dtype", ["float32", "int16", "int32"])
    def test_raw_samples_become_what_the_device_makes_of_them(self, dtype: str) -> None:
        declared = declare("kind=audio,length=16000,features=mfcc,raw=true", self.MFCC)
        real = np.rint(np.random.default_rng(0).uniform(-0.9, 0.9, (3, 16_000)) * 32_768) / 32_768
        scale = {"float32": 1, "int16": 1 << 15, "int32": 1 << 31}[dtype]
        made = stacked(model_rows((real * scale).astype(dtype), declared, self.MFCC, where="here"))
        assert made.shape == (3, 49, 10, 1)
        prepare = compile_preprocess(declared.preprocess, self.MFCC)
        target = prepare.new_target()
        for sound, row in zip(real, made, strict=True):
            prepare(sound.astype(np.float32), target)
            assert np.allclose(target[0], row, atol=1e-4)

    def test_samples_that_are_features_stay_as_they_are(self) -> None:
        declared = declare("kind=audio,length=16000,features=mfcc", self.MFCC)
        x = np.random.default_rng(0).normal(size=(3, 49, 10)).astype(np.float32)
        assert np.array_equal(stacked(model_rows(x, declared, self.MFCC, where="here"))[..., 0], x)

    def test_raw_samples_of_another_length_are_refused(self) -> None:
        declared = declare("kind=audio,length=16000,features=mfcc,raw=true", self.MFCC)
        with pytest.raises(SamplesError, match="here: expected 16000 samples, found shape"):
            model_rows(np.zeros((3, 15_999), np.int16), declared, self.MFCC, where="here")
