"""Commands about this device: what it holds, whether anything is missing, what is wrong with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeinfer.cli.shared import JsonFlag, print_json, print_line
from edgeinfer.runtime.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.runtime.audit import Audit, RangeAudit
    from edgeinfer.runtime.inspect import StoredResult
    from edgeinfer.runtime.results import Item, Result

    Labels = dict[str, tuple[str, ...]]
    Units = dict[str, str]

__all__ = ["audit", "doctor", "probe", "results", "state_folders"]

_DEFAULT_CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
_FOLLOW_PAUSE_S = 0.5
_MIB = 1 << 20
# An embedding has hundreds: a line shows the first ones, --json all.
_ITEMS_SHOWN = 20
# Kinds whose values may be of any size; others are mostly within 0..1.
_MEASURED = {"REGRESSION", "EMBEDDING", "RAW"}

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The daemon's edgeinfer.toml.")]
StateDirOption = Annotated[Path | None, typer.Option("--state-dir", help="The daemon's folder, in place of --config.")]


def results(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    pipeline: Annotated[str, typer.Option(help="Only this pipeline's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many of the newest.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the results that this device still holds."""
    from edgeinfer.runtime.inspect import label_names, units
    from edgeinfer.runtime.inspect import results as read_results

    if follow and as_json:
        raise UsageError("--follow never ends, and --json prints one document: choose one of them")
    folder = state_folders(config, state_dir)[0]
    found, labels = read_results(folder, pipeline=pipeline, limit=limit), label_names(folder)
    if pipeline and not found:
        _check_pipeline(folder, pipeline)
    measured = units(folder)
    if as_json:
        print_json({"results": [_document(stored, labels, measured) for stored in found]})
        return
    _print_results(found, labels, measured)
    if follow:
        _follow(folder, pipeline, found[-1].seq if found else 0, labels, measured)


def _check_pipeline(folder: Path, pipeline: str) -> None:
    """One that has no results yet is no mistake; a name that nothing here has is one."""
    from edgeinfer.runtime.inspect import pipeline_names

    names = pipeline_names(folder)
    if names and pipeline not in names:
        raise UsageError(f"--pipeline: there is no pipeline {pipeline!r} here", hint=f"there are {', '.join(names)}")


def _document(stored: "StoredResult", labels: "Labels", measured: "Units") -> dict[str, Any]:
    """A result for a program that knows nothing of how it is stored: names for numbers, every field there."""
    result = stored.result
    items = [
        {
            "label": item.label,
            "name": _name(result, item.label, labels.get(stored.pipeline)),
            "score": item.score,
            "box": item.box,
        }
        for item in result.items
    ]
    fields = {name: getattr(result, name) for name in ("t_ns", "frame", "latency_us", "age_us", "extra")}
    return {
        "seq": stored.seq,
        "pipeline": stored.pipeline,
        "unit": _unit(stored, measured),
        "result": {"kind": result.kind.name.lower(), **fields, "items": items},
    }


def _name(result: "Result", label: int, labels: "tuple[str, ...] | None") -> str:
    # The labels of an embedding's package are not its dimensions.
    is_named = labels and 0 <= label < len(labels) and result.kind.name != "EMBEDDING"
    return labels[label] if labels and is_named else str(label)


def _unit(stored: "StoredResult", measured: "Units") -> str:
    return measured.get(stored.pipeline, "") if stored.result.kind.name == "REGRESSION" else ""


def _follow(folder: Path, pipeline: str, after_seq: int, labels: "Labels", measured: "Units") -> None:
    import sys
    import time

    from edgeinfer.runtime.inspect import results as read_results

    while True:
        found = read_results(folder, pipeline=pipeline, after_seq=after_seq, limit=1000)
        _print_results(found, labels, measured)
        sys.stdout.flush()
        after_seq = found[-1].seq if found else after_seq
        time.sleep(_FOLLOW_PAUSE_S)


def _print_results(found: "list[StoredResult]", labels: "Labels", measured: "Units") -> None:
    import datetime as dt

    for stored in found:
        result = stored.result
        moment = dt.datetime.fromtimestamp(result.t_ns / 1e9, tz=dt.UTC)
        items = _items_text(result, labels.get(stored.pipeline), _unit(stored, measured))
        extra = " ".join(f"{key}={value}" for key, value in (result.extra or {}).items())
        head = (
            f"{stored.seq} {moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z {stored.pipeline} "
            f"{result.kind.name.lower()} frame={result.frame} latency_us={result.latency_us}"
        )
        print_line(" ".join(part for part in (head, items, extra) if part))


def _items_text(result: "Result", labels: "tuple[str, ...] | None", unit: str) -> str:
    form = ".5g" if result.kind.name in _MEASURED else ".3f"
    shown = [
        f"{_name(result, item.label, labels)}:{item.score:{form}}{unit}{_place(result, item)}"
        for item in result.items[:_ITEMS_SHOWN]
    ]
    left_out = len(result.items) - len(shown)
    return " ".join(shown) + (f" and {left_out} more" if left_out else "")


def _place(result: "Result", item: "Item") -> str:
    """Where a keypoint is: it says nothing without."""
    if result.kind.name != "KEYPOINTS" or item.box is None:
        return ""
    return f"@{item.box[0]:.3f},{item.box[1]:.3f}"


