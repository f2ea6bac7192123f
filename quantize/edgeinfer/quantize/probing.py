"""Layers tried one by one: what each costs, or mends, when it alone has another precision."""

from collections.abc import Callable, Sequence

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.looking import Looks
from edgeinfer.quantize.making import Maker
from edgeinfer.quantize.schemes.base import Layer, Precision, Scheme
from edgeinfer.quantize.search.mixing import LayerCost
from edgeinfer.runtime.errors import ModelError

__all__ = ["MAX_PROBED", "probe"]

# Of a model with more layers the heaviest are tried.
MAX_PROBED = 80


def probe(
    scheme: Scheme,
    candidate: Candidate,
    precision: Precision,
    layers: Sequence[Layer],
    *,
    maker: Maker,
    looks: Looks,
    go_on: Callable[[Layer], bool],
) -> tuple[LayerCost, ...]:
    """Each layer alone in `precision`, the others as the scheme has them, in the order of `layers`, which is the
    network's. `candidate` is the scheme's own. `go_on` is asked before each one. A layer is left out where that cannot
    be made or run."""
    own = candidate.path.stat().st_size
    tried = sorted(range(len(layers)), key=lambda index: -layers[index].weights)[:MAX_PROBED]
    found: dict[int, LayerCost] = {}
    for index in tried:
        layer = layers[index]
        if not go_on(layer):
            break
        name = f"{scheme.id}-probe-{index}"
        target = candidate.path.with_name(f"{name}{candidate.path.suffix}")
        try:
            if maker.write(scheme, target, {layer.name: precision}):
                continue
            lone = Candidate(
                name, candidate.engine, "mixed", target, quantized=candidate.quantized, feeding=candidate.feeding
            )
            saved = own - target.stat().st_size
            found[index] = LayerCost(layer.name, layer.op, layer.weights, looks.divergence(lone), saved)
        except ModelError:
            continue  # an engine that cannot run it with this layer as it is
        finally:
            target.unlink(missing_ok=True)
    return tuple(found[index] for index in sorted(found))
