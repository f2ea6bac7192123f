"""Which variants of a package this device can run, and which of them it uses."""

from edgeinfer.runtime.choice import runnable
from edgeinfer.runtime.engines.base import available_engines
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import Manifest, Variant

__all__ = ["choose_variant", "fastest_variant", "usable_variants"]


def choose_variant(manifest: Manifest, *, wanted: str = "") -> Variant:
    """The variant named `wanted`, or the first that this device can run. Raises ModelError."""
    if wanted:
        for variant in manifest.variants:
            if variant.id == wanted:
                return variant
        known = ", ".join(variant.id for variant in manifest.variants)
        raise ModelError(f"package {manifest.name} {manifest.version} has no variant {wanted!r}: it has {known}")
    usable = usable_variants(manifest)
    if usable:
        return usable[0]
    engines = available_engines()
    lacking = [f"{one.id} requires {', '.join(one.requires)}" for one in manifest.variants if one.engine in engines]
    if lacking:
        raise ModelError(
            f"package {manifest.name} {manifest.version} has no variant for this processor: {'; '.join(lacking)}",
            hint="make the package with a variant that requires nothing",
        )
    needed = sorted({variant.engine for variant in manifest.variants})
    raise ModelError(
        f"package {manifest.name} {manifest.version} needs one of the engines {needed}, found {list(engines)}",
        hint=f"pip install 'edgeinfer[{needed[0]}]'",
    )


def usable_variants(manifest: Manifest) -> tuple[Variant, ...]:
    """Those that an engine and the processor here can run, in the package's order."""
    features: tuple[str, ...] = ()
    if any(variant.requires for variant in manifest.variants):
        from edgeinfer.devices.probe import cpu

        _, features = cpu()
    return runnable(manifest, engines=available_engines(), features=features)


def fastest_variant(manifest: Manifest) -> Variant | None:
    """The variant with the shortest latency that was measured, or the smallest file where none was."""
    usable = usable_variants(manifest)
    return min(usable, key=lambda variant: (_latency_us(variant), variant.bytes), default=None)


def _latency_us(variant: Variant) -> float:
    measured = [metrics["latency_us"] for metrics in variant.metrics.values() if "latency_us" in metrics]
    return min(measured, default=float("inf"))