def audit(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    sync_dir: Annotated[Path | None, typer.Option("--sync-dir", help="The agent's folder, with --state-dir.")] = None,
    since: Annotated[str, typer.Option(help="From when on: 2h, 7d, or 2026-03-01T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Until when; as --since.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Tell whether any result is missing. Counts every frame, too; status 1 if something is wrong."""
    from edgeinfer.runtime.audit import audit as make_audit

    folder, configured_sync_dir = state_folders(config, state_dir)
    found = make_audit(folder, sync_dir or configured_sync_dir, since_ns=_moment(since), until_ns=_moment(until))
    if as_json:
        print_json(found)
    else:
        _print_audit(found)
    if not found.ok:
        raise typer.Exit(1)


def _moment(text: str) -> int | None:
    import time

    from edgeinfer.runtime.moments import parse_moment

    return parse_moment(text, now_ns=time.time_ns()) if text else None


def _print_audit(found: "Audit") -> None:
    for name in ("epoch", "made", "durable", "sent", "acknowledged"):
        _print_field(name, getattr(found, name))
    _print_field("evicted", _evicted(found.evicted, found.evicted_by_reason))
    for name in ("held", "duplicates", "refused", "damaged"):
        _print_field(name, getattr(found, name))
    _print_field("gaps", _gaps(found.gaps))
    _print_field("chain", _chain(found))
    _print_field("frames", ", ".join(f"{count} {state}" for state, count in sorted(found.frames.items())) or "none")
    for epoch, first, last in found.left:
        _print_field("left", f"{first}-{last} of an earlier buffer (epoch {epoch}): made, and never acknowledged")
    for salvage in found.salvages:
        lost = "an unknown number" if salvage.lost is None else salvage.lost
        _print_field("salvaged", f"{salvage.salvaged} results from {salvage.file}, {lost} lost: {salvage.why}")
    if found.range is not None:
        _print_range(found.range)
    if found.is_salvaging:
        print_line("a damaged buffer is being salvaged: ask again when that is done")
    elif found.ok and found.evicted:
        print_line(f"{found.evicted} results were given up; nothing else is missing")
    else:
        print_line("nothing is missing" if found.ok else "SOMETHING IS MISSING OR DAMAGED")


def _print_range(found: "RangeAudit") -> None:
    from edgeinfer.runtime.moments import iso

    since = "the beginning" if found.since_ns is None else iso(found.since_ns)
    until = "now" if found.until_ns is None else iso(found.until_ns)
    print_line(f"numbered from {since} to {until}, rounded outwards:")
    for name in ("made", "durable", "sent", "acknowledged"):
        _print_field(f"  {name}", getattr(found, name), width=16)
    forgotten = "" if found.evicted_is_complete else " and more that is forgotten"
    _print_field("  evicted", _evicted(sum(found.evicted.values()), found.evicted) + forgotten, width=16)
    _print_field("  gaps", _gaps(found.gaps), width=16)


def _print_field(name: str, value: object, *, width: int = 14) -> None:
    print_line(f"{name:<{width}}{value}")


def _evicted(count: int, by_reason: dict[str, int]) -> str:
    reasons = ", ".join(f"{reason}: {part}" for reason, part in sorted(by_reason.items()))
    return f"{count} ({reasons})" if count else "0"


def _gaps(gaps: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{first}-{last}" for first, last in gaps) or "none"


def _chain(found: "Audit") -> str:
    chain = found.chain
    if chain.breaks_at is not None:
        return f"BROKEN at number {chain.breaks_at}"
    unlinked = f", {chain.unlinked} that cannot be checked" if chain.unlinked else ""
    return f"unbroken over {chain.verified} chunks{unlinked}"


def state_folders(config: Path | None, state_dir: Path | None) -> tuple[Path, Path | None]:
    """The daemon's folder and the agent's, from the options or from the usual configuration file."""
    if state_dir is not None:
        return state_dir, None
    if config is None and not _DEFAULT_CONFIG.exists():
        raise UsageError(f"expected --config or --state-dir: there is no {_DEFAULT_CONFIG}")
    from edgeinfer.runtime.config import load_config
    from edgeinfer.runtime.settings import RuntimeConfig

    settings = load_config(config or _DEFAULT_CONFIG, RuntimeConfig)
    return Path(settings.state_dir), Path(settings.sync.state_dir) if settings.sync.state_dir else None


def probe(*, as_json: JsonFlag = False) -> None:
    """Show what this device is."""
    import msgspec

    from edgeinfer.devices.probe import probe as read_profile

    profile = read_profile()
    if as_json:
        print_json(profile)
        return
    for name, value in msgspec.to_builtins(profile).items():
        print_line(f"{name:<14}{_readable(name, value)}")


def _readable(name: str, value: object) -> str:
    if name == "memory_bytes" and isinstance(value, int):
        return f"{value} ({value // _MIB} MiB)"
    if name == "thermal_zones" and isinstance(value, list | tuple):
        return ", ".join(f"{zone['name']} {zone.get('temperature_c', '?')} C" for zone in value) or "none"
    if isinstance(value, dict):
        return ", ".join(str(entry) for entry in value.values()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(str(entry) for entry in value) or "none"
    return str(value) or "unknown"


def doctor(
    *,
    config: ConfigOption = None,
    sync_config: Annotated[Path | None, typer.Option(help="The agent's sync.toml.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Look for what is wrong here. Says how to mend it; status 1 if anything is."""
    from edgeinfer.cli.checkup import checkup

    findings = checkup(config, sync_config)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            print_line(f"{'ok  ' if finding.ok else 'BAD '} {finding.check}: {finding.detail}")
            if finding.mend:
                print_line(f"       mend: {finding.mend}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
