"""Labelled samples: read from an archive, pictures or tables, checked, and split.

    loaded = load_samples(Path("samples.npz"), task="classification")
    samples = split(prepared(loaded, declared, model_input, where="samples.npz"), task="classification")

The forms, each in a module of its own: an `.npz` (`archive`), a folder of pictures (`images`), pictures with boxes
(`boxes_file`), and CSV tables (`tables`).
"""

from edgeinfer.quantize.dataset.loading import load_samples
from edgeinfer.quantize.dataset.options import SampleOptions
from edgeinfer.quantize.dataset.samples import Loaded, Samples, prepared
from edgeinfer.quantize.dataset.splitting import split

__all__ = ["Loaded", "SampleOptions", "Samples", "load_samples", "prepared", "split"]
