"""SHA-256 without OpenSSL, held against hashlib; and what a daemon does not load for it."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.hashing import random_hex, sha256, sha256_stream


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_it_is_sha256(parts: list[bytes]) -> None:
    digest = sha256()
    for part in parts:
        digest.update(part)
    whole = b"".join(parts)
    assert digest.hexdigest() == sha256(whole).hexdigest() == hashlib.sha256(whole).hexdigest()


def test_without_openssl_it_is_pythons_own() -> None:
    content = bytes(range(256)) * 10_000
    program = (
        "import sys; from edgeinfer.runtime.hashing import sha256; digest = sha256(bytes(range(256)) * 10_000);"
        "print(digest.hexdigest(), '_hashlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(content).hexdigest(), "False"]


def test_files_and_streams(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert sha256_stream(tmp_path / "file") == expected
    assert sha256_stream(io.BytesIO(content)) == expected


def test_names_differ() -> None:
    assert len({random_hex(8) for _ in range(100)}) == 100
    assert len(random_hex(4)) == 8


def test_the_daemon_loads_no_openssl() -> None:
    """It would take 3.5 MB; nor what else it has no use for."""
    unwanted = [
        "_hashlib",
        "_ssl",
        "cv2",
        "psutil",
        "importlib.metadata",
        "typer",
        "sqlite_utils",
        "cryptography",
        "http",
    ]
    program = (
        "import sys, edgeinfer.runtime.daemon, edgeinfer.runtime.engines.litert, edgeinfer.devices.probe;"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
