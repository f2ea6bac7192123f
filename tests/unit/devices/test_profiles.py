"""The device profiles that come along, and what is refused in one."""

from pathlib import Path

import pytest

from edgeinfer.devices import DeviceKind, ProfileError, load_kind, load_kinds
from edgeinfer.devices.probe import probe


def test_all_profiles_can_be_read_and_say_where_they_have_it_from() -> None:
    kinds = {kind.name: kind for kind in load_kinds()}
    assert {"rpi4", "rpi5", "generic-x86-64"} <= kinds.keys()
    assert all(kind.sources for kind in kinds.values())


@pytest.mark.parametrize(
    ("board", "kind"),
    [
        ("Raspberry Pi 4 Model B Rev 1.5", "rpi4"),
        ("Raspberry Pi 400 Rev 1.0", "rpi4"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "rpi4"),
        ("Raspberry Pi 500 Rev 1.0", "rpi5"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", ""),
    ],
)
def test_boards_are_told_apart(tmp_path: Path, board: str, kind: str) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text(board + "\0")
    assert probe(tmp_path, machine="aarch64").kind == kind


GOOD = 'name = "board"\ntitle = "A board"\narch = "aarch64"\nsources = ["its manual"]\n'


def test_a_good_profile(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    assert load_kind(path) == DeviceKind(name="board", title="A board", arch="aarch64", sources=("its manual",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "name"),
        ("name = ", "Invalid value"),
        (GOOD + "colour = 1\n", "colour"),
        (GOOD + "cores = 0\n", "cores"),
        (GOOD + 'features = ["magic"]\n', "magic"),
        (GOOD + "throttle_c = 90.0\nlimit_c = 80.0\n", "throttle_c <= limit_c"),
        (GOOD.replace("board", "plank", 1), "'plank'"),
        (GOOD.replace('["its manual"]', "[]"), "sources"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=why):
        load_kind(path)


def test_a_missing_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"absent\.toml"):
        load_kind(tmp_path / "absent.toml")
