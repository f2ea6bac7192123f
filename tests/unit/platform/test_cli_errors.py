"""Every error ends as one line, its hint and an exit status; nothing heavy is loaded on the way."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer import cli
from edgeinfer.cli import main
from edgeinfer.runtime.errors import ConfigError, DependencyError, EdgeInferError, SignatureError


def raising(error: BaseException) -> type:
    class Service:
        @staticmethod
        def main(_arguments: list[str]) -> int:
            raise error

    return Service


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_DEBUG", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (EdgeInferError("it broke"), 1, "it broke"),
        (ConfigError("x.toml: unknown key 'devise'", hint="did you mean 'device'?"), 2, "x.toml: unknown key 'devise'"),
        (SignatureError("not signed"), 3, "not signed"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), 1, "this needs cv2, which is not installed here"),
        (
            ModuleNotFoundError("No module named 'x'", name="x"),
            1,
            "unexpected ModuleNotFoundError: No module named 'x'",
        ),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_errors_are_told_in_a_line(
    error: Exception, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "edgeinfer.runtime.daemon", raising(error))
    assert main(["run", "--config", "x"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == f"edgeinfer: error: {line}"


def test_hint_is_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    service = raising(ModuleNotFoundError("No module named 'cv2'", name="cv2"))
    monkeypatch.setitem(sys.modules, "edgeinfer.runtime.daemon", service)
    main(["run"])
    assert capsys.readouterr().err.splitlines()[1] == "  hint: pip install 'edgeinfer[camera]'"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 1), (SystemExit(2), 2)])
def test_ends_that_need_no_words(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "edgeinfer.runtime.daemon", raising(error))
    assert main(["run"]) == status
    assert capsys.readouterr().err == ""


def test_a_ctrl_c_while_a_module_starts_is_no_missing_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = ImportError("initialization failed", name="onnxruntime")  # what pybind11 makes of it
    half.__cause__ = KeyboardInterrupt()
    absent = DependencyError("the onnx engine is not installed")
    absent.__cause__ = half
    for error in (half, absent):
        monkeypatch.setitem(sys.modules, "edgeinfer.runtime.daemon", raising(error))
        assert main(["run"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_asked_to_end_takes_its_temporary_folders_along(number: signal.Signals, tmp_path: Path) -> None:
    program = f"""
import signal, sys, tempfile, time
from edgeinfer.cli import app, main

def run_app(arguments):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("begun", flush=True)
        time.sleep(600)

signal.signal({int(number)}, signal.SIG_DFL)  # whoever runs the tests may ignore it
app.run_app = run_app
sys.exit(main(["bench"]))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--debug", "run"], ["run", "--debug"]])
def test_debug_shows_where_it_comes_from(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = raising(ConfigError("wrong"))
    monkeypatch.setitem(sys.modules, "edgeinfer.runtime.daemon", service)
    monkeypatch.setenv("EDGEINFER_DEBUG", "")
    assert main(arguments) == ConfigError.exit_code, "the status stays what it is"
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "edgeinfer: error: wrong" in shown


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["bench"], ["bench", "--nonsense", "x"], ["package", "nonsense"], ["quantize", "x.onnx"]],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: edgeinfer" in captured.err


@pytest.mark.parametrize("arguments", [["bench", "absent.edgepkg"], ["package", "inspect", "absent.edgepkg"]])
def test_missing_file_is_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == "edgeinfer: error: absent.edgepkg: no such file\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in (
        "demo quantize package bench run results audit sync console deploy fleet probe doctor".split()  # noqa: SIM905 - reads better
    ):
        assert f"\n  {command} " in shown
    assert "..." not in shown.split("Commands:")[1]


def test_services_are_listed_under_the_module_that_they_are() -> None:
    assert set(cli.SERVICES) == {"run", "sync", "console"}


HEAVY = (
    "numpy",
    "onnx",
    "onnxruntime",
    "cv2",
    "ai_edge_litert",
    "cryptography",
    "sqlite3",
    "paho",
    "starlette",
    "rich",
)


@pytest.mark.parametrize(("arguments", "also"), [(["--help"], ()), (["--version"], ("typer",)), (["run"], ("typer",))])
def test_nothing_heavy_is_loaded(arguments: list[str], also: tuple[str, ...]) -> None:
    program = f"""
import sys, types
sys.modules["edgeinfer.runtime.daemon"] = types.SimpleNamespace(main=lambda argv: 0)
from edgeinfer.cli import main
status = main({arguments!r})
loaded = [name for name in {(*HEAVY, *also)!r} if name in sys.modules]
print(loaded, file=sys.stderr)
sys.exit(status)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "[]\n")


@pytest.mark.parametrize(("found", "expected"), [("", "1"), ("3", "3")])
def test_the_daemon_is_told_of_one_algebra_thread_before_numpy_is_loaded(found: str, expected: str) -> None:
    """What somebody has set already stands."""
    program = """
import os, sys, types
def main(argv):
    print(os.environ["OPENBLAS_NUM_THREADS"], "numpy" in sys.modules)
    return 0
sys.modules["edgeinfer.runtime.daemon"] = types.SimpleNamespace(main=main)
from edgeinfer.cli import main
sys.exit(main(["run"]))
"""
    name = "OPENBLAS_NUM_THREADS"
    others = {key: value for key, value in os.environ.items() if key != name}
    environment = {**others, name: found} if found else others
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{expected} False\n")


def test_a_reader_that_leaves_early_costs_no_traceback() -> None:
    program = "import sys; from edgeinfer.cli import main; sys.exit(main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
