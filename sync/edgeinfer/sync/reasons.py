"""What the broker's reason codes ask of us. Values only.

The codes are those of "MQTT Version 5.0" (OASIS, 2019), 2.4. MQTT 3.1.1 says less: CONNACK has five return codes, which
paho reads as their like in 5; a PUBACK is always a yes, and a broker that is displeased just
closes the connection. So over 3.1.1 nobody says that a packet was too large, that a quota is used up, that publishing
is not authorized, or that another client took the name: what then shows is silence or a lost connection, which
`edgeinfer.sync.sizing` and growing waits answer.
"""

import enum

__all__ = ["FAILURE", "NOBODY_LISTENS", "PACKET_TOO_LARGE", "After", "Refusal", "after", "describe", "refusal"]

NOBODY_LISTENS = 0x10  # a PUBACK that is a yes: taken, and nobody has subscribed
FAILURE = 0x80  # 2.4: from here on a code is a refusal
PACKET_TOO_LARGE = 0x95
_TAKEN_OVER = 0x8E
_WRONG_VERSION = 0x84


class After(enum.Enum):
    """What to do after a connection, or the try of one, has ended."""

    AGAIN = "again"  # soon, with growing waits
    REFUSED = "refused"  # other brokers first; then much later: soon would not help
    SLOWLY = "slowly"  # much later: soon would do harm
    ELSEWHERE = "elsewhere"  # at the next broker


class Refusal(enum.Enum):
    """What a PUBACK that is a no means for what was published."""

    BUSY = "busy"  # slower, and again
    FORBIDDEN = "forbidden"  # not before somebody has changed something
    TOO_LARGE = "too large"  # in smaller packets


_AFTER = {
    0x84: After.REFUSED,  # unsupported protocol version
    0x85: After.REFUSED,  # client identifier not valid
    0x86: After.REFUSED,  # bad user name or password
    0x87: After.REFUSED,  # not authorized
    0x8A: After.REFUSED,  # banned
    0x8C: After.REFUSED,  # bad authentication method
    0x8E: After.SLOWLY,  # session taken over
    0x98: After.SLOWLY,  # administrative action
    0x9C: After.ELSEWHERE,  # use another server
    0x9D: After.ELSEWHERE,  # server moved
    0x9F: After.SLOWLY,  # connection rate exceeded
}
_FORBIDDEN = {
    0x87,  # not authorized
    0x90,  # topic name invalid
    0x99,  # payload format invalid: brokers may check more than MQTT does
}
_TEXTS = {
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
}
_HINTS = {
    _WRONG_VERSION: "the broker speaks another version: try protocol = 4",
    0x86: "username, password_file or token_file: the file is read again at each try",
    0x87: "the broker's passwords and access list decide: username, password_file, token_file or tls_cert",
    _TAKEN_OVER: "another client has connected with this device's name: is a second agent running?",
}


def after(code: int) -> After:
    """What to do after a CONNACK or DISCONNECT with `code`; 0 stands for a connection that broke without one."""
    return _AFTER.get(code, After.AGAIN)


def refusal(code: int) -> Refusal:
    """What a PUBACK with `code`, from FAILURE on, asks for."""
    if code == PACKET_TOO_LARGE:
        return Refusal.TOO_LARGE
    return Refusal.FORBIDDEN if code in _FORBIDDEN else Refusal.BUSY


def describe(code: int, said: str = "") -> str:
    """The code in words, with what the broker said itself and what a person can do."""
    words = [_TEXTS.get(code, "reason") + f" (0x{code:02X})", said, _HINTS.get(code, "")]
    return ": ".join(word for word in words if word)
