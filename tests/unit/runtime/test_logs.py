"""Logs: fields from the call's format string, one record a line whatever is in it, and the journal's own protocol."""

import io
import json
import logging
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime import journal, logs
from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.journal import encode_entry, open_journal
from edgeinfer.runtime.logs import fields_of, masked, set_up_logging
from edgeinfer.runtime.settings import RuntimeConfig

TEXT = st.text(max_size=60)


def record(template: object, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("edgeinfer.t", level, "file.py", 7, template, args, None, "function")


@pytest.fixture
def untouched() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("edgeinfer").level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("edgeinfer").setLevel(own)


class TestFields:
    def test_come_from_the_format_string(self) -> None:
        found = fields_of(
            record("event=source_failed pipeline=%s retry_s=%.1f error=%s", "door", 0.25, "no such device")
        )
        assert found == {"event": "source_failed", "pipeline": "door", "retry_s": "0.2", "error": "no such device"}

    def test_a_value_that_looks_like_a_field_is_a_value(self) -> None:
        found = fields_of(record("event=failed error=%s pipeline=%s", "oops event=started pipeline=gate", "door"))
        assert found == {"event": "failed", "error": "oops event=started pipeline=gate", "pipeline": "door"}

    def test_several_placeholders_and_percent_signs(self) -> None:
        found = fields_of(record("event=swapped model=%s %s (%s) share=%d%%", "digits", "2.0.0", "fp32", 7))
        assert found == {"event": "swapped", "model": "digits 2.0.0 (fp32)", "share": "7%"}

    @pytest.mark.parametrize(
        ("template", "args"),
        [
            ("no fields here: %s", ("x",)),
            ("event=failed error=%d", ("no number",)),
            ("event=failed error=%s", ()),
            ("event=failed %(error)s", ({"error": 1},)),
            (12, ()),
        ],
    )
    def test_what_is_not_ours_has_none_and_never_raises(self, template: object, args: tuple[object, ...]) -> None:
        assert set(fields_of(record(template, *args))) <= {"event", "error"}

    @given(TEXT, TEXT)
    def test_any_value_comes_back_whole(self, first: str, second: str) -> None:
        found = fields_of(record("event=x a=%s b=%s", first, second))
        assert found == {"event": "x", "a": masked(first), "b": masked(second)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:pa/ss@w0rd@10.0.0.5/1", "rtsp://***@10.0.0.5/1"),
        ("cannot open http://token@cam.local:80/x?y", "cannot open http://***@cam.local:80/x?y"),
        ("mail me@example.org", "mail me@example.org"),
        ("rtsp://10.0.0.5/1", "rtsp://10.0.0.5/1"),
    ],
)
def test_passwords_in_addresses_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def written(log_format: Any, monkeypatch: pytest.MonkeyPatch, *calls: tuple[object, ...]) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up_logging("INFO", log_format)
    for call in calls:
        logging.getLogger("edgeinfer.t").warning(*call)
    return stream.getvalue()


@pytest.mark.usefixtures("untouched")
class TestLines:
    NASTY = "x\n2026-01-01 00:00:00,000 INFO event=started\r\x1b[2J\u2028\x00y rtsp://a:b@c"

    def test_text_is_one_line_of_printable_characters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (line,) = written("text", monkeypatch, ("event=failed error=%s", self.NASTY)).splitlines()
        assert "WARNING event=failed error=x\\n2026-01-01" in line
        assert "\\x1b[2J\\u2028\\x00y rtsp://***@c" in line
        assert line.isprintable()

    def test_json_is_one_object_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = (
            ("event=failed pipeline=%s error=%s", "door", self.NASTY),
            ("plain %s", "words"),
            ("event=x level=%s", 3),
        )
        one, two, three = [json.loads(line) for line in written("json", monkeypatch, *calls).splitlines()]
        assert (one["event"], one["pipeline"], one["level"], one["logger"]) == (
            "failed",
            "door",
            "warning",
            "edgeinfer.t",
        )
        assert one["error"] == masked(self.NASTY)
        assert (two["message"], three["level_"]) == ("plain words", "3")
        assert one["t"].endswith("Z")

    def test_an_endless_value_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for log_format in ("text", "json"):
            assert len(written(log_format, monkeypatch, ("event=failed error=%s", "x" * 1_000_000))) < 20_000

    def test_a_traceback_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        for log_format in ("text", "json"):
            set_up_logging("INFO", log_format)
            try:
                int("rtsp://u:secret@h")
            except ValueError:
                logging.getLogger("edgeinfer.t").exception("event=crashed")
        shown = stream.getvalue()
        assert shown.count("ValueError") == 2
        assert "secret" not in shown

    def test_the_configuration_chooses(self) -> None:
        config = parse_config('device = "d"\nlog_format = "json"', RuntimeConfig)
        assert config.log_format == "json"


