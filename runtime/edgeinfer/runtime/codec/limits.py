"""What a chunk may hold: a decoder takes no memory for a claim beyond these. Python objects take some ten times the
bytes that they come from."""

__all__ = [
    "MAX_COLUMNS",
    "MAX_HEAD_BYTES",
    "MAX_ITEMS",
    "MAX_LISTED",
    "MAX_NUMBERS",
    "MAX_RAW_BYTES",
    "MAX_RESULTS",
]

MAX_RESULTS = 65_536
MAX_ITEMS = 1 << 18
# Results and items that many, each with all the standard columns, are 2.5 million.
MAX_NUMBERS = 3 << 20
MAX_COLUMNS = 64
# What is named by its place in the head, for being the exception in its column.
MAX_LISTED = 1024
# Columns and extras.
MAX_HEAD_BYTES = 2 << 20
MAX_RAW_BYTES = 8 << 20
