"""Recipes: what they say, what is refused, and that flags override them."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.dataset import SampleOptions
from edgeinfer.quantize.feeding import Feeding
from edgeinfer.quantize.preprocessing import declare
from edgeinfer.quantize.recipe import Recipe, load_recipe, overridden
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.manifest import Constant, ImagePre, StateTensor, TensorSpec

WHOLE = """
task = "classification"
metric = "top5"

[model]
files = ["door.onnx", "/models/door.tflite"]
states = {state = "stateN"}
constants = {sr = 16000}

[samples]
path = "samples"
labels = "labels.txt"
label_column = "class"
window = 60
calibration = "more"

[preprocess]
kind = "image"
mean = [127.5]
std = [127.5]

[postprocess]
kind = "distance"
arrays = "centres.npz"

[package]
name = "door-camera"
version = "1.2.0"
output = "out/door.edgepkg"

[budget]
max_drop = 0.5
min_agreement = 0.99
max_bytes = 1_000_000
time_s = 60

[search]
objective = "size"
target = "rpi4"
exhaustive = true

[report]
page = "report.html"
"""


def recipe_of(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return load_recipe(path)


def test_a_whole_recipe(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, WHOLE)
    assert recipe.model.files == (str(tmp_path / "door.onnx"), "/models/door.tflite")
    assert recipe.model.feeding == Feeding((StateTensor("state", "stateN"),), (Constant("sr", 16000.0),))
    assert recipe.samples.path == str(tmp_path / "samples")
    assert recipe.samples.options == SampleOptions(label_column="class", window=60, calibration=str(tmp_path / "more"))
    assert recipe.postprocess["arrays"] == str(tmp_path / "centres.npz")
    assert recipe.package.output == str(tmp_path / "out" / "door.edgepkg")
    assert (recipe.budget.max_drop, recipe.budget.min_agreement, recipe.budget.time_s) == (0.5, 0.99, 60.0)
    assert (recipe.search.objective, recipe.search.target, recipe.search.exhaustive) == ("size", "rpi4", True)
    assert recipe.report.page == str(tmp_path / "report.html")


def test_its_preprocessing_is_what_the_flag_would_say(tmp_path: Path) -> None:
    spec = recipe_of(tmp_path, WHOLE).preprocess_spec
    declared = declare(spec, TensorSpec("x", (1, 8, 9, 3), "float32"))
    assert declared.preprocess == ImagePre(width=9, height=8, mean=(127.5,), std=(127.5,))
    assert recipe_of(tmp_path, "").preprocess_spec == ""


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("budgets = 1", "unknown key 'budgets'", "did you mean 'budget'?"),
        ("[budget]\nmaxdrop = 1", r"unknown key 'budget.maxdrop'", "did you mean 'max_drop'?"),
        ("[samples]\nwindows = 1", r"unknown key 'samples.windows'", "did you mean 'window'?"),
        ("[budget]\nmax_drop = -1", "max_drop|budget", ""),
        ("[budget]\nmax_drop = nan", "budget.max_drop|max_drop", ""),
        ("[budget]\ntime_s = inf", "budget.time_s: expected a finite number, found inf", ""),
        ("[budget]\nmin_agreement = 99", "min_agreement", ""),
        ("task = 'guessing'", "task", ""),
        ("[model]\nfiles = 'a.onnx'", "files", ""),
        ("[search]\nobjective = 'speed'", "objective", ""),
        ("not toml", "is not TOML", ""),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        recipe_of(tmp_path, text)
    assert not hint or caught.value.hint == hint


def test_an_unknown_key_of_a_declaration_is_named(tmp_path: Path) -> None:
    spec = recipe_of(tmp_path, "[preprocess]\nkind = 'image'\nmeans = 3").preprocess_spec
    with pytest.raises(ConfigError, match="unknown key 'means'"):
        declare(spec, TensorSpec("x", (1, 8, 9, 3), "float32"))


def test_flags_override(tmp_path: Path) -> None:
    recipe = overridden(
        recipe_of(tmp_path, WHOLE),
        {
            "metric": "",
            "task": None,
            "budget.max_drop": 2.0,
            "model.files": (),
            "package.output": Path("x.edgepkg"),
            "search.exhaustive": False,
        },
    )
    assert (recipe.metric, recipe.task, recipe.budget.max_drop) == ("top5", "classification", 2.0)
    assert len(recipe.model.files) == 2
    assert recipe.package.output == "x.edgepkg"
    assert recipe.search.exhaustive is False
    with pytest.raises(ConfigError, match=r"--min-agreement: .*found 7"):
        overridden(recipe, {"budget.min_agreement": 7.0})


_LINES = st.lists(
    st.one_of(
        st.sampled_from([line for line in WHOLE.splitlines() if line]),
        st.text(alphabet="abc=[]{}.\"'1 _\n-", max_size=20),
    ),
    max_size=12,
)


@given(_LINES)
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_recipe_or_refused(tmp_path: Path, lines: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert overridden(recipe_of(tmp_path, "\n".join(lines)), {}) is not None
