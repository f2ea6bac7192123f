"""Packing models as they are, keys, and signatures."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeinfer.quantize.commands import create_package, keygen_command, sign_command
from edgeinfer.quantize.postprocessing import is_probabilities
from edgeinfer.runtime.errors import ConfigError, ModelError, PackageError, UsageError
from edgeinfer.runtime.manifest import ClassifyPost, ImagePre, Task
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.trust import SigningKey, verify


@pytest.fixture
def package(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    output = tmp_path / "halves.edgepkg"
    create_package([make_model()], task="classification", name="halves", version="1.2.3", output=output)
    return output


def test_a_float_model_with_random_golden_inputs(package: Path) -> None:
    with PackageFile(package) as opened:
        opened.verify_files()
        manifest = opened.manifest
        (opened.path.parent / "golden.npz").write_bytes(opened.read("golden.npz"))
    assert [variant.id for variant in manifest.variants] == ["onnx-fp32"]
    assert manifest.preprocess == ImagePre(width=8, height=8, color="gray", layout="nchw")
    assert manifest.postprocess == ClassifyPost(activation="softmax")
    with np.load(package.parent / "golden.npz") as golden:
        assert golden["input"].shape == (6, 1, 8, 8)
        assert golden["onnx-fp32/0"].shape == (6, 2)
        assert golden["input"].max() > 200


def test_packing_twice_gives_the_same_golden_vectors(make_model: Callable[..., Path], tmp_path: Path) -> None:
    digests = set()
    for name in ("a.edgepkg", "b.edgepkg"):
        create_package([make_model()], task="classification", name="x", version="1.0.0", output=tmp_path / name)
        with PackageFile(tmp_path / name) as opened:
            digests.add(hashlib.sha256(opened.read("golden.npz")).hexdigest())
    assert len(digests) == 1


def test_an_anomaly_package_needs_a_threshold(make_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a threshold"):
        create_package([make_model()], task="anomaly", name="x", version="1.0.0", output=tmp_path / "x.edgepkg")


def test_unknown_outputs_of_a_detector_ask_for_a_format(make_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known output format") as caught:
        create_package([make_model()], task="detection", name="x", version="1.0.0", output=tmp_path / "x.edgepkg")
    assert "format=" in caught.value.hint


@pytest.mark.parametrize("spec", ["score_treshold=0.5", "kind=anomaly", "top_k=many"])
def test_wrong_postprocessing_is_refused(make_model: Callable[..., Path], tmp_path: Path, spec: str) -> None:
    with pytest.raises(ConfigError, match="--postprocess"):
        create_package(
            [make_model()],
            task="classification",
            name="x",
            version="1.0.0",
            output=tmp_path / "x.edgepkg",
            postprocess=spec,
        )


def test_two_of_a_kind_are_refused(make_model: Callable[..., Path], tmp_path: Path) -> None:
    models = [make_model("a.onnx"), make_model("b.onnx")]
    with pytest.raises(UsageError, match="differ in engine or precision"):
        create_package(models, task="classification", name="x", version="1.0.0", output=tmp_path / "x.edgepkg")


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"TFL3 but no more")
    with pytest.raises(ModelError, match=r"x\.tflite"):
        create_package(
            [tmp_path / "x.tflite"],
            task="classification",
            name="x",
            version="1.0.0",
            output=tmp_path / "x.edgepkg",
        )


def test_signing_adds_one_signature_a_key_and_keeps_the_digest(package: Path, tmp_path: Path) -> None:
    with PackageFile(package) as opened:
        before = opened.digest
    publics = []
    for name in ("first.key", "second.key", "first.key"):
        if not (tmp_path / name).exists():
            private, public_file = keygen_command(tmp_path / name)
            assert private.stat().st_mode & 0o777 == 0o600
            publics.append(bytes.fromhex(public_file.read_text()))
        sign_command(package, key=tmp_path / name)
    with PackageFile(package) as opened:
        opened.verify_files()
        assert opened.digest == before
        assert len(opened.signatures) == 2
        for public in publics:
            verify(opened.manifest_bytes, opened.signatures, [public])


def test_a_damaged_package_is_never_signed(package: Path, tmp_path: Path) -> None:
    SigningKey.generate().save(tmp_path / "k.key")
    raw = bytearray(package.read_bytes())
    raw[raw.index(b"halves", raw.index(b"onnx-fp32.onnx")) + 1] ^= 1
    package.write_bytes(raw)
    with pytest.raises(PackageError):
        sign_command(package, key=tmp_path / "k.key")
    assert package.read_bytes() == raw


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    keygen_command(tmp_path / "k.key")
    before = (tmp_path / "k.key").read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        keygen_command(tmp_path / "k.key")
    assert (tmp_path / "k.key").read_bytes() == before


@pytest.mark.parametrize("name", ["k.pub", "file/k.key"])
def test_bad_places_for_a_key(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        keygen_command(tmp_path / name)


def test_signing_what_is_not_there(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such package"):
        sign_command(tmp_path / "none.edgepkg", key=tmp_path / "none.key")
    with pytest.raises(UsageError, match="no such key file") as caught:
        sign_command(package, key=tmp_path / "none.key")
    assert caught.value.exit_code == 2
    (tmp_path / "text.key").write_text("no key")
    with pytest.raises(UsageError, match="private key"):
        sign_command(package, key=tmp_path / "text.key")


def test_a_missing_key_is_found_before_anything_is_packed(make_model: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "x.edgepkg"
    with pytest.raises(UsageError, match="no such key file"):
        create_package(
            [make_model()],
            task="classification",
            name="x",
            version="1.0.0",
            output=output,
            sign_key=tmp_path / "none.key",
        )
    assert not output.exists()


@pytest.mark.parametrize(("lines", "fits"), [("left\n", False), ("left\nright\n", True), ("a\nb\nc\n", False)])
def test_labels_are_as_many_as_classes(make_model: Callable[..., Path], tmp_path: Path, lines: str, fits: bool) -> None:
    (tmp_path / "labels.txt").write_text(lines)
    output = tmp_path / "x.edgepkg"

    def create() -> None:
        create_package(
            [make_model()],
            task="classification",
            name="x",
            version="1.0.0",
            output=output,
            labels=tmp_path / "labels.txt",
        )

    if fits:
        create()
    else:
        with pytest.raises(UsageError, match=f"expected 2 labels, .* found {lines.count(chr(10))}"):
            create()
    assert output.exists() == fits


def _identity_model(path: Path, *sizes: int) -> Path:
    """A model that hands out its input, as a segmentation or a reconstruction has the shape of its own."""
    shape = [1, *sizes]
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def test_a_segmentation_is_no_classification(tmp_path: Path) -> None:
    model = _identity_model(tmp_path / "segments.onnx", 13, 13)
    with pytest.raises(ConfigError, match=r"one axis of classes .* found the output 'y' of shape \(1, 13, 13\)"):
        create_package([model], task="classification", name="x", version="1.0.0", output=tmp_path / "x.edgepkg")
    assert not (tmp_path / "x.edgepkg").exists()


def test_axes_of_one_beside_the_classes_are_fine(tmp_path: Path) -> None:
    model = _identity_model(tmp_path / "wide.onnx", 1, 1, 7)
    create_package([model], task="classification", name="x", version="1.0.0", output=tmp_path / "x.edgepkg")


@pytest.mark.parametrize(
    ("task", "postprocess", "said"),
    [
        ("anomaly", "threshold=0.5,score=mse", "a reconstruction has the size of its input"),
        ("detection", "format=tflite_ssd", "expected 4 outputs"),
        ("detection", "format=yolo", r"expected one output \(1, n, 5 \+ classes\)"),
    ],
)
def test_what_the_device_would_refuse_is_not_packed(
    make_model: Callable[..., Path], tmp_path: Path, task: Task, postprocess: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        create_package(
            [make_model()],
            task=task,
            name="x",
            version="1.0.0",
            output=tmp_path / "x.edgepkg",
            postprocess=postprocess,
        )
    assert caught.value.exit_code == 2
    assert not (tmp_path / "x.edgepkg").exists()


@pytest.mark.parametrize("shape", [["batch", 1, "height", "width"], [4, 1, 8, 8], [0, 1, 8, 8]])
def test_open_sizes_and_other_batches_are_refused(
    make_model: Callable[..., Path], tmp_path: Path, shape: list[int | str]
) -> None:
    model = onnx.load(str(make_model()))
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    path = tmp_path / "open.onnx"
    onnx.save(model, str(path))
    with pytest.raises((UsageError, ModelError), match=r"open\.onnx"):
        create_package([path], task="classification", name="x", version="1.0.0", output=tmp_path / "x.edgepkg")


def test_an_output_that_is_not_there(make_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an output of 0 to 0, found 3"):
        create_package(
            [make_model()],
            task="classification",
            name="x",
            version="1.0.0",
            output=tmp_path / "x.edgepkg",
            postprocess="output=3",
        )


@pytest.mark.parametrize(
    ("rows", "step", "expected"),
    [
        ([[0.2, 0.8], [1.0, 0.0]], 0.0, True),
        ([[0.2, 0.7]], 0.0, False),
        ([[-1.0, 2.0]], 0.0, False),
        ([[0.004] * 200], 1 / 256, True),
    ],
)
def test_probabilities_are_told_from_logits(rows: list[list[float]], step: float, expected: bool) -> None:
    assert is_probabilities(np.array(rows), step=step) == expected
