"""The prose of docs/schemes.md, one family of schemes after the other. schemes.py puts the tables below it."""

import re
from dataclasses import dataclass

__all__ = ["FAMILIES", "INTRODUCTION", "PROFILES", "Family"]

INTRODUCTION = """# Schemes and profiles

What `edgeinfer quantize` tries, when each of it wins, and what each came to on the four models of
[MLPerf Tiny](https://github.com/mlcommons/tiny): ic (ResNet8, dense convolutions), kws (DS-CNN, depthwise
convolutions), vww (MobileNetV1 0.25, depthwise, with many dead channels), ad (an autoencoder, matrices on single rows).
Written by `make docs` from the code and from `schemes.json`, which `python tests/bench/measure_schemes.py` measures.
[quantization.md](quantization.md) says how the search works.

Rung 0 is tried on every model, rung 1 while there is time, rung 2 by `--exhaustive` only. A `-` in a table is a
candidate that could not be made of that model, or would have been the same file.

A cell is **latency ratio / metric / agreement with the float model / KiB**. The ratio is to ONNX Runtime's time of the
float model: below 1 is faster. In bold: the pick. † marks what the budget or a guard refused; its ratio is from a
first rough look (~), taken while other work shared the machine. Differences of a point are noise on these numbers of
samples."""

PROFILES = """## Profiles

Kinds of device that `--target` knows without having one. Nothing is timed there: rules with a source (the two files
`kernel_rules.py` and `kernels.py` in `devices/`) put the candidates in order, several go into the package, and the
device measures them when it arrives ([ADR 0015](adr/0015-variants-measured-on-arrival.md)). What is certain is refused:
an engine that has no wheels for the device, half precision arithmetic that it has not, a file of more than half of its
memory. Each profile is a file with its sources in `devices/edgeinfer/devices/profiles/`."""


