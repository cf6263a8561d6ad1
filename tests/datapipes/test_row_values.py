"""Rows parsed by their different values, against one query over all rows."""

import random

import numpy as np
import pyarrow as pa
import pytest

from skipwise.common.parquet_pages import Pages
from skipwise.datapipes.prepare import PrepareConfig
from skipwise.datapipes.prepare.places import Reading
from skipwise.datapipes.prepare.read_rows import MANY
from skipwise.datapipes.prepare.row_checks import FAULTS
from skipwise.datapipes.prepare.row_values import CONTEXT_VALUES, PARSED, RowValues, numbered
from skipwise.datapipes.prepare.skip_rules import strength_of
from skipwise.datapipes.prepare.staging import connect

FLAG = ["true", "false", "1", "0", "Yes", "", "2", None]
VALUES = {
    "session": ["s1", "s2", "Söng", " ", "", None, "a\nb", "x" * 1025, "n/a"],
    "track": ["t1", "t 2", "", None, "\x0b", "a\rb", "y" * 1024, "y" * 1025],
    "order": ["1", "2", "-3.25", "x", "", None, "9223372036854775808", "1e3"],
    "skip_1": FLAG,
    "skip_2": FLAG,
    "skip_3": FLAG,
    "not_skipped": FLAG,
    "played": ["1.5", "-1", "nan", "", None, "30"],
    "hour_of_day": ["0", "23", "24", "x", "", None],
    "premium": FLAG,
    "context_type": ["radio", "", None, "charts"],
    "context_1": ["a", "7", "7.5", "", None, "b\nc"],
    "title": ["Title " * 200, "t", "", None],
}


@pytest.mark.parametrize(("rows", "fresh"), [(400, 0), (5_000, 4_000)])
def test_values_say_what_rows_do(tmp_path, rows, fresh):
    """`fresh`: ids of one row each, so that a batch has more of them than are remembered."""
    draw = random.Random(rows)
    roles = [*VALUES]
    config = PrepareConfig(
        input=(tmp_path,), output=tmp_path / "out", session="s", track="t", order="o", played="p", skip_under="30s",
        played_unit="s", title="title",
    )  # fmt: skip
    with connect(config, tmp_path) as engine:
        values = RowValues(engine, 3, roles, Reading(), config)
        for start in range(0, 3 * rows, rows):
            columns = {role: draw.choices(VALUES[role], k=rows) for role in roles}
            for role in ("session", "track", "order"):
                columns[role][:fresh] = map(str, range(start, start + fresh))
            columns |= {
                "row": [*range(start, start + rows)],
                "mark": draw.choices(range(7), [30, 1, 1, 1, 1, 1, 1], k=rows),
            }
            plain = pa.table({name: pa.array(of, kind_of(name)) for name, of in columns.items()})
            (batch,) = plain.to_batches()
            coded = [
                one if name in ("row", "mark") or (fresh and name in MANY) else one.dictionary_encode()
                for name, one in zip(plain.schema.names, batch.columns, strict=True)
            ]
            found = values.checked(pa.record_batch(coded, names=plain.schema.names))
            engine.register("plain", plain)
            expected = engine.sql(of_rows(roles, config)).to_arrow_table().cast(decoded(values.schema))
            assert found.cast(decoded(found.schema)).equals(expected)
            assert {*found["fault"].to_pylist()} >= {0, 1, 7, 9} and set(found["file"].to_pylist()) == {3}


def kind_of(name: str) -> pa.DataType:
    return {"row": pa.int64(), "mark": pa.uint8()}.get(name, pa.string())


def decoded(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(one.name, pa.string() if pa.types.is_dictionary(one.type) else one.type) for one in schema])


def of_rows(roles: list[str], config: PrepareConfig) -> str:
    """The query that parses and checks each row by itself."""
    parsed = ["*", *(sql for role, sql in PARSED.items() if role in roles), *Reading().columns]
    cases = " ".join(
        f"WHEN {fault.condition} THEN {code}"
        for code, fault in enumerate(FAULTS, 1)
        if {fault.role, fault.beside} <= {None, *roles}
    )
    contexts = "".join(f", {sql} AS {role}" for role, sql in CONTEXT_VALUES.items() if role in roles)
    return f"""
        SELECT session, track, 3::INTEGER AS file, row, place, fraction,
            ({strength_of(roles, config)})::TINYINT AS strength,
            CASE WHEN broken(session) OR broken(track) THEN 1 {cases} ELSE 0 END AS fault{contexts},
            left(title, 513) AS title
        FROM (SELECT {", ".join(parsed)} FROM plain) ORDER BY row"""


@pytest.mark.parametrize("most", [7, 1 << 20])
def test_numbers_of_codes(most):
    codes = np.random.default_rng(0).integers(0, 7, 1000)
    present, place = numbered(codes, most)
    assert np.array_equal(present[place], codes) and len(present) == 7


def test_the_longest_text_of_a_dictionary():
    draw = random.Random(0)
    for case in range(3000):
        content = [0, 1, 5, 97] if case % 2 else [97, 98]
        texts = [
            bytes(draw.choices(content, k=draw.choice([0, 1, 2, 3, 4, 9, 300]))) for _ in range(draw.randint(1, 6))
        ]
        coded = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        assert Pages(0, [], len(coded), coded).longest("UNCOMPRESSED") == max(map(len, texts))
    assert Pages(0, [], 3, b"abc").longest("UNCOMPRESSED") == 3
