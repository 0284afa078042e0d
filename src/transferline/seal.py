"""A checksum within an ONNX file: onnxruntime may answer wrongly or die of a flipped bit, and says nothing of it."""

import hashlib
from pathlib import Path

KEY = "transferline.sha256"
BLANK = f"{'0' * 64}:{'0' * 12}"  # hex digest of the file with this in its place, and its size in bytes
# A StringStringEntryProto of onnx.proto, up to its value: field 1 with the key, field 2.
_MARK = bytes([0x0A, len(KEY)]) + KEY.encode() + bytes([0x12, len(BLANK)])


def seal(path: Path) -> None:
    """Fill in the checksum of a file whose metadata have KEY with BLANK."""
    data = path.read_bytes()
    place = data.rfind(_MARK) + len(_MARK)
    assert data[place : place + len(BLANK)] == BLANK.encode()
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(_checksum(data, place))


def intact(path: Path) -> bool:
    """Whether a file is as it was sealed, as far as one can tell.

    One that was never sealed may be, and so may one of another size: a tool has written it anew, as a quantised one.
    """
    data = path.read_bytes()
    place = data.rfind(_MARK) + len(_MARK)
    stated = data[place : place + len(BLANK)]
    if place < len(_MARK) or stated[65:] != f"{len(data):012d}".encode():
        return True
    return stated == _checksum(data, place)


def _checksum(data: bytes, place: int) -> bytes:
    digest, view = hashlib.sha256(), memoryview(data)
    for part in (view[:place], BLANK.encode(), view[place + len(BLANK) :]):
        digest.update(part)
    return f"{digest.hexdigest()}:{len(data):012d}".encode()
