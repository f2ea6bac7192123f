"""What decoding bytes from a stranger may raise, in one place.

msgspec has exceptions of its own, and lets two of Python's through: text that is no UTF-8 inside of a string,
and nesting that is too deep.
"""

import msgspec

__all__ = ["MALFORMED"]

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
