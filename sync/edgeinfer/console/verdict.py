"""What an audit comes to: sentences for a person, the worst first, and the document of the REST API."""

from typing import Any

import msgspec

from edgeinfer.console.audit import CAUSES, Hole, RangeAudit

__all__ = ["CONFLICT", "Finding", "audit_document", "findings"]

CONFLICT = "two devices send under this name and share a buffer, or a stored chunk was altered"

_LEVELS = ("bad", "warn", "good")
_OF_CAUSE = {
    "vanished": ("bad", "gone from the console's database, where they were stored"),
    "missing": ("bad", "missing: the device has lost them and can never send them"),
    "left": ("bad", "left on a buffer that the device has put aside: it made them, and they have not come"),
    "undecodable": ("bad", "undecodable: they came whole, in a form that cannot be read here"),
    "unlisted": ("bad", "not stored, and why is not listed any more"),
    "awaited": ("warn", "awaited: the device still has them, or has not said otherwise"),
    "unsent": ("warn", "still on the device, after all that has come"),
    "evicted": ("warn", "given up by the device"),
}
_REASONS_NAMED = 3


class Finding(msgspec.Struct, frozen=True):
    """`level` is bad, warn or good."""

    level: str
    text: str


def findings(audit: RangeAudit) -> list[Finding]:
    """At least one; the first says whether anything is missing."""
    found = [Finding(*_not_stored(audit, cause)) for cause in CAUSES if audit.not_stored[cause]]
    if audit.conflicts:
        found.append(Finding("bad", f"{_count(audit.conflicts, 'chunk')} refused as conflicts: {CONFLICT}"))
    found += _of_chain(audit)
    found.sort(key=lambda finding: _LEVELS.index(finding.level))
    if audit.made == audit.stored:
        text = f"Nothing is missing: {_count(audit.stored, 'result')} made, and all are stored"
        whole = Finding("good", text if audit.stored else "Nothing was made in this time, as far as is known")
        return [whole, *found]
    return found


def audit_document(audit: RangeAudit) -> dict[str, Any]:
    """Times are seconds since 1970."""
    says = audit.device_says
    told = findings(audit)
    return {
        "device": audit.device,
        "since_s": _seconds(audit.since_ns),
        "until_s": _seconds(audit.until_ns),
        "complete": audit.complete,
        "verdict": min((finding.level for finding in told), key=_LEVELS.index),
        "findings": [msgspec.to_builtins(finding) for finding in told],
        "epochs": audit.epochs,
        "made": audit.made,
        "durable": says.get("durable"),
        "stored": audit.stored,
        "acknowledged": audit.acknowledged,
        **audit.not_stored,
        "evicted_because": audit.evicted_because,
        "gaps": audit.not_stored["awaited"] + audit.not_stored["vanished"],
        "duplicates": audit.duplicates,
        "conflicts": audit.conflicts,
        "holes": [_hole(hole) for hole in audit.holes],
        "holes_in_all": audit.holes_in_all,
        "chain": {**msgspec.to_builtins(audit.chain), "unbroken": not audit.chain.breaks},
        "device_says": says,
    }


def _not_stored(audit: RangeAudit, cause: str) -> tuple[str, str]:
    level, text = _OF_CAUSE[cause]
    sentence = f"{_count(audit.not_stored[cause], 'result')} {text}"
    if cause == "evicted" and audit.evicted_because:
        named = [f"{reason or 'no reason given'} ({n:,})" for reason, n in audit.evicted_because.items()]
        more = f" and {len(named) - _REASONS_NAMED} more reasons" if len(named) > _REASONS_NAMED else ""
        sentence += f": {', '.join(named[:_REASONS_NAMED])}{more}"
    return level, sentence


def _of_chain(audit: RangeAudit) -> list[Finding]:
    chain = audit.chain
    if chain.breaks:
        first = chain.broken[0]
        where = f"epoch {first.epoch}, results {first.first:,} to {first.last:,}"
        text = f"{_count(chain.breaks, 'stored chunk')} altered or exchanged, the first in {where}: {first.what}"
        return [Finding("bad", text)]
    if not chain.chunks:
        return []
    unchecked = chain.chunks - chain.verified
    rest = f"; {_count(unchecked, 'chunk')} had no link to check, and the right checksum" if unchecked else ""
    if not chain.verified:
        return [Finding("warn", f"{_count(chain.chunks, 'chunk')} without links: only the checksums could be checked")]
    return [Finding("good", f"The hash chain is unbroken: {_count(chain.verified, 'chunk')} computed again{rest}")]


def _hole(hole: Hole) -> dict[str, Any]:
    return {
        "epoch": hole.epoch,
        "first": hole.first,
        "last": hole.last,
        "n": hole.n,
        "cause": hole.cause,
        "reason": hole.reason,
        "from_s": _seconds(hole.from_ns),
        "to_s": _seconds(hole.to_ns),
    }


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _seconds(t_ns: int | None) -> float | None:
    return None if t_ns is None else t_ns / 1e9
