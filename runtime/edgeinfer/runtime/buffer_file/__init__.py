"""The parts of `buffer.db`: its tables, lanes, tombstones and marks, and how a damaged or an old file is mended."""
