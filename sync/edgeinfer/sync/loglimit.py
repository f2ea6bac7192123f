"""Says something once in a while: what strangers can cause must not be able to fill the log."""

__all__ = ["LogLimit"]


class LogLimit:
    """Lets one line per key through every `interval_s`, and counts what it held back.

    if (held := limit.admit("down/ack", now_s)) is not None:
        log.warning("event=ignored topic=down/ack held_back=%d", held)
    """

    def __init__(self, interval_s: float = 60.0, *, max_keys: int = 64) -> None:
        self._interval_s = interval_s
        self._max_keys = max_keys
        self._seen: dict[str, tuple[float, int]] = {}

    def admit(self, key: str, now_s: float) -> int | None:
        """How many were held back since the last admitted one, or None when this one is held back too."""
        if key not in self._seen and len(self._seen) >= self._max_keys:
            key = "others"
        last_s, held = self._seen.get(key, (float("-inf"), 0))
        if now_s - last_s < self._interval_s:
            self._seen[key] = (last_s, held + 1)
            return None
        self._seen[key] = (now_s, 0)
        return held
