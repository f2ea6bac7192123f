"""How large a message may be where the broker does not say so beforehand. Values only.

A broker that calls a message too large (0x95) is believed: that size is forbidden, for an hour, and what is as large
is split. It is not believed of a few kilobytes, for then single results would have to be given up on its word.

Where nobody says anything (MQTT 3.1.1, a proxy, a link too slow for its keep-alives), all that shows is a connection
that ends, or a silence, again and again with the same message on its way: then smaller ones are tried, and larger ones
again with each that gets through.
"""

__all__ = ["SizeLimit"]

_FORGET_S = 3600.0
# Troubles in a row before smaller messages are tried.
_PATIENCE = 3
# Smaller would not help: what cannot carry this carries nothing.
_FLOOR_BYTES = 4096
_NONE = 1 << 62


class SizeLimit:
    """Sizes are of payloads, in bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._forbidden = _NONE  # from this size on
        self._forbidden_s = 0.0
        self._tried = _NONE  # no larger, for now
        self._troubles = 0
        self.smallest_in_trouble = _NONE  # since something got through

    @property
    def is_stuck(self) -> bool:
        """Whether nothing gets through, and messages are as small already as they are made."""
        return self._troubles >= _PATIENCE and self.smallest_in_trouble <= _FLOOR_BYTES

    def allows(self, size: int, now_s: float) -> bool:
        """Whether a message of `size` should go as it is."""
        return size <= self._tried and not self.forbids(size, now_s)

    def forbids(self, size: int, now_s: float) -> bool:
        """Whether a message of `size` would be refused, by the broker's word or the protocol's."""
        if now_s - self._forbidden_s > _FORGET_S:
            self._forbidden = _NONE
        return size > self._most or size >= self._forbidden

    def refused(self, size: int, now_s: float) -> bool:
        """The broker called a message of `size` too large. False: that is not believed."""
        if size <= _FLOOR_BYTES:
            return False
        self._forbidden = min(self._forbidden, size)
        self._forbidden_s = now_s
        return True

    def trouble(self, size: int) -> bool:
        """The connection ended, or nobody answered, with a message of `size` on its way. True: smaller ones are
        tried from now on."""
        self._troubles += 1
        self.smallest_in_trouble = min(self.smallest_in_trouble, size)
        if self._troubles % _PATIENCE or size <= _FLOOR_BYTES:
            return False
        self._tried = max(_FLOOR_BYTES, min(self._tried, size) * 5 // 8)  # half of the results, and what is around them
        return True

    def progress(self) -> None:
        """Something got through."""
        self._troubles = 0
        self.smallest_in_trouble = _NONE
        if self._tried != _NONE:
            self._tried = _NONE if self._tried > self._most else self._tried * 2
