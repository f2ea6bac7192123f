"""Several chunk messages in one message of the broker: what a backlog goes in. Values only.

A bundle is a row of frames (`edgeinfer.sync.sinks.framing`), each a chunk message with the end of the topic that it
would have alone, and goes on a topic of its own. It means what its messages mean one after the other: what is lost,
stored and acknowledged is still a chunk. An agent makes one only for a console that says it takes them (`Ack.bundle`),
and only while its window is wider than the messages that may be in flight.
"""

from collections.abc import Iterable

from edgeinfer.runtime.chunk import StoredChunk
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.messages import valid_pipeline
from edgeinfer.sync.sinks.framing import Frame, Frames, encode_frames

__all__ = [
    "BUNDLE",
    "MAX_BUNDLE_BYTES",
    "MAX_BUNDLE_CHUNKS",
    "SENT_BYTES",
    "Bundling",
    "Parcel",
    "decode_bundle",
    "encode_bundle",
]

BUNDLE = "up/res/_bundle"
"""The end of its topic: no pipeline can be named so, and who may publish results may publish this."""

MAX_BUNDLE_CHUNKS = 64
MAX_BUNDLE_BYTES = 1 << 20
SENT_BYTES = 96 << 10
"""What an agent makes at most: hosted brokers take 128 KiB, and an event waits for what is being written."""
# Length, length of the name, `up/res/`.
_FRAME_BYTES = 12
# For how long none is made after trouble with one: at first, and at most.
_REST_S = 60.0
_LONG_REST_S = 3600.0


def encode_bundle(frames: Iterable[Frame]) -> bytes:
    return b"".join(encode_frames(frames))


def decode_bundle(raw: bytes) -> list[Frame]:
    """Its messages as they came, none of them looked into. Raises MessageError: too large, too many, cut off, none, or
    anything but results on a topic of their own."""
    if len(raw) > MAX_BUNDLE_BYTES:
        raise MessageError(f"expected a bundle of at most {MAX_BUNDLE_BYTES} bytes, found {len(raw)}")
    frames, found = Frames(), []
    for frame in frames.feed(raw):
        valid_pipeline(frame.name)
        found.append(frame)
        if len(found) > MAX_BUNDLE_CHUNKS:
            raise MessageError(f"expected at most {MAX_BUNDLE_CHUNKS} chunks in a bundle, found more")
    frames.finish()
    if frames.ended or not found:
        raise MessageError("expected a bundle of chunks and nothing else, found an end in it, or nothing")
    return found


class Bundling:
    """How many chunks may go in one message: `most`, or fewer by the console's word of this connection; one alone for
    some time after trouble with a bundle."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._rest_s = _REST_S
        self._rests_until_s = float("-inf")

    def connected(self) -> None:
        """A new connection: another console may be behind it."""
        self._taken = 0

    def told(self, chunks: int) -> None:
        """The console takes bundles of so many; 0: none."""
        self._taken = chunks

    def rest(self, now_s: float, *, long: bool = False) -> bool:
        """A bundle was refused (`long`), or may be why a connection ended or nobody answered. False: several were on
        their way, and another one has said so."""
        is_news = now_s >= self._rests_until_s
        if is_news and now_s - self._rests_until_s > self._rest_s:
            self._rest_s = _REST_S  # they worked for longer than they would rest
        self._rests_until_s = max(self._rests_until_s, now_s + (_LONG_REST_S if long else self._rest_s * is_news))
        if is_news:
            self._rest_s = min(_LONG_REST_S, 2 * self._rest_s)
        return is_news

    def chunks(self, now_s: float) -> int:
        return 1 if now_s < self._rests_until_s else max(1, min(self._most, self._taken))


class Parcel:
    """Chunks of one lane that are to go in one message, with what each is on the wire. `through` is the number up to
    which nothing of the lane is left to send once they are sent; 0 where that is not known."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.through = 0
        self.chunks: list[tuple[StoredChunk, bytes]] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self.chunks)

    def add(self, chunk: StoredChunk, raw: bytes) -> None:
        self.size = self.size_with(chunk, raw)
        self.chunks.append((chunk, raw))

    def clear(self) -> None:
        self.chunks.clear()
        self.size = 0

    def size_with(self, chunk: StoredChunk, raw: bytes) -> int:
        """Bytes of the bundle, were this one in it too."""
        return self.size + _FRAME_BYTES + len(chunk.pipeline) + len(raw)

    def message(self) -> tuple[str, bytes]:
        """The end of its topic, and its payload; a single chunk goes as ever."""
        if len(self.chunks) == 1:
            chunk, raw = self.chunks[0]
            return "up/res/" + chunk.pipeline, raw
        return BUNDLE, encode_bundle(Frame("up/res/" + chunk.pipeline, raw) for chunk, raw in self.chunks)
