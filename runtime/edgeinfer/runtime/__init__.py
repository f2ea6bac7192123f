"""On the device: sources, engines, pipelines, the results buffer, the model store and its updates.

Knows no network but what a source needs. Import what you need from its module; nothing is imported here,
so that a reader of the buffer does not pay for an engine.
"""
