"""Every content that does not fit its model is refused in one short line."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from skipwise.common.errors import UserError
from skipwise.common.schema import Count, PositiveCount, Sha256, StrictModel, matching, validate

FILE = Path("made/manifest.json")
Name = Annotated[str, matching(r"\w+\.npy", "a name of an npy file")]


class Part(StrictModel):
    file: Name
    rows: Count


class Content(StrictModel):
    phase: Literal["train", "refit"]
    rows: PositiveCount
    share: float = 0.0
    parts: list[Part] = []
    hashes: dict[Name, Sha256] = {}
    options: dict[str, Any] = {}
    gone: Part | None = None
    schema_version: int = 2

    @model_validator(mode="after")
    def rows_add_up(self) -> Self:
        if self.parts and (total := sum(part.rows for part in self.parts)) != self.rows:
            raise ValueError(f"has {total} rows in its parts and {self.rows} in all")
        return self


GOOD = {"phase": "train", "rows": 3, "schema_version": 2}
PART = {"file": "a.npy", "rows": 3}


def test_what_fits_is_a_model():
    content = GOOD | {"share": 1, "parts": [PART], "options": {"a": float("nan")}, "gone": None}
    made = validate(Content, content, FILE, "train again")
    assert (made.rows, made.share, made.parts) == (3, 1.0, [Part(file="a.npy", rows=3)])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": "3"}, "rows is '3': expected a valid integer; train again"),
        ({"rows": True}, "rows is True: expected a valid integer; train again"),
        ({"rows": 3.0}, "rows is 3.0: expected a valid integer; train again"),
        ({"rows": 0}, "rows is 0: expected a number greater than or equal to 1; train again"),
        ({"rows": 2**63}, "rows is 9223372036854775808: expected a number less than 9223372036854775808; train again"),
        ({"rows": 10**6000}, "rows is a huge number: expected a number less than 9223372036854775808; train again"),
        ({"phase": "test"}, "phase is 'test': expected 'train' or 'refit'; train again"),
        ({"share": float("nan")}, "share is nan: expected a finite number; train again"),
        ({"share": float("inf")}, "share is inf: expected a finite number; train again"),
        ({"share": 10**400}, "share is "),
        ({"share": False}, "share is False: expected a valid number; train again"),
        ({"parts": {}}, "parts is {}: expected a valid list; train again"),
        ({"parts": [PART, 3]}, "parts[1] is 3: expected an object; train again"),
        ({"parts": [{"file": "../b", "rows": 3}]}, "parts[0].file is '../b': expected a name of an npy file; train"),
        ({"parts": [{"file": "a.npy\n", "rows": 3}]}, "parts[0].file is 'a.npy\\n': expected a name of an npy file"),
        ({"parts": [{"file": "\ud800", "rows": 3}]}, "parts[0].file is '\\ud800': expected a name of an npy file"),
        ({"hashes": {"x.npy": "0"}}, "hashes['x.npy'] is '0': expected 64 hexadecimal digits; train again"),
        ({"hashes": {"../x": "0" * 64}}, "hashes has the key '../x': expected a name of an npy file; train again"),
        ({"hashes": {"y" * 999: "0" * 64}}, "hashes has the key 'yyy"),
        ({"gone": {"file": "a.npy", "rows": []}}, "gone.rows is []: expected a valid integer; train again"),
    ],
)
def test_a_field_that_does_not_fit_is_named(change, sentence):
    with pytest.raises(UserError) as caught:
        validate(Content, GOOD | change, FILE, "train again")
    assert str(caught.value).startswith(f"{FILE}: {sentence}") and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (3, " is not a JSON object: train again"),
        ([GOOD], " is not a JSON object: train again"),
        ({}, " has schema_version None, this version reads 2: train again"),
        ({"schema_version": 3, "other": 1}, " has schema_version 3, this version reads 2: train again"),
        (GOOD | {"schema_version": 2.0}, " has schema_version 2.0, this version reads 2: train again"),
        ({"phase": "train", "schema_version": 2}, " has no field 'rows': train again"),
        (GOOD | {"parts": [{"rows": 3}]}, " has no field 'parts[0].file': train again"),
        (GOOD | {"row": 1}, " has an unknown field 'row': train again"),
        (GOOD | {"\ud800": 1}, " has a field whose name is not Unicode text: train again"),
        (GOOD | {"rows": 4, "parts": [PART]}, " has 3 rows in its parts and 4 in all: train again"),
    ],
)
def test_content_that_does_not_fit_as_a_whole(content, sentence):
    with pytest.raises(UserError) as caught:
        validate(Content, content, FILE, "train again")
    assert str(caught.value) == f"{FILE}{sentence}"


def test_true_is_not_version_1():
    class First(StrictModel):
        schema_version: int = 1

    with pytest.raises(UserError, match="schema_version True, this version reads 1"):
        validate(First, {"schema_version": True}, FILE, "train again")


def test_content_nested_deep():
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": [deep]}
    assert validate(Content, GOOD | {"options": deep}, FILE, "train again").options == deep
    with pytest.raises(UserError, match="rows is {'a': .*: expected a valid integer; train again"):
        validate(Content, GOOD | {"rows": deep}, FILE, "train again")


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None)))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Content.model_fields, "other"]) | st.text(), values, max_size=4))
def test_any_content_is_refused_in_one_line_or_kept(change):
    try:
        made = validate(Content, GOOD | change, FILE, "train again")
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(str(FILE)) and sentence.isprintable() and len(sentence) < 500
        return
    dumped, kept = made.model_dump(exclude_unset=True), GOOD | change
    assert dumped.pop("share", 0) == kept.pop("share", 0)
    assert json.dumps(dumped, sort_keys=True) == json.dumps(kept, sort_keys=True)
