"""The command `edgeinfer`: finds the part that is called, and turns every error into a line and an exit status.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused, 130 interrupted, 143 asked to end.

The services (`run`, `sync`, `console`) never load Typer: on a device it costs 0.1 s and several megabytes.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgeinfer.runtime.errors import DependencyError, EdgeInferError

__all__ = ["call_service", "main"]

# Sub-command to the module whose `main(argv)` it is, and the line that `edgeinfer --help` shows of it.
SERVICES = {
    "run": ("edgeinfer.runtime.daemon", "Run the pipelines on this device: the daemon."),
    "sync": ("edgeinfer.sync.service", "Send results and fetch updates: the agent."),
    "console": ("edgeinfer.console.service", "Receive results and steer the fleet: the console."),
}
# Module of an optional dependency to the extra that brings it.
_EXTRAS = {
    "ai_edge_litert": "litert",
    "ai_edge_quantizer": "quantize",
    "amqtt": "console",
    "confluent_kafka": "kafka",
    "cv2": "camera",
    "jinja2": "console",
    "nncf": "openvino",
    "onnx": "quantize",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "prometheus_client": "metrics",
    "rich": "quantize",
    "starlette": "console",
    "sympy": "quantize",
    "uvicorn": "console",
}
_DEBUG_VARIABLE = "EDGEINFER_DEBUG"
_FAILED = 1
_INTERRUPTED = 130
_ENDING = (signal.SIGTERM, signal.SIGHUP)
# As a shell says it of a program that a signal has ended.
_SIGNALLED = 128


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (without the program's name). Returns the exit status; raises nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in arguments:  # wherever it stands: who adds it to a command that failed puts it last
        os.environ[_DEBUG_VARIABLE] = "1"  # the environment, so that child processes follow
        arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _guarded(lambda: _dispatch(arguments))
    finally:
        _flush_quietly()


def call_service(name: str, arguments: Sequence[str]) -> int:
    """Hand over to a service's own `main`."""
    from importlib import import_module

    status: int = import_module(SERVICES[name][0]).main(arguments)
    return status


def _dispatch(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"edgeinfer {_version()}\n")
        return 0
    if arguments[:1] == ["run"]:
        # As OpenCV is kept to one. Read when numpy is imported: it would start a thread a core, and each of them spins.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if arguments[:1] == ["run"] and any(a.partition("=")[0] == "--with-sync" for a in arguments):
        from edgeinfer.cli.together import run_together

        return run_together(arguments[1:])
    if arguments[:2] == ["console", "import"]:
        from edgeinfer.cli.carry import run_import

        return run_import(arguments[2:])
    if arguments[:1] == ["console"] and arguments[1:2] in (["audit"], ["logs"]):
        from edgeinfer.cli.oversight import run_oversight

        return run_oversight(arguments[1:])
    if arguments and arguments[0] in SERVICES:
        return call_service(arguments[0], arguments[1:])
    from edgeinfer.cli.app import run_app

    with _ends_in_order():
        return run_app(arguments)


def _version() -> str:
    from importlib.metadata import version

    return version("edgeinfer")


def _guarded(command: Callable[[], int]) -> int:
    """The one place where errors end."""
    try:
        return command()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _FAILED
    except EdgeInferError as error:
        return _INTERRUPTED if _was_interrupted(error) else _report(error)
    except ImportError as error:
        if _was_interrupted(error):
            return _INTERRUPTED
        missing = _missing_extra(error)
        if missing is None:
            return _report_unexpected(error)
        return _report(missing, error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _report(EdgeInferError(f"{where}{error.strerror or error}"), error)
    except SystemExit as stop:
        return _status(stop)
    except Exception as error:  # the top of the program: whatever is left is a defect, told in one line
        return _report_unexpected(error)


def _was_interrupted(error: BaseException) -> bool:
    """Whether a Ctrl-C is what it came from: one that hits while a compiled module starts becomes its ImportError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__
    return False


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP (a terminal or a connection that goes away) unwind the program as Ctrl-C does: what was begun
    is taken back, temporary folders are removed. Where somebody has said otherwise (`nohup`), that stands."""
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: object) -> None:
    """Once: a second one ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(_SIGNALLED + number)


def _status(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code
    sys.stderr.write(f"{stop.code}\n")
    return _FAILED


def _missing_extra(error: ImportError) -> DependencyError | None:
    module = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        return None
    return DependencyError(
        f"this needs {module}, which is not installed here", hint=f"pip install 'edgeinfer[{extra}]'"
    )


def _report(error: EdgeInferError, cause: BaseException | None = None) -> int:
    _show_traceback(cause or error)
    sys.stderr.write(f"edgeinfer: error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {error.hint}\n")
    return error.exit_code


def _report_unexpected(error: Exception) -> int:
    _show_traceback(error)
    sys.stderr.write(f"edgeinfer: error: unexpected {type(error).__name__}: {error}\n")
    sys.stderr.write("  hint: edgeinfer --debug COMMAND shows where it comes from\n")
    return _FAILED


def _show_traceback(error: BaseException) -> None:
    """With --debug: where it comes from. The message and the exit status stay what they are."""
    if os.environ.get(_DEBUG_VARIABLE, "") not in {"", "0"}:
        traceback.print_exception(error)


def _flush_quietly() -> None:
    """A reader that left early (`| head`) must not cost a traceback at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
