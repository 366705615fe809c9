"""Protocol buffers as far as NRI's messages need them: fields by number, read and written. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator

_MOST = 65_536  # fields of one message; a Synchronize has one for each container of the node
_VARINT = 10  # bytes


class MalformedError(ValueError):
    """The bytes are no such message, or are larger than what is accepted."""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field: an int, or the bytes of a text, a message or a fixed number.

    Raise MalformedError.
    """
    at = count = 0
    while at < len(data):
        count += 1
        if count > _MOST:
            raise MalformedError(f"a message of more than {_MOST} fields")
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise MalformedError("a field with the number 0")
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise MalformedError(f"a field of the kind {kind}")
        if size > len(data) - at:
            raise MalformedError("a field that ends after its message")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for step in range(_VARINT):
        if at + step >= len(data):
            raise MalformedError("a number that ends after its message")
        byte = data[at + step]
        found |= (byte & 127) << 7 * step
        if byte < 128:
            return found & 0xFFFF_FFFF_FFFF_FFFF, at + step + 1
    raise MalformedError("a number of more than ten bytes")


def text(value: int | bytes) -> str:
    """Return a field's text. Raise MalformedError."""
    if isinstance(value, int):
        raise MalformedError("a number where a text is expected")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"a text that is not UTF-8: {error.reason}") from error


def message(value: int | bytes) -> bytes:
    """Return a field that is a message. Raise MalformedError."""
    if isinstance(value, int):
        raise MalformedError("a number where a message is expected")
    return value


def number(value: int | bytes) -> int:
    """Return a field that is a number. Raise MalformedError."""
    if not isinstance(value, int):
        raise MalformedError("bytes where a number is expected")
    return value


def field(at: int, value: int | str | bytes) -> bytes:
    """Return one field."""
    if isinstance(value, int):
        return _number(at << 3) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(at << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
