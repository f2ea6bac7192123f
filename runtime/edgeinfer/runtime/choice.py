"""Which variant of a package this device uses: what it measured, and what follows from that. No I/O.

A choice counts for the package, the processor, the engines and the number of threads that it was made with. Where one
of these has changed it goes on being used as long as it can be run, and is made anew.
"""

from collections.abc import Collection, Sequence

import msgspec

from edgeinfer.runtime.manifest import Manifest, Variant

__all__ = ["MARGIN", "Basis", "Choice", "Tried", "decide", "runnable"]

# What is not faster by more than this may be noise: the package's own order decides then.
MARGIN = 0.05


class Basis(msgspec.Struct, frozen=True):
    """What a choice was made with: the processor and its features, the engines' versions, the threads."""

    cpu: str
    features: tuple[str, ...]
    engines: dict[str, str]
    threads: int


class Tried(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant: its median call, how far its golden outputs were off, the memory that it took. `error` says why it
    cannot be used here."""

    variant: str
    latency_us: int = 0
    max_abs: float = 0.0
    bytes: int = 0
    error: str = ""


class Choice(msgspec.Struct, frozen=True):
    """`variant` of those `tried`, in the package's order."""

    variant: str
    basis: Basis
    tried: tuple[Tried, ...]


def runnable(manifest: Manifest, *, engines: Collection[str], features: Collection[str]) -> tuple[Variant, ...]:
    """The variants that have their engine and what they require, in the package's order."""
    return tuple(
        variant for variant in manifest.variants if variant.engine in engines and set(variant.requires) <= set(features)
    )


def decide(tried: Sequence[Tried]) -> str:
    """The first of those without an error that no other beats by more than `MARGIN`; empty where all have one."""
    good = [one for one in tried if not one.error]
    fastest_us = min((one.latency_us for one in good), default=0)
    return next((one.variant for one in good if one.latency_us * (1.0 - MARGIN) <= fastest_us), "")
