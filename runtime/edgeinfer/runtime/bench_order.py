"""An order of the console to time a package here, and what came of it, as the daemon and the agent hand them over.

The agent downloads the package to `models/incoming/{sha256}.bench`, then passes the console's signed command on, as it
came, in the note BENCH_NOTE of `sync.db`. The daemon checks all of it again, and answers in `runtime.db`. An empty note
withdraws the order.
"""

from typing import Annotated

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import RefusedError

__all__ = ["BENCH_KIND", "BENCH_NOTE", "BENCH_SUFFIX", "MAX_DOCUMENT_BYTES", "BenchAnswer", "BenchOrder", "read_order"]

BENCH_KIND = "bench"
BENCH_NOTE = "bench"
BENCH_SUFFIX = ".bench"
# Of the JSON that `edgeinfer bench` prints: some 700 bytes a variant.
MAX_DOCUMENT_BYTES = 256 << 10
# Clocks of devices and consoles differ; more than this is a clock that is wrong.
_TOLERANCE_S = 300

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class BenchOrder(msgspec.Struct, frozen=True):
    """The payload of the signed command, as far as it is carried out here: time each variant of the package for
    `each_ms` milliseconds with `threads` threads. Good from `issued_s` to `expires_s`, seconds since 1970."""

    id: str
    device: str
    kind: str
    issued_s: _Count
    expires_s: _Count
    blob_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    blob_bytes: Annotated[int, msgspec.Meta(ge=1, le=4 << 30)]
    each_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)]
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)]


class BenchAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an order. `order` is the sha256 of its envelope, `issued_s` that of the latest order that was
    begun. `document` is the JSON of `edgeinfer.runtime.bench.Bench`; where it was `done` without one, `error` says
    why."""

    order: str = ""
    issued_s: int = 0
    done: bool = False
    document: str = ""
    error: str = ""


def read_order(payload: bytes, *, device: str, after_s: int, now_s: float) -> BenchOrder:
    """An order whose signature is good. Raises RefusedError: no order, another device's, expired, or not issued later
    than the latest that was begun here, at `after_s`. `now_s` is of the wall clock."""
    try:
        order = msgspec.json.decode(payload, type=BenchOrder)
    except MALFORMED as error:
        raise RefusedError(f"expected an order to time a package: {error}") from error
    if order.kind != BENCH_KIND or order.device != device:
        found = f"{order.kind[:80]!r} for {order.device[:80]!r}"
        raise RefusedError(f"expected an order of kind {BENCH_KIND!r} for {device}, found {found}")
    if order.issued_s > now_s + _TOLERANCE_S:
        raise RefusedError(f"issued {order.issued_s - now_s:.0f} s after now: one of the clocks is wrong")
    if order.expires_s < now_s - _TOLERANCE_S:
        raise RefusedError(f"expired {now_s - order.expires_s:.0f} s ago")
    if order.issued_s <= after_s:
        raise RefusedError("an order that was issued at that time or later has been carried out already")
    return order
