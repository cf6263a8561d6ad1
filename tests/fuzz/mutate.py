"""What chance, a bad disk or a bad copy does to a file's bytes, as hypothesis strategies.

Hypothesis does the fuzzing: no coverage-guided fuzzer (atheris, say) is needed, and none is installed by default.
"""

from typing import NamedTuple

from hypothesis import strategies as st

PLACES = st.integers(0, 2**32 - 1)
"""A place in bytes of any length, once the length is known: `place % length`."""
JUNK = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(
        [b"\0", b"\n", b"\r", b"\r\n", b'"', b",", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"PAR1", b"\x1f\x8b"]
    ),
    st.sampled_from([b"-1", b"NaN", b"1e999", b"-", b"9" * 25, b"null", b"{", b"}", b"[[", b"\xed\xa0\x80"]),
)


class Mutation(NamedTuple):
    """One change to bytes."""

    kind: str
    place: int
    extent: int
    junk: bytes

    def apply(self, data: bytes) -> bytes:
        """`data` changed; empty data can only be added to."""
        at = self.place % (len(data) + 1)
        until = min(at + self.extent, len(data))
        match self.kind:
            case "truncate":
                return data[:at]
            case "flip" if at < len(data):
                return data[:at] + bytes([data[at] ^ (1 << self.extent % 8)]) + data[at + 1 :]
            case "delete":
                return data[:at] + data[until:]
            case "duplicate":
                return data[:until] + data[at:]
            case "zero":
                return data[:at] + bytes(until - at) + data[until:]
            case "replace":
                return data[:at] + self.junk + data[at + len(self.junk) :]
            case _:
                return data[:at] + self.junk + data[at:]


KINDS = ("flip", "flip", "truncate", "insert", "delete", "duplicate", "zero", "replace")

mutations = st.builds(Mutation, st.sampled_from(KINDS), PLACES, st.integers(1, 64), JUNK)
"""One change; a flipped bit comes twice as often as any other."""


def mutated(data: bytes, most: int = 3) -> st.SearchStrategy[bytes]:
    """`data` after one to `most` changes."""
    return st.lists(mutations, min_size=1, max_size=most).map(lambda changes: applied(data, changes))


def applied(data: bytes, changes: list[Mutation]) -> bytes:
    """`data` after all `changes`, in turn."""
    for change in changes:
        data = change.apply(data)
    return data
