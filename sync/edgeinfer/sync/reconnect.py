"""To which broker next, and after how long. Decisions only: no socket, no clock.

The first broker is preferred. Each that cannot be reached hands on to the next; after all have failed there is a wait,
random, growing and capped, and it begins again with the first. What outlasts twice the wait before it was a good
connection, and the waits are forgotten. So two clients of one name take turns ever more rarely even where the broker
only hangs up on the one, without a reason, as mosquitto 2.0 and all of MQTT 3.1.1 do.

Where trying again soon cannot help (credentials are wrong, another client has this name), the waits grow to ten times
as long and are forgotten only after a connection that outlasted the longest of them.

A connection to a fallback is left for the first broker once that can be reached again; each time that it could, and
then would not let us in, the next look is twice as far off.
"""

import random
from collections.abc import Callable

from edgeinfer.sync.reasons import After

__all__ = ["Reconnect"]

_FIRST_WAIT_S = 0.25
# And what did not last this long was none.
_STABLE_S = 5.0
_SLOW_FACTOR = 10.0
_SLOW_STEPS = 5
_LONGEST_STAY = 16.0


class Reconnect:
    """`index` is the broker to try next, from 0. `jitter` gives numbers from 0 to 1."""

    def __init__(
        self,
        *,
        brokers: int,
        longest_s: float,
        return_after_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._brokers = brokers
        self._longest_s = longest_s
        self._longest_slow_s = longest_s * _SLOW_FACTOR
        self._return_after_s = return_after_s
        self._jitter = jitter
        self._waited_s = 0.0
        self._answers: list[After] = []  # of the brokers that failed in this round
        self._rounds = 0
        self._slow = 0
        self._stay = 1.0
        self.index = 0

    def ended(self, what: After, *, lasted_s: float) -> float:
        """A connection to broker `index`, or the try of one, is over after `lasted_s` (0: it never stood). Turns
        `index` to the next broker and returns the seconds to wait before it is tried."""
        if lasted_s > self._longest_slow_s:
            self._slow = 0
        self._waited_s = self._spread(self._next(what, lasted_s=lasted_s))
        return self._waited_s

    def stay_s(self) -> float:
        """How long to stay with a fallback before the first broker is looked for; asked once a connection."""
        return self._spread(self._return_after_s * self._stay)

    def going_home(self) -> None:
        """The connection is left because the first broker can be reached again: it has to keep us, or the next look
        is later."""
        self._stay = min(2 * self._stay, _LONGEST_STAY)

    def _next(self, what: After, *, lasted_s: float) -> float:
        if what is After.SLOWLY or (what is After.ELSEWHERE and self._brokers == 1):
            return self._slowly()
        if lasted_s > max(_STABLE_S, 2 * self._waited_s):
            self._stay = 1.0 if self.index == 0 else self._stay
            sent_on = what is After.ELSEWHERE and self.index == 0
            self._begin(1 if sent_on else 0)
            self._rounds = 0
            return _FIRST_WAIT_S
        self._answers.append(what)
        if len(self._answers) < self._brokers:
            self.index = (self.index + 1) % self._brokers
            return _FIRST_WAIT_S
        return self._round_over()

    def _round_over(self) -> float:
        refused = all(answer is After.REFUSED for answer in self._answers)
        self._begin(0)
        if refused:
            return self._slowly()
        self._rounds += 1
        return min(self._longest_s, _FIRST_WAIT_S * float(1 << min(self._rounds, 16)))

    def _slowly(self) -> float:
        self._begin(0)
        wait_s = self._longest_slow_s / float(1 << max(0, _SLOW_STEPS - self._slow))
        self._slow += 1
        return wait_s

    def _begin(self, index: int) -> None:
        """A new round."""
        self.index = index
        self._answers.clear()

    def _spread(self, wait_s: float) -> float:
        return wait_s * (0.5 + 0.5 * self._jitter())
