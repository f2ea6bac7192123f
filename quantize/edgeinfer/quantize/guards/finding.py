"""What a guard found."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

Severity = Literal["refuse", "warn"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is a word for the machine, `text` a sentence for the table. `refuse`: the model is of no use as it is."""

    kind: str
    severity: Severity
    text: str
