"""zstd within bounds, from any thread.

Contexts are costly to make and not to be shared between threads: idle ones wait in a list, whose `pop` and `append` are
atomic.
"""

import zstandard

from edgeinfer.runtime.errors import CodecError

__all__ = ["Zstd"]

# A context keeps the memory of the largest thing that it has worked on.
_MAX_IDLE = 4


class Zstd:
    """One level and, where given, one dictionary, which is prepared when it is first used."""

    def __init__(self, level: int, dictionary: bytes = b"") -> None:
        self._level = level
        self._dictionary = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._compressors: list[zstandard.ZstdCompressor] = []
        self._decompressors: list[zstandard.ZstdDecompressor] = []

    def compress(self, raw: bytes) -> bytes:
        try:
            context = self._compressors.pop()
        except IndexError:
            context = self._new_compressor()
        frame = context.compress(raw)
        if len(self._compressors) < _MAX_IDLE:
            self._compressors.append(context)
        return frame

    def decompress(self, frame: bytes, *, max_bytes: int) -> bytes:
        """Raises CodecError for what is no frame or holds more than `max_bytes`."""
        try:
            if zstandard.frame_content_size(frame) > max_bytes:
                raise CodecError(f"the chunk claims more than {max_bytes} bytes")
            return self._decompress(frame, max_bytes)
        except zstandard.ZstdError as error:
            raise CodecError(f"the chunk is no zstd frame: {error}") from error

    def _decompress(self, frame: bytes, max_bytes: int) -> bytes:
        try:
            context = self._decompressors.pop()
        except IndexError:
            context = self._new_decompressor()
        raw = context.decompress(frame, max_output_size=max_bytes, allow_extra_data=False)
        if len(self._decompressors) < _MAX_IDLE:
            self._decompressors.append(context)
        return raw

    def _new_compressor(self) -> zstandard.ZstdCompressor:
        if self._dictionary is None:
            return zstandard.ZstdCompressor(level=self._level)
        return zstandard.ZstdCompressor(level=self._level, dict_data=self._dictionary, write_dict_id=False)

    def _new_decompressor(self) -> zstandard.ZstdDecompressor:
        if self._dictionary is None:
            return zstandard.ZstdDecompressor()
        return zstandard.ZstdDecompressor(dict_data=self._dictionary)
