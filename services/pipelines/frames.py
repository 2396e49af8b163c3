"""Bytes between a process and its child: each frame is its length in 4 bytes, then the bytes."""

import struct
from typing import IO

LENGTH = struct.Struct(">I")


def write_frames(stream: IO[bytes], *frames: bytes) -> None:
    """Write each frame, then flush."""
    for frame in frames:
        stream.write(LENGTH.pack(len(frame)) + frame)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """The next frame.

    Raises:
        EOFError: The stream ends before the frame does.
    """
    (length,) = LENGTH.unpack(_read_exactly(stream, LENGTH.size))
    return _read_exactly(stream, length)


def _read_exactly(stream: IO[bytes], length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise EOFError
    return found
