"""Models that remember: states carried from row to row of a sequence, as a device carries them along a source."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.feeding import FED_ALONE, Feeding, frame_input
from edgeinfer.quantize.rows import Rows
from edgeinfer.runtime.engines import Engine, load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.preprocess import concrete_shape

__all__ = ["Carrying", "RowCalibration", "calibration_of", "starts"]


class _Inputs:
    """A model's inputs in its own order: the frame's, constants, and states, which are zeros until `keep`."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], feeding: Feeding) -> None:
        """Without `outputs` there is nothing to keep."""
        specs = tuple(inputs)
        fed = {state.input for state in feeding.states} | {constant.input for constant in feeding.constants}
        self.frame = next(index for index, spec in enumerate(specs) if spec.name not in fed)
        self.spec = feeding.input or specs[self.frame]
        self._dtypes = [np.dtype(spec.dtype) for spec in specs]
        values = {constant.input: constant.value for constant in feeding.constants}
        self._first = [np.full(concrete_shape(spec), values.get(spec.name, 0.0), dtype=spec.dtype) for spec in specs]
        names, made = [spec.name for spec in specs], [spec.name for spec in outputs]
        self._states = [(names.index(one.input), made.index(one.output)) for one in feeding.states if made]
        self._now = list(self._first)

    def restart(self) -> None:
        self._now = list(self._first)

    def of(self, row: Array) -> list[Array]:
        fed = list(self._now)
        fed[self.frame] = row.astype(self._dtypes[self.frame], copy=False)
        return fed

    def keep(self, outputs: Sequence[Array]) -> None:
        """What the model gave becomes what it is fed with next."""
        for slot, output in self._states:
            self._now[slot] = outputs[output].astype(self._dtypes[slot]).reshape(self._first[slot].shape)


class Carrying:
    """An engine that looks like one of a single input, and carries states from call to call until `restart`."""

    def __init__(self, engine: Engine, feeding: Feeding) -> None:
        frame_input(engine.inputs, engine.outputs, feeding, about="model")
        self._inputs = _Inputs(engine.inputs, engine.outputs, feeding)
        self.engine = engine
        self.name, self.version = engine.name, engine.version
        self.inputs: tuple[TensorSpec, ...] = (self._inputs.spec,)
        self.outputs = engine.outputs

    def restart(self) -> None:
        """Zeros again, as at the start of a source."""
        self._inputs.restart()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        (frame,) = inputs
        outputs = self.engine.run(self._inputs.of(frame))
        self._inputs.keep(outputs)
        return outputs

    def interrupt(self) -> bool:
        return self.engine.interrupt()

    def close(self) -> None:
        self.engine.close()


def starts(group: Array | None, count: int) -> Array:
    """(count,) bool: whether a sequence begins with this row. Rows of one group that follow each other are a sequence;
    without groups each row is one."""
    if group is None:
        return np.ones(count, dtype=bool)
    changed: Array = np.ones(count, dtype=bool)
    changed[1:] = group[1:] != group[:-1]
    return changed


class RowCalibration:
    """Rows as a float model's inputs, in its own order and dtypes: a `schemes.base.Calibration`.

    `inputs` are the model's own. A model with states starts from zeros with each row, or with each sequence of
    `group` where `opened` loads the model, so that its states can be carried along.
    """

    def __init__(
        self,
        rows: Rows,
        inputs: Sequence[TensorSpec],
        *,
        feeding: Feeding = FED_ALONE,
        group: Array | None = None,
        opened: Callable[[], Engine] | None = None,
    ) -> None:
        self.rows = rows
        self._inputs = tuple(inputs)
        self._feeding = feeding
        self._group = group
        self._opened = opened if feeding.states and group is not None else None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[Array]]:
        if self._opened is not None:
            yield from self._carried(self._opened())
            return
        fed = _Inputs(self._inputs, (), self._feeding)
        for index in range(len(self.rows)):
            yield fed.of(self.rows.row(index))

    def _carried(self, engine: Engine) -> Iterator[list[Array]]:
        try:
            fed = _Inputs(engine.inputs, engine.outputs, self._feeding)
            for index, first in enumerate(starts(self._group, len(self.rows))):
                if first:
                    fed.restart()
                inputs = fed.of(self.rows.row(index))
                yield inputs
                fed.keep(engine.run(inputs))
        finally:
            engine.close()


def calibration_of(candidate: Candidate, rows: Rows, *, group: Array | None = None) -> RowCalibration:
    """Rows as the inputs of a float candidate, with its feeding. Raises ModelError, DependencyError."""

    def opened() -> Engine:
        return load_engine(candidate.engine, candidate.path)

    engine = opened()
    try:
        inputs = engine.inputs
    finally:
        engine.close()
    return RowCalibration(rows, inputs, feeding=candidate.feeding, group=group, opened=opened)
