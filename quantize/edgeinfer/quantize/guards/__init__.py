"""Guards: what can be wrong with a quantized model that no tool says. Functions over files and outputs; none keeps
anything."""
