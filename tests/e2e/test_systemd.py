"""systemd itself reads the units, the users and the folders."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
UNITS = ("edgeinfer.service", "edgeinfer-sync.service", "edgeinfer-console.service")
# In tenths, as `--threshold` counts: 0 is best, 100 worst. Measured with systemd 252: 1.0, 1.3 and 1.2.
THRESHOLD = 20


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian: apt install systemd)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, starting a program that exists here: systemd-analyze looks for it."""
    for name in UNITS:
        text = (PACKAGING / "systemd" / name).read_text(encoding="utf-8")
        assert text.count("/opt/edgeinfer/bin/edgeinfer ") == 1
        (tmp_path / name).write_text(text.replace("/opt/edgeinfer/bin/edgeinfer ", f"{sys.executable} "))
    return tmp_path


def test_verify_prints_nothing(installed: Path) -> None:
    # It exits with 0 on an unknown directive: what it prints is what counts.
    command = [tool("systemd-analyze"), "verify", "--man=no", *(str(installed / name) for name in UNITS)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("name", UNITS)
def test_exposure_is_low(installed: Path, name: str) -> None:
    command = [tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={THRESHOLD}", "--no-pager"]
    found = subprocess.run([*command, str(installed / name)], capture_output=True, text=True, check=False)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", found.stdout)
    assert exposure is not None, found.stderr
    assert float(exposure[1]) * 10 <= THRESHOLD
    assert found.returncode == 0


@pytest.mark.parametrize("name", ["network-source.conf", "local-page.conf"])
def test_drop_in_is_read_without_a_word(installed: Path, name: str) -> None:
    drop_in = installed / "edgeinfer.service.d" / name
    drop_in.parent.mkdir()
    shutil.copy(PACKAGING / "systemd" / "edgeinfer.service.d" / f"{name}.example", drop_in)
    command = [tool("systemd-analyze"), "verify", "--man=no", str(installed / "edgeinfer.service")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to users: needs root")
def test_users_and_folders(tmp_path: Path) -> None:
    for kind in ("sysusers.d", "tmpfiles.d"):
        folder = tmp_path / "usr" / "lib" / kind
        folder.mkdir(parents=True)
        shutil.copy(PACKAGING / kind / "edgeinfer.conf", folder)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc" / "group").write_text("root:x:0:\n")
    for name, *arguments in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        subprocess.run([tool(name), f"--root={tmp_path}", *arguments], check=True, capture_output=True)

    ids = {
        name: int(uid)
        for name, _, uid, *_ in (line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines())
    }
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc" / "group").read_text().splitlines()}
    assert (groups["edgeinfer"], groups["edgeinfer-sync"]) == ("edgeinfer-sync", "edgeinfer")
    incoming = (tmp_path / "var/lib/edgeinfer/models/incoming").stat()
    assert (incoming.st_uid, incoming.st_mode & 0o7777) == (ids["edgeinfer"], 0o2770)
    models = (tmp_path / "var/lib/edgeinfer/models").stat()
    assert (models.st_uid, models.st_mode & 0o7777) == (ids["edgeinfer"], 0o2750)


# What MemoryDenyWriteExecute=yes does, asked of the kernel directly (prctl(2), PR_SET_MDWE, Linux 6.3).
UNDER_MDWE = """
import ctypes, mmap, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit("no MDWE")
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    from edgeinfer.runtime.selfcheck import check_engines
    from edgeinfer.runtime.trust import SigningKey
    import cv2, zstandard
    SigningKey.generate()
    bad = [finding for finding in check_engines() if not finding.ok]
    sys.exit(str(bad) if bad else 0)
sys.exit("memory can still be made writable and executable")
"""


def test_engines_live_without_writable_and_executable_memory() -> None:
    found = subprocess.run([sys.executable, "-c", UNDER_MDWE], capture_output=True, text=True, check=False)
    if "no MDWE" in found.stderr:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert found.returncode == 0, found.stderr
