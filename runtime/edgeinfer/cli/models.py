"""`edgeinfer models`: which version of each model this device runs, and how a person changes that on the spot.

The running daemon is asked over its control socket, for it owns the databases. Where none runs, the command does the
work itself, holding the daemon's lock meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeinfer.cli.device import ConfigOption, StateDirOption
from edgeinfer.cli.shared import JsonFlag, existing, print_json, print_line, print_table
from edgeinfer.runtime.errors import BufferStorageError, ControlError, UsageError

if TYPE_CHECKING:
    from edgeinfer.runtime.activation import Activation
    from edgeinfer.runtime.settings import RuntimeConfig

__all__ = ["app"]

app = typer.Typer(
    help="List, activate, roll back and pin the models of this device.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DEFAULT_CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
_PACKAGE = ".edgepkg"
# A change waits for the updater, the signature's check, the gate (two minutes each at most) and the watching.
_CHANGE_TIMEOUT_S = 300.0
_SHORT = 12
_MIB = 1 << 20

ModelArgument = Annotated[str, typer.Argument(help="The model's name.", show_default=False)]


class _Device:
    """The device that is meant: its folder, and its configuration where that was named or lies in its place."""

    def __init__(self, config: Path | None, state_dir: Path | None) -> None:
        if config is None and state_dir is None and _DEFAULT_CONFIG.exists():
            config = _DEFAULT_CONFIG
        self.config = _configuration(config) if config is not None else None
        if self.config is None and state_dir is None:
            raise UsageError(f"expected --config or --state-dir: there is no {_DEFAULT_CONFIG}")
        self.state_dir = state_dir or Path(self.config.state_dir if self.config is not None else "")
        if not (self.state_dir / "runtime.db").is_file():
            raise UsageError(f"{self.state_dir}: holds no device", hint="has edgeinfer run been started with it?")

    def ask(self, request: dict[str, Any], *, file: int = -1, timeout_s: float = 10.0) -> dict[str, Any]:
        """Raises ControlError where no daemon runs."""
        from edgeinfer.runtime.control import call

        return call(self.state_dir, request, file=file, timeout_s=timeout_s)

    def change(self, do: str, model: str, *, what: str = "", file: int = -1) -> dict[str, Any]:
        """By the daemon or, where none runs, by this process."""
        request = {"do": do, "model": model, **({"what": what} if what else {})}
        try:
            done: dict[str, Any] = self.ask(request, file=file, timeout_s=_CHANGE_TIMEOUT_S)["done"]
        except ControlError as unreachable:
            with self._own_activation(unreachable, reads_file=file >= 0) as activation:
                return _obey(activation, request, file)
        return done

    @contextmanager
    def _own_activation(self, unreachable: ControlError, *, reads_file: bool) -> Iterator["Activation"]:
        from edgeinfer.runtime.activation import Activation
        from edgeinfer.runtime.handoff import RuntimeDb
        from edgeinfer.runtime.not_running import NotRunning, demands
        from edgeinfer.runtime.settings import GateConfig
        from edgeinfer.runtime.slots import Slots
        from edgeinfer.runtime.store import Store

        config = self.config
        if reads_file and config is None:
            raise UsageError(
                "expected --config: it names the keys that may sign a package", hint="or start the daemon first"
            )
        with self._lock(unreachable), RuntimeDb(self.state_dir / "runtime.db") as db:
            store = Store(self.state_dir)
            slots = Slots(db, store, release_keys=config.trust.release_keys if config is not None else ())
            yield Activation(
                slots,
                store,
                NotRunning(demands(config.pipeline if config is not None else (), db)),
                db=db,
                state_dir=self.state_dir,
                gate=lambda: config.gate if config is not None else GateConfig(),
            )

    @contextmanager
    def _lock(self, unreachable: ControlError) -> Iterator[None]:
        """The one that the daemon holds for as long as it runs: the buffer's. Raises ControlError."""
        from edgeinfer.runtime.locking import lock, unlock

        configured = self.config.buffer.path if self.config is not None else ""
        buffer = Path(configured) if configured else self.state_dir / "buffer.db"
        if not buffer.exists():
            raise UsageError(f"{buffer}: no such file", hint="name the daemon's --config: it says where its buffer is")
        try:
            held = lock(buffer, hint="")
        except BufferStorageError as error:
            raise ControlError(
                f"the daemon runs and cannot be asked: {unreachable.message}",
                hint="run this as root or as the daemon's user; a daemon that has just been started needs a moment",
            ) from error
        try:
            yield
        finally:
            unlock(held)


def _configuration(path: Path) -> "RuntimeConfig":
    from edgeinfer.runtime.config import load_config
    from edgeinfer.runtime.settings import RuntimeConfig

    return load_config(path, RuntimeConfig)


def _obey(activation: "Activation", request: dict[str, Any], file: int) -> dict[str, Any]:
    from edgeinfer.runtime.orders import handlers

    done: dict[str, Any] = handlers(activation)[request["do"]](request, file)["done"]
    return done


