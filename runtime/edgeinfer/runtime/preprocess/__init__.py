"""Preprocessing, compiled once from the package's declaration for one variant's input tensor.

    prepare = compile_preprocess(manifest.preprocess, engine.inputs[0])
    target = prepare.new_target()
    region = prepare(frame.data, target)

What can be decided once is decided when it is compiled: a running pipeline allocates nothing a frame.
"""

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import AudioPre, ImagePre, Preprocess, TensorPre, TensorSpec, WindowPre
from edgeinfer.runtime.preprocess.contract import WHOLE, Prepare, Region
from edgeinfer.runtime.preprocess.shapes import concrete_shape, resolve_input

__all__ = ["WHOLE", "Prepare", "Region", "compile_preprocess", "concrete_shape", "resolve_input"]


def compile_preprocess(declared: Preprocess, spec: TensorSpec) -> Prepare:
    """Raises ModelError where the declaration does not fit the tensor."""
    spec = resolve_input(declared, spec)
    match declared:
        case ImagePre():
            from edgeinfer.runtime.preprocess.picture import PicturePrepare

            return PicturePrepare(declared, spec)
        case WindowPre():
            from edgeinfer.runtime.preprocess.window import WindowPrepare

            return WindowPrepare(declared, spec)
        case AudioPre():
            from edgeinfer.runtime.preprocess.audio import AudioPrepare

            return AudioPrepare(declared, spec)
        case TensorPre():
            from edgeinfer.runtime.preprocess.tensor import TensorPrepare

            return TensorPrepare(spec)
    raise ModelError(f"expected a known preprocessing, found {declared!r}")
