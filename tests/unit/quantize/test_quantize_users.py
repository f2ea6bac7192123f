"""What somebody meets who calls `edgeinfer quantize` with something slightly wrong: files of theirs, labels, flags."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeinfer.quantize.candidate import float_candidates
from edgeinfer.quantize.commands import quantize_model, read_flags
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.destinations import check_destinations
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.modelfile import ModelFile
from edgeinfer.quantize.plausible import check_plausible
from edgeinfer.quantize.report.document import Row
from edgeinfer.quantize.report.figures import latency
from edgeinfer.quantize.rows import ArrayRows
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.verdicts import _loss, _speed
from edgeinfer.runtime.errors import ConfigError, SamplesError, StorageError, UsageError

CLASSES = 4


def _samples(y: np.ndarray, *, labelled: bool = True) -> Samples:
    x = np.zeros((len(y), 1), np.float32)
    return Samples(x=ArrayRows(x), y=y, group=None, calibration=None, sha256="", labelled=labelled)


def _saying(classes: np.ndarray) -> Scored:
    return Scored(np.eye(CLASSES, dtype=np.float32)[classes])


def test_no_file_that_is_read_is_overwritten(make_model: Callable[..., Path], samples: Path, tmp_path: Path) -> None:
    model = make_model()
    before = model.read_bytes(), samples.read_bytes()
    for output in (model, samples):
        with pytest.raises(UsageError, match="found one that is read"):
            quantize_model([model], data=samples, task="classification", name="halves", version="1.0.0", output=output)
    assert (model.read_bytes(), samples.read_bytes()) == before
    link = tmp_path / "link.edgepkg"
    link.symlink_to(model)
    with pytest.raises(UsageError, match="found one that is read"):
        check_destinations(link, None, inputs=[model])


def test_only_packages_and_pages_are_replaced(tmp_path: Path) -> None:
    output, page = tmp_path / "out.edgepkg", tmp_path / "out.html"
    check_destinations(output, page, inputs=[])
    output.write_bytes(b"")
    page.write_text("\n<!DOCTYPE html>\n<title>")
    check_destinations(output, page, inputs=[])
    np.savez(output.with_suffix(".npz"), x=np.zeros(1))
    for other in (page, output.with_suffix(".npz")):
        with pytest.raises(UsageError, match="it stays as it is"):
            check_destinations(other, None, inputs=[])
    page.write_text("name = 'recipe'")
    with pytest.raises(UsageError, match="expected to write a report") as refused:
        check_destinations(output, page, inputs=[])
    assert "--report" in refused.value.hint


def test_package_and_report_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="found the same"):
        check_destinations(tmp_path / "a", tmp_path / "b" / ".." / "a", inputs=[])


def test_a_folder_without_room_is_told_before_the_search() -> None:
    # Nothing can be made in /proc, whoever asks.
    with pytest.raises(StorageError, match="/proc: cannot be written to"):
        check_destinations(Path("/proc/out.edgepkg"), None, inputs=[])


def test_labels_that_the_float_model_does_not_know_are_refused() -> None:
    y = np.arange(80) % CLASSES
    assert check_plausible(_saying(y), _samples(y), task="classification") == ()
    with pytest.raises(SamplesError, match=r"accuracy is 0\.000 .* guessing gives 0\.250"):
        check_plausible(_saying(y), _samples((y + 1) % CLASSES), task="classification")
    with pytest.raises(SamplesError, match="the same for all 80 samples"):
        check_plausible(_saying(np.zeros_like(y)), _samples(y), task="classification")
    with pytest.raises(SamplesError, match=r"AUC is 0\.000"):
        check_plausible(Scored(-np.arange(80.0)), _samples((np.arange(80) > 40).astype(int)), task="anomaly")


def test_a_float_model_that_says_no_numbers_is_refused_for_that() -> None:
    y = np.arange(80) % CLASSES
    broken = np.full((80, CLASSES), np.nan)
    with pytest.raises(SamplesError, match="found NaN or infinity for all 80 samples") as refused:
        check_plausible(Scored(broken), _samples(y), task="classification")
    assert "weights" in refused.value.hint
    with pytest.raises(SamplesError, match="for all 3 samples"):  # few samples, no labels: it is broken all the same
        check_plausible(Scored(broken[:3]), _samples(y[:3], labelled=False), task="regression")
    some = np.eye(CLASSES)[y]
    some[7] = np.inf
    said = check_plausible(Scored(some), _samples(y), task="classification")
    assert said == ("the float model gives NaN or infinity for 1 of 80 samples",)


def test_numbers_that_their_mean_is_nearer_to_are_warned_of() -> None:
    y = np.arange(80.0)[:, np.newaxis]
    assert check_plausible(Scored(y + 3.0), _samples(y), task="regression") == ()
    said = check_plausible(Scored(y + 30.0), _samples(y), task="regression")
    assert "mean squared error is 900 on these samples, where their mean alone gives 533.2" in said[0]
    assert check_plausible(Scored(np.hstack([y, y])), _samples(y), task="regression") == ()  # an own metric's business


def test_what_cannot_be_told_is_not_refused() -> None:
    y = np.arange(80) % CLASSES
    few = y[:10]
    assert check_plausible(_saying((few + 1) % CLASSES), _samples(few), task="classification") == ()
    assert check_plausible(_saying((y + 1) % CLASSES), _samples(y, labelled=False), task="classification") == ()
    assert check_plausible(_saying(y), _samples(y * 100), task="classification") == ()
    assert "of class 0" in check_plausible(_saying(y), _samples(np.zeros_like(y)), task="classification")[0]


def test_two_files_of_one_format_are_named() -> None:
    names = ("a.onnx", "b.tflite", "c.onnx")
    models = [ModelFile(Path(name), {"e": "litert"}.get(name[-1], "onnx"), (), (), "1") for name in names]
    with pytest.raises(UsageError, match=r"found a\.onnx and c\.onnx for onnx"):
        float_candidates(models)


def test_numbers_among_the_sample_options_may_be_said_inline() -> None:
    options = read_flags([], {}, specs={"samples": "window=64,stride=8,label_column=fault,columns=a,b"}).samples.options
    assert (options.window, options.stride, options.label_column) == (64, 8, "fault")
    assert tuple(options.columns) == ("a", "b")


def test_flags_are_named_as_they_were_given() -> None:
    with pytest.raises(ConfigError, match=r"--max-drop: .*found -1"):
        read_flags([], {"budget.max_drop": -1.0}, specs={})
    with pytest.raises(ConfigError, match=r"--samples window: .*int.*found abc"):
        read_flags([], {}, specs={"samples": "window=abc"})
    with pytest.raises(ConfigError, match=r"--samples: .*wndow.*known here: .*window"):
        read_flags([], {}, specs={"samples": "wndow=3"})


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(0.5, "2.00 times as fast"), (1.0, "as fast as"), (0.9999, "as fast as"), (2.0, "2.00 times as slow")],
)
def test_no_speed_is_called_slower_that_is_not(ratio: float, said: str) -> None:
    row = Row(
        variant="a",
        engine="onnx",
        precision="int8",
        quantized=True,
        bytes=1,
        verdict="chosen",
        reason="",
        latency_ratio=ratio,
    )
    assert _speed(row).startswith(said)


def test_rules_give_no_times() -> None:
    assert latency(0.0) == "-"


def test_nothing_better_is_only_said_of_a_whole_search(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path
) -> None:
    document = quantize_model(
        [make_model()],
        data=samples,
        task="classification",
        name="halves",
        version="1.0.0",
        output=tmp_path / "out.edgepkg",
        time_s=1e-6,
    )
    assert any("not everything was tried" in warning for warning in document["warnings"])
    assert "nothing that keeps the budget is better" not in document["answer"]


def test_labels_of_another_model_name_the_users_file(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path
) -> None:
    model, labels = make_model(), tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    with pytest.raises(UsageError, match="expected 2 labels") as refused:
        quantize_model(
            [model],
            data=samples,
            task="classification",
            name="halves",
            version="1.0.0",
            output=tmp_path / "out.edgepkg",
            labels=labels,
        )
    assert refused.value.message.startswith(str(model))


def test_no_loss_is_said_with_how_many_samples_show_none() -> None:
    row = Row(
        variant="a", engine="onnx", precision="int8", quantized=True, bytes=1, verdict="chosen", reason="", drop=0.0
    )
    assert _loss(msgspec.structs.replace(row, samples=2), Goal(max_drop=1.0)) == "loses nothing on 2 samples"
