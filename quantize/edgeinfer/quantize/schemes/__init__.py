"""Schemes: how a float model file becomes a quantized one. One module per file format, imported when used."""
