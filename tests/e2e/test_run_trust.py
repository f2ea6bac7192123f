"""What the daemon makes of its configured keys and names, as its user meets it: exit status and message."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.runtime.manifest import TensorPre
from edgeinfer.runtime.trust import SigningKey
from packages import linear_model, make_package

KEY, OTHER = SigningKey.generate(), SigningKey.generate()


def run(folder: Path, *, trust: str = "", pipeline: str = "", signer: SigningKey | None = None) -> tuple[int, str]:
    model = linear_model(folder / "m.onnx")
    make_package(folder / "m.edgepkg", model, name="m", pre=TensorPre(), key=signer)
    rows = "\n".join(",".join("1" * 8) for _ in range(5))
    (folder / "s.csv").write_text(f"{','.join('abcdefgh')}\n{rows}\n")
    (folder / "edgeinfer.toml").write_text(
        f'device = "d"\nstate_dir = "{folder}/state"\n{trust}\n'
        f'[[pipeline]]\nname = "p"\n{pipeline or f"""package = "{folder}/m.edgepkg" """}\n'
        f'[pipeline.source]\nkind = "csv"\npath = "{folder}/s.csv"\nwindow = 1\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "edgeinfer", "run", "--config", str(folder / "edgeinfer.toml"), "--until-end"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def trust(key: SigningKey) -> str:
    return f'[trust]\nrelease_keys = ["{key.public.hex()}"]'


@pytest.mark.parametrize(("signer", "status"), [(KEY, 0), (OTHER, 3), (None, 3)])
def test_a_device_with_release_keys_takes_signed_files_only(
    tmp_path: Path, signer: SigningKey | None, status: int
) -> None:
    found, said = run(tmp_path, trust=trust(KEY), signer=signer)
    assert found == status, said
    assert status == 0 or "sign" in said


def test_without_release_keys_a_local_file_is_its_owners_business(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"trust": '[trust]\nrelease_keys = ["zz"]'}, "key"),
        ({"pipeline": 'model = "nope"'}, "no package of model 'nope'"),
        ({"trust": 'log_level = "LOUD"'}, "log_level"),
    ],
)
def test_a_configuration_that_cannot_work_is_status_2(tmp_path: Path, words: dict[str, str], said: str) -> None:
    status, stderr = run(tmp_path, **words)  # type: ignore[arg-type]  # the two texts
    assert status == 2, stderr
    assert said in stderr


def test_a_variant_that_is_not_there_is_status_2(tmp_path: Path) -> None:
    status, stderr = run(tmp_path, pipeline=f'package = "{tmp_path}/m.edgepkg"\nvariant = "nope"')
    assert status == 2
    assert "onnx-fp32" in stderr


def test_a_run_in_which_every_frame_fails_has_failed(tmp_path: Path) -> None:
    status, stderr = run(tmp_path, pipeline=f'package = "{tmp_path}/m.edgepkg"')
    assert status == 0, stderr
    text = (tmp_path / "edgeinfer.toml").read_text().replace("window = 1", "window = 2")
    (tmp_path / "edgeinfer.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "edgeinfer", "run", "--config", str(tmp_path / "edgeinfer.toml"), "--until-end"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "every frame failed" in done.stderr