def entries(raw: bytes) -> dict[str, str]:
    """An independent reading of systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    found: dict[str, str] = {}
    while raw:
        line, _, raw = raw.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            (length,) = struct.unpack_from("<Q", raw)
            name, value, raw = line, raw[8 : 8 + length], raw[9 + length :]
        found[name.decode()] = value.decode()
    return found


@given(st.dictionaries(st.from_regex(r"\A[A-Z][A-Z0-9_]{0,20}\Z"), TEXT, max_size=6))
def test_every_entry_is_read_back(entry: dict[str, str]) -> None:
    assert entries(encode_entry(entry)) == {
        name: value.encode("utf-8", "replace").decode() for name, value in entry.items()
    }


@pytest.mark.usefixtures("untouched")
class TestJournal:
    @pytest.fixture
    def listening(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
        """A journal's socket."""
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(str(path))
            bound.settimeout(60)
            monkeypatch.setattr(logs, "open_journal", lambda: open_journal(str(path)))
            yield bound

    @pytest.fixture
    def stderr(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
        """What the service manager has connected to the journal, and says so."""
        with (tmp_path / "stderr").open("w") as file:
            found = os.fstat(file.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
            yield file

    def test_fields_arrive(
        self, listening: socket.socket, stderr: TextIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(sys, "stderr", stderr)
        set_up_logging()
        logging.getLogger("edgeinfer.t").error("event=failed pipeline=%s error=%s", "door", "a\nb")
        found = entries(listening.recv(1 << 16))
        assert found["MESSAGE"] == "event=failed pipeline=door error=a\\nb"
        assert (found["PRIORITY"], found["SYSLOG_IDENTIFIER"], found["LOGGER"]) == ("3", "edgeinfer", "edgeinfer.t")
        assert (found["EDGEINFER_EVENT"], found["EDGEINFER_PIPELINE"]) == ("failed", "door")
        assert found["EDGEINFER_ERROR"] == "a\nb"
        assert found["CODE_FILE"] == __file__
        assert (tmp_path / "stderr").read_text() == ""

    def test_a_journal_that_has_gone_is_replaced_by_lines(
        self, listening: socket.socket, stderr: TextIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(sys, "stderr", stderr)
        set_up_logging()
        listening.close()
        logging.getLogger("edgeinfer.t").warning("event=alone")
        assert (tmp_path / "stderr").read_text() == "<4>WARNING edgeinfer.t event=alone\n"

    def test_a_journal_that_was_restarted_is_found_again(
        self, listening: socket.socket, stderr: TextIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", stderr)
        set_up_logging()
        path = Path(listening.getsockname())
        listening.close()
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
            again.bind(str(path))
            again.settimeout(60)
            for number in range(2):  # the first one finds out
                logging.getLogger("edgeinfer.t").warning("event=again number=%d", number)
            assert entries(again.recv(1 << 16))["EDGEINFER_NUMBER"] == "1"

    def test_a_stuck_journal_is_not_waited_for(
        self, listening: socket.socket, stderr: TextIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(journal, "_PATIENCE_S", 0.01)
        monkeypatch.setattr(sys, "stderr", stderr)
        set_up_logging()
        for number in range(5000):  # it takes a few hundred, and nobody reads them
            logging.getLogger("edgeinfer.t").warning("event=many number=%d", number)
            if (tmp_path / "stderr").stat().st_size:
                break
        assert "event=many" in (tmp_path / "stderr").read_text()
        assert listening.recv(1 << 16)

    def test_a_redirected_standard_error_is_not_the_journal(
        self, listening: socket.socket, stderr: TextIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with (tmp_path / "elsewhere").open("w") as elsewhere:
            monkeypatch.setattr(sys, "stderr", elsewhere)
            set_up_logging()
            logging.getLogger("edgeinfer.t").warning("event=here")
        assert " WARNING event=here" in (tmp_path / "elsewhere").read_text()
        assert not stderr.tell()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(1)


JOURNALD = Path("/lib/systemd/systemd-journald")
SCRIPT = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} & journald=$!
for _ in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
"$0" -c '
import logging, os, sys
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{{found.st_dev}}:{{found.st_ino}}"
from edgeinfer.runtime.logs import set_up_logging
set_up_logging()
logging.getLogger("edgeinfer.t").error("event=probe pipeline=%s error=%s", "door", "a\\nb")
'
journalctl --directory=/run/log/journal --sync >/dev/null 2>&1 || true
for _ in $(seq 100); do
    journalctl --directory=/run/log/journal -o json --no-pager EDGEINFER_PIPELINE=door | grep . && break
    sleep 0.05
done
kill $journald
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a journal of its own needs root")
@pytest.mark.skipif(not JOURNALD.exists(), reason="systemd-journald is not installed (Debian: apt install systemd)")
def test_a_real_journal_finds_what_concerns_a_pipeline() -> None:
    unshare = shutil.which("unshare")
    allowed = unshare and subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("no mount namespace may be made here")
    command = [str(unshare), "-m", "bash", "-c", SCRIPT, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    assert (found["EDGEINFER_EVENT"], found["PRIORITY"], found["EDGEINFER_ERROR"]) == ("probe", "3", "a\nb")
    assert found["_TRANSPORT"] == "journal"
