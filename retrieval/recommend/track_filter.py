"""Which tracks may be recommended: conditions on columns of the tracks, as a request or a command line says them.

Imports neither torch nor Arrow.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from pydantic import BeforeValidator, WithJsonSchema

from skipwise.common.errors import UserError, brief, shown

Value = str | bool | int | float
TRACK = "track"
"""The column of the track ids."""
MOST_VALUES = 10_000
"""Of a filter."""
MOST_CONDITIONS = 32
_TESTS = ("in", "not", "from", "to")
_EXPECTED = (
    'expected a column and its value, as in {"explicit": false}, a list of values, or an object of "in", "not", "from" '
    'and "to"'
)


@dataclass(frozen=True)
class Condition:
    """One test of one column."""

    column: str
    test: str
    """`in`: one of the values; `not`: none of them; `from`, `to`: at least, at most the one value."""
    values: tuple[Value, ...]
    kinds: tuple[type, ...]
    """Of the values: Python holds 1, 1.0 and True for equal, and a column does not."""


TrackFilter = tuple[Condition, ...]
"""All must hold."""


def read_filter(given: Any) -> TrackFilter:
    """From `{"territory": ["SE", "NO"], "explicit": false, "year": {"from": 1990}}`; a `TrackFilter` is left as it is.

    Raises `ValueError` for anything else.
    """
    if isinstance(given, tuple) and all(isinstance(one, Condition) for one in given):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"filter {shown(given)} is no object: {_EXPECTED}")
    found = []
    for column, tests in given.items():
        if not isinstance(column, str):
            raise ValueError(f"filter has the column {shown(column)}: {_EXPECTED}")
        tests = tests if isinstance(tests, Mapping) else {"in": tests}
        if not tests or not tests.keys() <= {*_TESTS}:
            raise ValueError(f"filter of {shown(column)} is {shown(dict(tests))}: {_EXPECTED}")
        for test, of in tests.items():
            values = _values(column, test, of)
            found.append(Condition(column, test, values, tuple(map(type, values))))
    if len(found) > MOST_CONDITIONS:
        raise ValueError(f"filter has {len(found)} conditions where at most {MOST_CONDITIONS} were expected")
    if (count := sum(len(one.values) for one in found)) > MOST_VALUES:
        raise ValueError(
            f"filter has {count:,} values where at most {MOST_VALUES:,} were expected: put longer lists into a column "
            "of the table that --tracks names"
        )
    return tuple(found)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `object_pairs_hook`; raises `ValueError` where a name stands twice, of which Python takes
    the last: a condition that nobody would miss before it is too late."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"{shown(twice)} stands twice in one object: give it once")
    return found


def _values(column: str, test: str, given: Any) -> tuple[Value, ...]:
    many = isinstance(given, (list, tuple, set, frozenset))
    values = tuple(given) if many else (given,)
    if many and test in ("from", "to"):
        raise ValueError(f"filter of {shown(column)} has a list for {test!r}: give one value")
    for value in values:
        if not isinstance(value, (str, bool, int, float)) or value != value:
            raise ValueError(f"filter of {shown(column)} has {shown(value)}: expected text, a number, true or false")
        if isinstance(value, str) and not _is_text(value):
            raise ValueError(f"filter of {shown(column)} holds half of a surrogate pair: send whole characters")
    return values


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_word(words: list[str]) -> TrackFilter:
    """One word of a command line; raises `UserError`, which tyro hands on as it is."""
    try:
        return read_filter(json.loads(words[0], object_pairs_hook=each_once))
    except json.JSONDecodeError as error:
        raise UserError(f"--filter {shown(words[0])} is no JSON ({brief(error)}): {_EXPECTED}") from error
    except (ValueError, RecursionError) as error:
        said = brief(error)
        raise UserError(f"--{said}" if said.startswith("filter") else f"--filter {shown(words[0])}: {said}") from error


_SPEC: tyro.constructors.PrimitiveConstructorSpec[Any] = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=_of_word,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: ["{}"],
)
_SCALAR = {"type": ["string", "boolean", "number"]}
_ANY_OF = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}
_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            *_ANY_OF["anyOf"],
            {
                "type": "object",
                "properties": {"in": _ANY_OF, "not": _ANY_OF, "from": _SCALAR, "to": _SCALAR},
                "additionalProperties": False,
            },
        ]
    },
    "default": {},
    "example": {"territory": "SE", "explicit": False, "artist": {"not": ["X"]}},
}
Filter = Annotated[TrackFilter, BeforeValidator(read_filter), WithJsonSchema(_SCHEMA), _SPEC]
