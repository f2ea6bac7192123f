"""What goes to the process that looks at a model file, and what comes back."""

import msgspec

from edgeinfer.quantize.feeding import Feeding
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["Found", "Job"]


class Job(msgspec.Struct, frozen=True):
    """Take in the file `source`, write a clean one to `target` (ONNX; TFLite files stay as they are).

    `shape` is that of the frame's input with its batch, where the model leaves sizes of it open.
    """

    source: str
    target: str
    engine: str
    feeding: Feeding
    shape: tuple[int, ...] = ()
    threads: int = 1
    max_memory_bytes: int = 0


class Found(msgspec.Struct, frozen=True):
    """What the file is, or `error` and whose it is: "model", "usage", "storage" or "missing" (a library).

    `open_input`: the frame's input where sizes behind its batch are open, named in `open_names`; nothing was loaded
    then, and the job has to be given again with a shape.
    """

    error: str = ""
    hint: str = ""
    kind: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    library: str = ""
    notes: tuple[str, ...] = ()
    unquantizable: str = ""
    open_input: TensorSpec | None = None
    open_names: tuple[str, ...] = ()
