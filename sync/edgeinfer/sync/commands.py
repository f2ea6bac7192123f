"""Commands of the console, carried out once: signed, fresh, for this device. There are three kinds: send the latest log
lines, time a package (`edgeinfer.sync.benches`), and end that.

A command says when it was issued and when it expires; a device whose clock is five minutes off still takes it. One that
was carried out is remembered in `sync.db`, so that what comes twice is done once. The wall clock may go back; what
counts as now never lies before the newest command that was accepted.

Every command is answered on `up/cmdres`, those that are refused with the reason. Refusals, and the answer to what was
done before, are said once a second at most: anyone who may publish there could ask for them.
"""

import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from edgeinfer.runtime.bench_order import BENCH_KIND
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import MessageError, SignatureError, UsageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.allowance import Allowance, Priority
from edgeinfer.sync.benches import Benches
from edgeinfer.sync.device_logs import Gathering, in_parts
from edgeinfer.sync.log_ring import LogRing
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.messages import (
    CANCEL_KIND,
    MAX_CONTROL_BYTES,
    Command,
    CommandResult,
    LogLines,
    decode,
    encode,
    is_name,
    topic,
)
from edgeinfer.sync.mqtt import MqttLink, Ticket
from edgeinfer.sync.settings import SyncConfig

__all__ = ["TOLERANCE_S", "Commands", "why_not"]

_log = logging.getLogger(__name__)

# Clocks of devices and consoles differ; more than this is a clock that is wrong.
TOLERANCE_S = 300
# A signed command lies in logs and backups: it must not be good for ever.
_LONGEST_S = 24 * 3600
_REMEMBERED = 256
_ANSWERS_KEPT = 16
# A slow pace lets a part through now and then; a day's budget that is used up does not.
_PATIENCE_S = 60.0
_FLOOR = "command_floor"
_LOGS = "logs"
_KINDS = (_LOGS, BENCH_KIND, CANCEL_KIND)
_SHA256 = re.compile(r"[0-9a-f]{64}")
# As large as an update may be.
_MAX_BLOB_BYTES = 4 << 30


def why_not(command: Command, *, device: str, now_s: float) -> str:
    """Why a command with a good signature is not carried out; empty where it is. `now_s` is of the wall clock."""
    if command.device != device:
        return f"expected a command for {device}, found one for {command.device[:80]!r}"
    if not is_name(command.id):
        return "expected an id of letters, digits and _.-, at most 64 long"
    if command.issued_s > now_s + TOLERANCE_S:
        return f"issued {command.issued_s - now_s:.0f} s after now: one of the clocks is wrong"
    if command.expires_s < now_s - TOLERANCE_S:
        return f"expired {now_s - command.expires_s:.0f} s ago"
    if not 0 <= command.expires_s - command.issued_s <= _LONGEST_S:
        return f"expected a command to be good for at most {_LONGEST_S} s"
    if command.kind not in _KINDS:
        return f"expected a command of one of the kinds {', '.join(_KINDS)}, found {command.kind[:80]!r}"
    is_whole = _SHA256.fullmatch(command.blob_sha256) and command.each_ms and command.threads
    if command.kind == BENCH_KIND and not (is_whole and 0 < command.blob_bytes <= _MAX_BLOB_BYTES):
        return "expected a package's hash and size, milliseconds and threads"
    return ""


