"""Measures the variants of a package on this device and keeps what came of it.

    passed = pass_gate(manifest, GateRequest(state_dir, digest, "", threads=1), db=db, ask=ask)
    chosen_variant(db, package)     # from then on, also after a restart

Each variant passes the gate in a short-lived process of its own, one after the other, at a low priority: one that
crashes its engine, or gives other outputs than when the package was made, is passed over, and what runs goes on
meanwhile.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgeinfer.runtime.choice import Basis, Choice, Tried, decide
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.engines.base import engine_versions
from edgeinfer.runtime.errors import BufferStorageError, GateError, RefusedError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.manifest import Manifest, Variant
from edgeinfer.runtime.store import InstalledPackage
from edgeinfer.runtime.variants import usable_variants
from edgeinfer.runtime.verify import GateAnswer, GateRequest

__all__ = ["BENCH_S", "chosen_variant", "current_basis", "is_due", "pass_gate"]

logger = logging.getLogger(__name__)

# How long each variant is timed, after it was loaded and checked: enough for the order, little for a person who waits.
BENCH_S = 1.0
# A package may hold many; an update must end some time.
_MOST_TRIED = 8
_MAX_ERROR = 500

Ask = Callable[[GateRequest], bytes]


def pass_gate(
    manifest: Manifest, request: GateRequest, *, db: RuntimeDb, ask: Ask, anew: bool = False
) -> dict[str, Any]:
    """What the gate measured of the variant that this device will use; with `tried`, where it had a choice and made
    one. A choice that was made before and still passes stays, unless it is wanted `anew`: who goes back to a version
    is in a hurry. Raises RefusedError where no variant passes, StorageError where nothing can be checked now."""
    variants = usable_variants(manifest) if manifest.choose == "measured" and not request.variant else ()
    if len(variants) <= 1:
        return msgspec.structs.asdict(_decoded(ask(request)))
    known = db.choice(request.digest)
    if not anew and known is not None and not is_due(manifest, known, wanted="", threads=request.threads):
        kept = _try(msgspec.structs.replace(request, variant=known.variant), ask)
        if not kept.error:
            return _as_answer(kept)
    return _measure(variants, request, db, ask)


def _measure(variants: Sequence[Variant], request: GateRequest, db: RuntimeDb, ask: Ask) -> dict[str, Any]:
    tried = tuple(
        _try(msgspec.structs.replace(request, variant=one.id, bench_s=BENCH_S), ask) for one in variants[:_MOST_TRIED]
    )
    chosen = decide(tried)
    if not chosen:
        raise GateError("no variant passes here: " + "; ".join(f"{one.variant}: {one.error}" for one in tried))
    db.set_choice(request.digest, Choice(chosen, current_basis(request.threads), tried))
    found = next(one for one in tried if one.variant == chosen)
    logger.info("event=variant_chosen digest=%s variant=%s latency_us=%d", request.digest, chosen, found.latency_us)
    return {**_as_answer(found), "tried": [msgspec.to_builtins(one) for one in tried]}


def _as_answer(tried: Tried) -> dict[str, Any]:
    return msgspec.structs.asdict(GateAnswer(tried.variant, tried.max_abs, tried.latency_us, tried.bytes))


def chosen_variant(db: RuntimeDb, package: InstalledPackage) -> str:
    """The variant that was measured to be the best here, as long as it can be run; empty where there is none, and the
    package's own order counts."""
    if package.manifest.choose == "first":
        return ""
    try:
        choice = db.choice(package.digest)
    except BufferStorageError as error:
        logger.warning("event=choice_unreadable digest=%s error=%s", package.digest, error)
        return ""
    usable = {variant.id for variant in usable_variants(package.manifest)}
    return choice.variant if choice is not None and choice.variant in usable else ""


def is_due(manifest: Manifest, choice: Choice | None, *, wanted: str, threads: int) -> bool:
    """Whether the choice has to be made, or made anew. `wanted` is the variant that the configuration insists on."""
    if manifest.choose == "first" or wanted or len(usable_variants(manifest)) <= 1:
        return False
    return choice is None or choice.basis != current_basis(threads)


def current_basis(threads: int) -> Basis:
    from edgeinfer.devices.probe import cpu

    name, features = cpu()
    return Basis(name, features, engine_versions(), threads)


def _try(request: GateRequest, ask: Ask) -> Tried:
    try:
        answer = _decoded(ask(request))
    except RefusedError as error:
        logger.warning("event=variant_unusable digest=%s variant=%s error=%s", request.digest, request.variant, error)
        return Tried(request.variant, error=str(error)[:_MAX_ERROR])
    return Tried(answer.variant, answer.latency_us, answer.max_abs, answer.bytes)


def _decoded(answer: bytes) -> GateAnswer:
    try:
        return msgspec.json.decode(answer, type=GateAnswer)
    except MALFORMED as error:
        raise GateError(f"the gate's answer cannot be read: {error}") from error
