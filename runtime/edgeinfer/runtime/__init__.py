"""On the device: sources, engines, pipelines, the results buffer, the model store and its updates.

Knows no network but what a source needs. Import what you need from its module; nothing is imported here,
so that a reader of the buffer does not pay for an engine.
"""

import os

# ONNX Runtime keeps an identifier of its own in the folder for temporary files and may report to its makers, unless it
# is told not to before it is loaded. A device speaks to nobody but its console.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