class Commands:
    """`take` what comes on `down/cmd`; `step` at each turn while the link is up."""

    def __init__(
        self,
        config: SyncConfig,
        db: SyncDb,
        link: MqttLink,
        allowance: Allowance,
        *,
        ring: LogRing,
        benches: Benches,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._allowance = allowance
        self._ring = ring
        self._benches = benches
        self._wall_s = wall_s
        self._waiting: deque[Command] = deque()
        self._gathering: Gathering | None = None
        self._parts: deque[LogLines] = deque()
        self._held_s = 0.0  # since when there is no room for them
        self._done = ""  # what to answer once the parts have gone
        self._answers: deque[CommandResult] = deque()
        self._unconfirmed: deque[tuple[Ticket, CommandResult]] = deque()
        self._said: OrderedDict[str, CommandResult] = OrderedDict()
        self._refusals = LogLimit(1.0)

    def take(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/cmd`. Raises MessageError for what is not even an envelope around a command."""
        command = _unverified(raw)
        try:
            self._check_signature(raw)
        except (SignatureError, UsageError) as error:  # also of a file in [trust] that holds no key
            self._refuse(command, error.message, now_s)
            return
        if (said := self._said.get(command.id)) is not None:  # it was done, and the answer got lost
            if self._refusals.admit(f"again {command.id}", now_s) is not None:
                self._answers.append(said)
            return
        wall_s = max(self._wall_s(), float(self._db.counter(_FLOOR)))
        if reason := why_not(command, device=self._config.device, now_s=wall_s):
            self._refuse(command, reason, now_s)
        elif self._benches.under_way == command.id or any(command.id == waiting.id for waiting in self._waiting):
            return  # it came twice, and will be answered once
        elif not self._db.add_command(command.id, keep=_REMEMBERED):
            self._refuse(command, "was carried out before", now_s)
        else:
            self._db.set_counter(_FLOOR, max(command.issued_s, self._db.counter(_FLOOR)))
            _log.info("event=command id=%s kind=%s", command.id, command.kind)
            self._begin(command, raw, now_s)

    def connected(self) -> None:
        """A new connection: answers that the broker had not confirmed are said again."""
        self._answers.extendleft(answer for _, answer in reversed(self._unconfirmed))
        self._unconfirmed.clear()

    def step(self, now_s: float) -> None:
        while self._unconfirmed and self._link.is_confirmed(self._unconfirmed[0][0]):
            self._unconfirmed.popleft()
        if self._waiting:
            self._gather(self._waiting[0])
            self._send(self._waiting[0], now_s)
        if (timed := self._benches.step(now_s)) is not None:
            self._remember(timed)
        while self._answers and self._say(self._answers[0], now_s):
            answer = self._answers.popleft()
            self._unconfirmed.append((self._link.ticket(), answer))

    def _begin(self, command: Command, raw: bytes, now_s: float) -> None:
        if command.kind == _LOGS:
            self._waiting.append(command)
        elif command.kind == CANCEL_KIND:
            self._cancel(command)
        elif reason := self._benches.begin(command, raw, now_s):
            self._refuse(command, reason, now_s)

    def _cancel(self, command: Command) -> None:
        ended = self._benches.cancel(command.ends)
        if ended is not None:
            self._remember(ended)
        detail = "ended" if ended is not None else "is not under way here"
        self._remember(CommandResult(id=command.id, ok=True, detail=f"{command.ends[:64]} {detail}"))

    def _check_signature(self, raw: bytes) -> None:
        """Raises SignatureError, and UsageError where [trust] names no keys."""
        if not self._config.trust.console_keys:
            raise SignatureError("no command is taken here: [trust] console_keys of sync.toml is empty")
        from edgeinfer.runtime.trust import open_envelope, parse_public_key

        open_envelope(raw, [parse_public_key(key) for key in self._config.trust.console_keys])

    def _refuse(self, command: Command, reason: str, now_s: float) -> None:
        if (held := self._refusals.admit("refused", now_s)) is None:
            return
        _log.warning("event=command_refused id=%r reason=%r held_back=%d", command.id[:64], reason, held)
        self._answers.append(CommandResult(id=command.id[:64], ok=False, detail=reason[:500]))

    def _gather(self, command: Command) -> None:
        """Begin, and take what was found; nothing while parts wait to be sent."""
        if self._done:
            return
        if self._gathering is None:
            self._gathering = Gathering(command.lines, self._ring)
            return
        found = self._gathering.result
        if found is None:
            return
        self._gathering = None
        parts = in_parts(found.lines)
        self._parts.extend(
            LogLines(id=command.id, lines=part, part=number, parts=len(parts)) for number, part in enumerate(parts, 1)
        )
        self._done = f"{len(found.lines)} lines of the {found.origin}"

    def _send(self, command: Command, now_s: float) -> None:
        while self._parts:
            raw = encode(self._parts[0])
            if self._allowance.room(Priority.TELEMETRY, now_s) <= 0:
                self._held_s = self._held_s or now_s
                if now_s - self._held_s >= _PATIENCE_S:
                    self._end(command, ok=False, detail="no room for them in the data budget of this network")
                return
            self._held_s = 0.0
            if not self._link.publish(self._topic("up/log"), raw, qos=0):
                return
            self._allowance.spent(Priority.TELEMETRY, len(raw), now_s)
            self._parts.popleft()
        if self._done:
            self._end(command, ok=True, detail=self._done)

    def _end(self, command: Command, *, ok: bool, detail: str) -> None:
        self._remember(CommandResult(id=command.id, ok=ok, detail=detail))
        self._parts.clear()
        self._done, self._held_s = "", 0.0
        self._waiting.popleft()

    def _remember(self, result: CommandResult) -> None:
        """It is said now, and again where the command comes again."""
        self._said[result.id] = result
        while len(self._said) > _ANSWERS_KEPT:
            self._said.popitem(last=False)
        self._answers.append(result)

    def _say(self, answer: CommandResult, now_s: float) -> bool:
        raw = encode(answer)
        if not self._link.publish(self._topic("up/cmdres"), raw, qos=1):
            return False
        self._allowance.spent(Priority.CONTROL, len(raw), now_s)
        return True

    def _topic(self, rest: str) -> str:
        return topic(self._config.tenant, self._config.device, rest)


class _Sealed(msgspec.Struct, frozen=True):
    """The part of an envelope that tells which command it is, whoever signed it."""

    payload: bytes


def _unverified(raw: bytes) -> Command:
    """What an envelope holds, before anyone has looked at its signature. Raises MessageError."""
    if len(raw) > MAX_CONTROL_BYTES:
        raise MessageError(f"expected a command of at most {MAX_CONTROL_BYTES} bytes, found {len(raw)}")
    try:
        sealed = msgspec.json.decode(raw, type=_Sealed)
    except MALFORMED as error:
        raise MessageError(f"expected a signed command: {error}") from error
    return decode(sealed.payload, Command)
