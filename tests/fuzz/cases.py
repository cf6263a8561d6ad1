"""What the fuzz tests of this folder share: how many cases, what counts as refused, and values of every kind."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any, get_args, get_type_hints

from hypothesis import settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from tests.fuzz import tally

TRIED: Counter = Counter()
REFUSED: Counter = Counter()


def cases(number: int, **options: Any) -> Callable:
    """`tally.cases`, where what hangs fails by hypothesis' own clock."""
    return settings(tally.cases(number), deadline=options.pop("deadline", 5000), **options)


@contextmanager
def counted() -> Iterator[None]:
    """Prints, after the block, how many cases of each kind ran in it and how many were refused (pytest -s shows it)."""
    TRIED.clear()
    REFUSED.clear()
    yield
    for name, number in TRIED.items():
        print(f"\n{name}: {number} cases, {REFUSED[name]} refused", end="")


def outcome(name: str, work: Callable[[], Any], *named: str) -> Any:
    """What `work` returns, or None after a refusal of one line that holds one of `named`; all else is a fault."""
    TRIED[name] += 1
    try:
        return work()
    except UserError as error:
        REFUSED[name] += 1
        sentence = str(error)
        assert sentence.isprintable() and 20 < len(sentence) < 2000, sentence
        assert any(word in sentence for word in named), sentence
        return None


def paths(config: Any, section: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        found += paths(value, (*section, name)) if is_dataclass(value) else [(*section, name)]
    return found


def at(config: Any, path: tuple[str, ...]) -> Any:
    return reduce(getattr, path, config)


def is_sound(config: Any) -> None:
    """Every field has its type, and every number is finite and small."""
    for path in paths(config):
        value = at(config, path)
        assert not isinstance(value, float) or math.isfinite(value), path
        assert not isinstance(value, int) or abs(value) < 1 << 63, path


def kinds_of(config_class: type, section: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The type of each field, by its path."""
    hints, found = get_type_hints(config_class), {}
    for name in (field.name for field in fields(config_class)):
        inner = (*section, name)
        found |= kinds_of(hints[name], inner) if is_dataclass(hints[name]) else {inner: hints[name]}
    return found


def plausible(kind: Any) -> st.SearchStrategy:
    """Values that a field of this type may well take."""
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.sampled_from([0, 1, 2, 4, 16, 32, 128])
    if kind is float:
        return st.sampled_from([0.0, 0.1, 0.5, 1.0, 1e-3])
    choices = [choice for choice in get_args(kind) if isinstance(choice, (int, str))]
    return st.sampled_from(choices) if choices else st.sampled_from(["a", "b/c", "data.csv"])


NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([10**12, 10**18, 10**30, -(10**30), 2**31, 2**63, 2**64, 0]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e308, 5e-324]),
)
TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["", "nan", "1e-3", "inf", "0x10", "None", "a\0b", "\ud800"]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=4), st.dates(), st.datetimes())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(0, 3), inner, max_size=3),
    max_leaves=6,
)