@dataclass(frozen=True, slots=True)
class Family:
    """`pattern` matches the ids of its schemes. One that is not `listed` has no table of what they are."""

    title: str
    pattern: str
    text: str
    listed: bool = True

    def holds(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None


FAMILIES = (
    Family(
        "Float",
        r"onnx-fp32|litert-fp32|onnx-fp32-slim",
        """\
The given models take part as they are; `onnx-fp32-slim` is the ONNX one with batch norms and constants folded,
leftovers removed, and convolutions in the form that ONNX Runtime has its fastest kernels for: those along one axis as
ones over pictures of one row, odd numbers of channels filled up where there are few places. All other ONNX schemes
begin with it.

**Wins** where the other engine is simply faster, which differs from model to model: give both files where there are
both. Slimming wins for nets over sound and sensor rows: Silero VAD takes 0.6 of its time, with the same results, and
made-up nets of 16 to 128 channels 0.4 to 0.85. **Does not** win for pictures, which ONNX Runtime treats so by itself
when it loads. Where nothing quantized is better, the float model is shipped, and the report says so.""",
    ),
    Family(
        "Half precision",
        r"onnx-fp16|onnx-fp16-weights|litert-fp16-weights",
        """\
`fp16` computes in half precision; `fp16-weights` only stores weights so and computes in float. Both halve the file
and lose next to nothing.

**Wins** on CPUs with half precision arithmetic (ARMv8.2: Raspberry Pi 5, Jetson Orin) and where no integer will do.
**Does not** win on x86, which casts back and forth. On a Raspberry Pi 3 or 4 `onnx-fp16` is refused.""",
    ),
    Family(
        "ONNX: static int8, u8s8",
        r"onnx-u8s8(-full|-percentile|-mse|-entropy|-tensor|-dense)?",
        """\
Weights and activations in integers, with ranges learnt from the calibration samples. Weights have 7 bits
(`reduce_range`): x86 without VNNI adds pairs of products in 16 bits, and with 8 bits a model can lose nearly all its
accuracy on one machine and keep it on the next. The forms differ in one thing each: `-full` has all 8 bits,
`-percentile`, `-mse` and `-entropy` cut rare values off, `-tensor` has one scale a tensor, `-dense` leaves depthwise
convolutions float.

**Wins** for convolutions: twice as fast where they are dense, less where they are depthwise, and slower than float
there without VNNI; then `-dense`, or small weights alone. Matrices on single rows gain nothing with a scale a
channel; with one a tensor they are a third faster, and the autoencoder loses too much. `-full` is for devices that
have VNNI or dot product; elsewhere the guard measures whether it saturates. Cutting ranges off helps where outliers
are accidents, and hurts an autoencoder, which is about them.""",
    ),
    Family(
        "ONNX: static int8, u8u8 and s8s8",
        r"onnx-(u8u8|s8s8)(-tensor)?",
        """\
The same with unsigned weights, or with signed activations. u8u8 kernels widen before they multiply: all 8 bits, no
saturation on any CPU.

**Wins**: u8u8 where u8s8 saturates and 7 bits are not enough; s8s8 on ARM. **Does not** win on x86: u8u8 is slower
than float for convolutions there, s8s8 mostly the same as `u8s8-full`, and may saturate like it.""",
    ),
    Family(
        "ONNX: dynamic",
        r"onnx-int8-dynamic(-matmul)?",
        """\
Weights are uint8; the range of each activation is looked up again at each run, so that nothing has to be calibrated.
`-matmul` leaves convolutions alone.

**Wins** for large matrices (transformers, recurrent nets, autoencoders), and where calibration samples would not
show what comes later. **Does not** win for convolutions, which become up to six times slower than float.""",
    ),
    Family(
        "ONNX: small weights, float arithmetic",
        r"onnx-int[48]-(weights|blocks)",
        """\
`-weights` stores weights as int8 (one scale a channel) or int4 (one scale for 64) and widens them when the model is
loaded. `-blocks` keeps matrices in blocks that the engine multiplies as they are (MatMulNBits), so that memory holds
the small weights, too.

**Wins** on size: about a third of the float file (int8) at its speed and with hardly any loss; blocks also on speed,
for matrices. **Does not** make convolutions faster. Plain 4 bits cost these small nets far too much: then mixed
precision.""",
    ),
    Family(
        "ONNX: equalization and bias correction",
        r".*-(cle|bc)",
        """\
`-cle` scales channels between two layers so that one range fits all of them (Nagel et al. 2019, arXiv:1906.04721,
section 4.1); the model computes the same. `-bc` takes off each bias what quantizing shifts the layer's mean by
(section 4.2). Both cost nothing at run time.

**Wins**: bias correction where means have shifted (it brings `onnx-u8s8` within the agreement asked of vww),
equalization with scales per tensor and channels that differ a lot. **Does not** help where ranges are fine: on these
four equalization helps nowhere. So both are tried only where the plain scheme is the fastest and loses too much.""",
        listed=False,
    ),
    Family(
        "Dead channels removed",
        r".*-pruned",
        """\
Channels that are the same at every place of every calibration sample (a Relu that never opens) are taken out, and
what they were is folded into the biases of the layers that read them, before any scheme: the layers become smaller,
the results stay. Removed are multiples of eight, since kernels work in blocks.

**Wins** wherever there are such channels, in every engine and every precision: vww becomes a fifth of its size and
takes two thirds of the time before anything is quantized. **Is not made** where there are none: one line in the
report says so, and no form of it is tried. It is exact on the calibration samples and judged on the others: a
channel that only a rare picture needs shows there.""",
        listed=False,
    ),
    Family(
        "LiteRT: static int8 and int16",
        r"litert-int8(-mse|-ma|-plain)?|litert-int16",
        """\
Integers throughout by ai-edge-quantizer, with ranges of our own: by the extremes (`litert-int8`), of least squared
error (`-mse`), by a moving average, the tool's default (`-ma`). Weights are rounded for what their layer is given,
and biases take up the rest; `-plain` rounds each weight to the nearest. `litert-int16` has 16-bit activations.

**Wins** for matrices (a fifth of the time) and dense convolutions, with VNNI or dot product for depthwise ones too.
The extremes are safe: the moving average ruins the autoencoder. **Does not** win without such instructions for
depthwise convolutions: 1.1 to 3.5 times slower than ONNX Runtime's float on AVX2. int16 is nearly exact, and 4 to
more than 30 times slower than float: LiteRT has no fast kernels for it.""",
    ),
    Family(
        "LiteRT: dynamic and weights",
        r"litert-int8-(dynamic|weights)",
        """\
`-dynamic` has int8 weights and quantizes activations at each call; depthwise convolutions stay float in it, for
which LiteRT has no fast kernel. `-weights` stores int8 and computes in float.

**Wins**: dynamic for matrices and dense convolutions, nearly as fast as static and without calibrated ranges that
could be wrong; weights wherever LiteRT's float speed and a third of the size are enough, above all on CPUs without
VNNI.""",
    ),
    Family(
        "LiteRT: 4 bits",
        r"litert-int4-(dynamic|weights)",
        """\
The same with 4-bit weights, where LiteRT has kernels for them; the rest becomes int8.

**Wins** on size; dynamic also on speed for fully connected layers. **Does not** win on the speed of convolutions,
whose weights are unpacked at every call. Small nets lose agreement: then mixed precision.""",
    ),
    Family(
        "Mixed precision",
        r".*-mixed4?-\d+",
        """\
Not schemes but forms of the others, made layer by layer. `-mixed-N` keeps the N layers that need it most more exact
than the rest, in a candidate that would be the best and loses too much: float in an int8 one, 8 bits in one of 4.
`-mixed4-N` gives N layers of an int8 candidate 4-bit weights, those first that save most bytes for what they cost;
it is looked for with `--objective size`. Each layer is tried alone first, and the report shows what it costs.

**Wins** on size where 4 bits throughout cost too much. Measured here with `--objective size`; where there is none,
no number of layers keeps the budget and gains anything.""",
        listed=False,
    ),
    Family(
        "OpenVINO",
        r"openvino-.*",
        """\
With the extra `openvino` on x86-64: `openvino-fp32` is the float ONNX model run by OpenVINO, `openvino-int8` what
NNCF makes of it, with 7-bit weights and corrected biases. NNCF's own control of accuracy is not used: on a small
model it took minutes and gave back a float file. The search measures accuracy itself. OpenVINO compiles as it loads a
model, which the packaged service may not (`MemoryDenyWriteExecute` in its unit): the report says so where such a
variant is chosen, and a service that is left as it is runs the next one of the package.""",
        listed=False,
    ),
    Family(
        "Conversion by onnx2tf",
        r"$^",
        """\
An ONNX file that is given alone also competes as its TFLite conversion, with all LiteRT schemes above, where the
command `onnx2tf` 2.x is on the PATH or named with `--converter`. It needs Python 3.12 and an environment of its own.
A conversion that does not say the same as the ONNX file is dropped without a word, unless `--converter` asked for
it.

**Wins** where no `.tflite` of the model is at hand. A native one is usually faster: graphs that had channels last
before they became ONNX come back with transposes left in. Where those inputs are kept as they are instead, is tried
second.""",
        listed=False,
    ),
)
