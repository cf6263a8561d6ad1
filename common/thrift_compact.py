"""Apache Thrift's compact protocol, as far as Parquet's footers and page headers have it: structs by field number.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12
_DEEPEST = 16


class Value(NamedTuple):
    """A number, `bytes`, a `List` or a `Struct`, with the protocol's number of its type."""

    kind: int
    value: Any


class List(NamedTuple):
    """Values of one type."""

    kind: int
    values: list[Any]


Struct = dict[int, Value]
"""By the number of the field."""


def decode(content: bytes | memoryview, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins at `at`, and where it ends; raises `ValueError` for bytes of another form."""
    reader = _Reader(content, at)
    try:
        found = reader.struct(0)
    except IndexError as error:
        raise ValueError("a struct that ends early") from error
    return found, reader.at


def encode(fields: Struct) -> bytes:
    """The inverse of `decode`."""
    written, last = bytearray(), 0
    for number, (kind, value) in sorted(fields.items()):
        step = number - last
        written += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + varint(_zigzag(number))
        written += b"" if kind in (TRUE, FALSE) else _encoded(kind, value)
        last = number
    return bytes(written) + b"\0"


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes(written) + bytes([number])


def _zigzag(number: int) -> int:
    return number << 1 ^ number >> 63


def _encoded(kind: int, value: Any) -> bytes:
    match kind:
        case 1 | 2 | 3:  # in lists a truth takes a byte
            return bytes([value])
        case 4 | 5 | 6:
            return varint(_zigzag(value))
        case 8:
            return varint(len(value)) + value
        case 12:
            return encode(value)
        case 9:
            size = len(value.values)
            head = bytes([size << 4 | value.kind]) if size < 15 else bytes([15 << 4 | value.kind]) + varint(size)
            return head + b"".join(_encoded(value.kind, one) for one in value.values)
    raise ValueError(f"a value of Thrift's type {kind}")


class _Reader:
    def __init__(self, content: bytes | memoryview, at: int):
        self.content, self.at = content, at

    def byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def number(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number of more than 64 bits")

    def signed(self) -> int:
        number = self.number()
        return number >> 1 ^ -(number & 1)

    def struct(self, depth: int) -> Struct:
        if depth > _DEEPEST:
            raise ValueError("structs nested too deep")
        found: Struct = {}
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            kind = head & 15
            found[field] = Value(kind, kind == TRUE if kind in (TRUE, FALSE) else self.value(kind, depth))
        return found

    def value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2 | 3:
                return self.byte()
            case 4 | 5 | 6:
                return self.signed()
            case 8:
                size = self.number()
                self.at += size
                if self.at > len(self.content):
                    raise ValueError("bytes that end early")
                return bytes(self.content[self.at - size : self.at])
            case 12:
                return self.struct(depth + 1)
            case 9:
                head = self.byte()
                size = self.number() if head >> 4 == 15 else head >> 4
                if size > len(self.content) - self.at:
                    raise ValueError("a list of more values than bytes")
                return List(head & 15, [self.value(head & 15, depth + 1) for _ in range(size)])
        raise ValueError(f"a value of Thrift's type {kind}")