@app.command("list")
def list_models(*, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonFlag = False) -> None:
    """Show what is installed, and what each package is here."""
    device = _Device(config, state_dir)
    rows = _rows(device)
    if as_json:
        print_json({"models": rows})
        return
    print_table(
        ("model", "version", "digest", "slot", "variant", "pinned", "MiB"),
        [
            (
                row["model"],
                row["version"] or "damaged",
                row["digest"][:_SHORT],
                ", ".join(row["slots"]) or "none",
                _variant(row),
                "yes" if row["pinned"] else "-",
                "-" if row["bytes"] is None else f"{row['bytes'] / _MIB:.1f}",
            )
            for row in rows
        ],
    )


def _variant(row: dict[str, Any]) -> str:
    """The one that runs, or that will; and whether this device has measured that it is the best."""
    choice = row["choice"]
    shown = row["variant"] or (choice["variant"] if choice else "-")
    return f"{shown} (measured)" if choice and choice["variant"] == shown else shown


def _rows(device: _Device) -> list[dict[str, Any]]:
    """What is in the slots and, where the daemon tells, what of it is loaded."""
    try:
        rows: list[dict[str, Any]] = device.ask({"do": "models"})["models"]
        status: dict[str, Any] = device.ask({"do": "status"})["status"]
    except ControlError:
        rows, status = _rows_at_rest(device.state_dir), {}
    running = status.get("models", {})
    for row in rows:
        runs = running.get(row["model"], {}).get("digest") == row["digest"]
        row["loaded"] = runs if status else None
        row["variant"] = running[row["model"]]["variant"] if runs else ""
        row["bytes"] = status.get("model_bytes", {}).get(row["model"]) if runs else None
    return rows


def _rows_at_rest(state_dir: Path) -> list[dict[str, Any]]:
    """Without the daemon, and without a lock: its database is only read."""
    from edgeinfer.runtime.activation import Activation
    from edgeinfer.runtime.handoff import RuntimeDb
    from edgeinfer.runtime.not_running import NotRunning
    from edgeinfer.runtime.slots import Slots
    from edgeinfer.runtime.store import Store

    with RuntimeDb(state_dir / "runtime.db", read_only=True) as db:
        store = Store(state_dir)
        return Activation(Slots(db, store), store, NotRunning({}), db=db, state_dir=state_dir).models()


@app.command()
def activate(
    model: ModelArgument,
    what: Annotated[
        str,
        typer.Argument(
            metavar="VERSION|DIGEST|FILE.edgepkg", help="What is to run: installed, or a file.", show_default=False
        ),
    ],
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Have another version take over. It passes the gate first; status 3 if it does not."""
    device = _Device(config, state_dir)
    if what.endswith(_PACKAGE):
        # Opened here: the daemon's sandbox does not see where a person keeps a file.
        with existing(Path(what)).open("rb") as file:
            done = device.change("activate", model, file=file.fileno())
    else:
        done = device.change("activate", model, what=what)
    _print_engaged(done, as_json=as_json)


@app.command()
def rollback(
    model: ModelArgument, *, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonFlag = False
) -> None:
    """Have the version before the active one take over again."""
    _print_engaged(_Device(config, state_dir).change("rollback", model), as_json=as_json)


@app.command()
def choose(
    model: ModelArgument, *, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonFlag = False
) -> None:
    """Measure its variants anew on this device, and use the best."""
    done = _Device(config, state_dir).change("choose", model)
    if as_json:
        print_json(done)
        return
    tried = done["gate"].get("tried", [])
    chosen = done["gate"]["variant"]
    print_table(
        ("variant", "p50 us", "MiB", ""),
        [
            (
                one["variant"],
                one.get("latency_us", "-"),
                f"{one['bytes'] / _MIB:.1f}" if one.get("bytes") else "-",
                one.get("error") or ("chosen" if one["variant"] == chosen else ""),
            )
            for one in tried
        ],
    )
    if not tried:
        print_line(f"{model}: this device can run one variant only, {chosen}")


@app.command()
def pin(
    model: ModelArgument, *, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonFlag = False
) -> None:
    """Keep the active version: what the console assigns is refused until `unpin`."""
    done = _Device(config, state_dir).change("pin", model)
    if as_json:
        print_json(done)
    else:
        print_line(f"{model} is pinned to {done['digest'][:_SHORT]}: the console's assignments of it are refused")


@app.command()
def unpin(
    model: ModelArgument, *, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonFlag = False
) -> None:
    """Let the console decide again."""
    done = _Device(config, state_dir).change("unpin", model)
    if as_json:
        print_json(done)
    else:
        print_line(f"{model} is not pinned{' any more' if done['digest'] else ''}")


def _print_engaged(done: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    name = f"{done['model']} {done['version']} ({done['digest'][:_SHORT]})"
    if not done["changed"]:
        print_line(f"{name} is active already")
    elif done["running"]:
        print_line(f"{name} runs now; {done['swap_ms']:.0f} ms lay between the last result before it and its first")
    else:
        print_line(f"{name} is active: the daemon uses it from its next start on")
