"""Columns inside others: fields of structs by dotted names, and lists that hold the plays of a session or listener."""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Leaf(NamedTuple):
    """A column of single values, or of lists of them."""

    path: tuple[str, ...]
    """Its own name and, before it, those of the structs that it is in."""
    kind: pa.DataType
    lists: int
    """How many lists it is in."""


def leaves(fields: Iterable[pa.Field], above: tuple[str, ...] = (), lists: int = 0) -> Iterator[tuple[str, Leaf]]:
    """Yields the columns of a schema by their dotted names; maps and unions are columns that cannot be read."""
    for field in fields:
        kind, path, depth = field.type, (*above, field.name), lists
        while is_list(kind):
            kind, depth = kind.value_type, depth + 1
        if pa.types.is_struct(kind):
            yield from leaves(kind, path, depth)
        else:
            yield ".".join(path), Leaf(path, kind, depth)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's lists."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def flat(column: pa.Array, path: tuple[str, ...] = ()) -> tuple[pa.Array, np.ndarray | None]:
    """Returns the values of the field at `path` in a column, and the length of each row's list if it is in one."""
    lengths = None
    for key in (*path, None):
        if is_list(column.type):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
            column = pc.list_flatten(column)
        if key is not None:
            column = pc.struct_field(column, [key])
    return column, lengths


class Plays(NamedTuple):
    """The plays of rows that may hold lists of them."""

    columns: list[pa.Array]
    parent: np.ndarray
    """int64: the row of each play."""
    unequal: np.ndarray
    """bool: the play stands for a row whose lists differ in length, and has no values of them."""


def plays_of(columns: list[tuple[pa.Array, np.ndarray | None]], rows: int) -> Plays:
    """Returns a play for each value of the lists, in order, beside it the row's single values."""
    lengths = [of for _, of in columns if of is not None]
    if not lengths:
        return Plays([column for column, _ in columns], np.arange(rows), np.zeros(rows, dtype=bool))
    unequal = np.any([of != lengths[0] for of in lengths], axis=0)
    counts = np.where(unequal, 1, lengths[0])
    parent = np.repeat(np.arange(rows), counts)
    within = np.arange(len(parent)) - np.repeat(counts.cumsum() - counts, counts)
    taken = []
    for column, of in columns:
        places = parent if of is None else (of.cumsum() - of)[parent] + within
        taken.append(column.take(pa.array(places, mask=None if of is None else unequal[parent])))
    return Plays(taken, parent, unequal[parent])


_HEAD = 2048
SEPARATOR = " | "
"""Between the parts of an id that is made of several columns; a `|` inside a part is doubled."""


def joined_ids(parts: list[pa.Array]) -> pa.Array:
    """Returns ids that tell all different parts apart; null where a part is null or blank."""
    doubled = [pc.replace_substring(part, "|", "||") for part in parts]
    blank = functools.reduce(pc.or_kleene, (pc.equal(pc.utf8_trim_whitespace(part), "") for part in parts))
    return pc.if_else(pc.fill_null(blank, True), None, pc.binary_join_element_wise(*doubled, SEPARATOR))


def bytes_of(column: pa.Array) -> pa.BinaryArray:
    """Returns a column of single values as the bytes of its text, which may not be UTF-8.

    Sixteen bytes are a UUID, and NaN is a missing value; Arrow has a text of all else but nested types.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind, types = column.type, pa.types
    if kind == pa.binary(16):
        return uuids(column)
    if types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return pc.cast(column if binary else pc.cast(column, pa.string()), pa.binary())


def coded_bytes(column: pa.Array) -> pa.DictionaryArray:
    """Returns what `bytes_of` does with each value written once, and numbered by int32."""
    if pa.types.is_dictionary(column.type) and len(column.dictionary) > len(column):
        column = column.dictionary_decode()  # few of the values are those of these rows
    try:
        coded = (column.storage if isinstance(column, pa.ExtensionArray) else column).dictionary_encode()
        values = bytes_of(coded.dictionary)
    except pa.ArrowNotImplementedError:
        return bytes_of(column).dictionary_encode()
    if values.null_count:  # a value that counts as missing
        return bytes_of(column).dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), values)


def is_spread(column: pa.Array) -> bool:
    """Whether a long column has hardly a value twice, as times have, by its first values."""
    if len(column) < 2 * _HEAD or pa.types.is_dictionary(column.type):
        return False
    return len(column.slice(0, _HEAD).unique()) > _HEAD // 2


def uuids(column: pa.FixedSizeBinaryArray) -> pa.BinaryArray:
    """Returns the text of UUIDs."""
    digits = pc.fill_null(column, bytes(16)).cast(pa.binary()).to_pylist()
    text = np.frombuffer(b"".join(digits).hex().encode(), "S1").reshape(len(column), 32)
    dash = np.full((len(column), 1), b"-", "S1")
    whole = np.concatenate(
        [text[:, :8], dash, text[:, 8:12], dash, text[:, 12:16], dash, text[:, 16:20], dash, text[:, 20:]], axis=1
    )
    found = pa.array(np.ascontiguousarray(whole).view("S36").ravel(), pa.binary())
    return pc.if_else(column.is_valid(), found, None)
