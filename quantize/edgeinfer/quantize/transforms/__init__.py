"""Transforms: a float model rewritten into an equal one that quantizes better or runs faster, and what is mended after
quantizing. Each reads a file and writes another."""
