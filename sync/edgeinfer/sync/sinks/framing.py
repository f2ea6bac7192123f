"""Messages in a row, as an HTTP body or in a file: each is what the broker would have carried, with its topic's end.

    frame = length of the payload (4 bytes, big-endian) || length of the name (1 byte) || name || payload

`name` is the topic's part after the device (`up/res/door`), `payload` the message's bytes. No payload is empty, so a
frame of five zero bytes can end a row that goes on with something else.
"""

import struct
from collections.abc import Iterable, Iterator

import msgspec

from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.messages import MAX_CHUNK_BYTES

__all__ = ["ACKS_TYPE", "CONTENT_TYPE", "END", "Frame", "Frames", "encode_frames"]

# Of an HTTP body that is frames, and of a console's answer to it: a list of `messages.Ack` in JSON.
CONTENT_TYPE = "application/vnd.edgeinfer.chunks"
ACKS_TYPE = "application/vnd.edgeinfer.acks+json"
_HEADER = struct.Struct(">IB")
END = _HEADER.pack(0, 0)


class Frame(msgspec.Struct, frozen=True):
    """One message: `name` is what follows the device in its topic."""

    name: str
    payload: bytes


def encode_frames(frames: Iterable[Frame]) -> Iterator[bytes]:
    """The frames as pieces that follow each other; a payload is passed on, not copied."""
    for frame in frames:
        name = frame.name.encode()
        yield _HEADER.pack(len(frame.payload), len(name)) + name
        yield frame.payload


class Frames:
    """Takes bytes as they come and gives the frames that are complete. Holds one frame at most.

    frames = Frames()
    for piece in pieces:
        for frame in frames.feed(piece): ...
    frames.finish()     # raises MessageError where the last frame is cut off
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self.ended = False

    @property
    def rest(self) -> bytes:
        """What came after the end, or of a frame that is not complete."""
        return bytes(self._held)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Raises MessageError for a frame that cannot be one."""
        self._held += piece
        while not self.ended:
            frame = self._next()
            if frame is None:
                return
            yield frame

    def finish(self) -> None:
        if self._held and not self.ended:
            raise MessageError(f"expected whole messages, found {len(self._held)} bytes of one that is cut off")

    def _next(self) -> Frame | None:
        """The first of what is held, once it is complete; None before, and at the end."""
        if len(self._held) < _HEADER.size:
            return None
        size, name_size = _HEADER.unpack_from(self._held)
        if size == name_size == 0:
            self.ended = True
            del self._held[: _HEADER.size]
            return None
        if not (0 < size <= MAX_CHUNK_BYTES and name_size):
            raise MessageError(f"expected a message of 1 to {MAX_CHUNK_BYTES} bytes with a name, found one of {size}")
        end = _HEADER.size + name_size + size
        if len(self._held) < end:
            return None
        try:
            name = self._held[_HEADER.size : _HEADER.size + name_size].decode("ascii")
        except UnicodeDecodeError as error:
            raise MessageError("expected a name in ASCII") from error
        payload = bytes(self._held[_HEADER.size + name_size : end])
        del self._held[:end]
        return Frame(name, payload)
