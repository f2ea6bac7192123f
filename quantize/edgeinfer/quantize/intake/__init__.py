"""What happens to the user's model files before anything is made of them.

Each file is looked at, cleaned, loaded and run once in a short-lived process of its own: a hostile or broken one can
end that process, not this one. ONNX files come out self-contained, with fixed sizes, and with nothing in them that a
scheme would stumble over; what was changed is told in `ModelFile.notes`.

    models = take_in([Path("kws.onnx"), Path("kws.tflite")], folder, rows=(49, 10, 1))
    check_same(models, rows)
"""

from edgeinfer.quantize.intake.process import Limits
from edgeinfer.quantize.intake.same import check_same
from edgeinfer.quantize.intake.taking import take_in

__all__ = ["Limits", "check_same", "take_in"]
