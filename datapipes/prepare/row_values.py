"""Parses and checks rows by their values: what a value says is found out once for all rows of a batch that have it."""

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.datapipes.prepare.column_roles import CONTEXT, FLAGS, NAMED
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.name_options import LONGEST_NAME, is_name
from skipwise.datapipes.prepare.places import Reading
from skipwise.datapipes.prepare.row_checks import FAULTS, FAULTS_OF_MARKS, IN_ONE_LINE, LONGEST_ID
from skipwise.datapipes.prepare.skip_options import SKIPS
from skipwise.datapipes.prepare.skip_rules import strength_of

PARSED = {
    **{role: f"flag({role}) AS {role}_flag" for role in ("skip", "kept", *FLAGS, "not_skipped", "premium", "shuffle")},
    **{
        role: f"try_cast({role} AS DOUBLE) AS {role}_value"
        for role in ("skip_strength", "rating", "played", "duration")
    },
    "hour_of_day": "try_cast(hour_of_day AS TINYINT) AS hour",
}
"""SQL of one more column for each of these roles, which the checks and the next expressions use."""
CONTEXT_VALUES = {
    **{role: f"nullif({role}, '')" for role in (*CONTEXT, *NAMED)},
    "hour_of_day": "hour",
    "premium": "premium_flag",
    "shuffle": "shuffle_flag",
}
"""SQL for each context column, in the order of `context_names`."""
_OF_SKIPS = (*SKIPS, "duration", *FLAGS, "not_skipped")
_FINE = 255
_MOST_KNOWN = 1 << 10
_MOST_COUNTED = 1 << 16


class Unit(NamedTuple):
    """Columns of text whose values are read together, whatever the others say."""

    roles: tuple[str, ...]
    columns: dict[str, str]
    """SQL of what is read from them."""

    @property
    def fault(self) -> str:
        """SQL of the code of the first fault, 0 for none."""
        found = [f"WHEN broken({role}) THEN 1" for role in self.roles if role in IN_ONE_LINE]
        for code, fault in enumerate(FAULTS, 1):
            if fault.role in self.roles and fault.beside in (None, *self.roles):
                found.append(f"WHEN {fault.condition} THEN {code}")
        return f"CASE {' '.join(found)} ELSE 0 END" if found else "0"


class Values(NamedTuple):
    """The different values of a unit's columns in a batch."""

    columns: list[pa.Array]
    place: np.ndarray | None
    """int64 [rows]: which of them each row has; None where each has its own."""

    def __len__(self) -> int:
        return len(self.columns[0])


class RowValues:
    """Parses and checks the rows of one file, batch by batch."""

    def __init__(
        self,
        engine: duckdb.DuckDBPyConnection,
        file: int,
        roles: Sequence[str],
        reading: Reading,
        config: PrepareConfig,
    ):
        """`file`: its number in the log; `reading`: how its places are read."""
        self._engine, self._file = engine, file
        self._reading = reading.columns
        self._units = [Unit((role,), {}) for role in IN_ONE_LINE]
        if "order" in roles:
            self._units.append(Unit(("order",), {"place": "place", "fraction": "fraction"}))
        if skips := tuple(role for role in roles if role in _OF_SKIPS):
            self._units.append(Unit(skips, {"strength": f"({strength_of(roles, config)})::TINYINT"}))
        names = {role: f"left({role}, {LONGEST_NAME + 1})" for role in roles if is_name(role)}
        others = {role: sql for role, sql in (CONTEXT_VALUES | names).items() if role in roles}
        self._units += [Unit((role,), {role: sql}) for role, sql in others.items()]
        self._known = [dict[tuple[str | None, ...], int]() for _ in self._units]
        self._found: list[pa.Table | None] = [None for _ in self._units]
        """What was read of the values of each unit, in the order of their numbers in `_known`."""
        kinds = {"hour_of_day": pa.int8(), "premium": pa.bool_(), "shuffle": pa.bool_()}
        whole, text = pa.int64(), pa.dictionary(pa.int32(), pa.string())
        self.schema = pa.schema(
            {
                **{"session": text, "track": text, "file": pa.int32(), "row": whole, "place": whole, "fraction": whole},
                **{"strength": pa.int8(), "fault": pa.uint8()},
                **{role: kinds.get(role, text) for role in others},
            }
        )

    def checked(self, batch: pa.RecordBatch) -> pa.Table:
        """Returns the rows of a batch of `read_rows.read`, `coded` there, parsed and with the codes of their faults."""
        if not len(batch):
            return self.schema.empty_table()
        faults = FAULTS_OF_MARKS[batch["mark"].to_numpy()]
        zeros = pa.repeat(pa.scalar(0, pa.int64()), len(batch))
        found = {name: batch[name] for name in ("session", "track")}
        found |= {"file": pa.repeat(pa.scalar(self._file, pa.int32()), len(batch)), "row": batch["row"]}
        found |= {"place": zeros, "fraction": zeros, "strength": zeros.cast(pa.int8()), "fault": None}
        values = [values_of([batch[role] for role in unit.roles]) for unit in self._units]
        for unit, of, table in zip(self._units, values, self._read(values), strict=True):
            if table is None:
                continue
            codes = table["fault"].to_numpy()
            if codes.any():
                faults = np.minimum(
                    faults,
                    np.where(codes, codes, _FINE).astype(np.uint8)[slice(None) if of.place is None else of.place],
                )
            for name in unit.columns:
                found[name] = taken(table[name].combine_chunks(), of.place)
        found["fault"] = pa.array(np.where(faults == _FINE, 0, faults).astype(np.uint8))
        return pa.table(found, schema=self.schema)

    def _read(self, values: list[Values]) -> list[pa.Table | None]:
        """Returns what each unit's values are read as, with their `fault`; None where nothing is to be said of them.

        Values that are few are kept, so that those of the next batch need no query.
        """
        queries: dict[int, list[pa.Array]] = {}
        few = {}
        for number, (unit, of) in enumerate(zip(self._units, values, strict=True)):
            if unit.roles[0] in IN_ONE_LINE and is_printable(of.columns[0]):
                continue
            if len(of) > _MOST_KNOWN:
                queries[number] = of.columns
                continue
            if len(self._known[number]) > _MOST_KNOWN * 8:
                self._known[number].clear()
                self._found[number] = None
            few[number] = [*zip(*(column.to_pylist() for column in of.columns), strict=True)]
            new = {key: place for place, key in enumerate(few[number]) if key not in self._known[number]}
            if new:
                queries[number] = [column.take(pa.array([*new.values()])) for column in of.columns]
        found: list[pa.Table | None] = [None] * len(values)
        for number, table in self._query(queries).items() if queries else ():
            found[number] = table
        for number, keys in few.items():
            known, before = self._known[number], self._found[number]
            if (table := found[number]) is not None:
                for key in dict.fromkeys(keys):
                    known.setdefault(key, len(known))
                before = self._found[number] = table if before is None else pa.concat_tables([before, table])
            assert before is not None
            found[number] = before.take([known[key] for key in keys])
        return found

    def _query(self, queries: dict[int, list[pa.Array]]) -> dict[int, pa.Table]:
        """Reads values of several units, by their numbers, side by side: the shorter ones are filled up with nulls."""
        size = max(len(columns[0]) for columns in queries.values())
        table = {"number": pa.array(np.arange(size))}
        named = ["number"]
        for number, columns in queries.items():
            unit, missing = self._units[number], pa.nulls(size - len(columns[0]), pa.string())
            table |= dict(zip(unit.roles, (pa.concat_arrays([one, missing]) for one in columns), strict=True))
            named += [f"{sql} AS {name}" for name, sql in unit.columns.items()]
            named += [f"({unit.fault})::UTINYINT AS fault_{number}"]
        parsed = ["*", *(sql for role, sql in PARSED.items() if role in table)]
        if "order" in table:
            parsed.extend(self._reading)
        self._engine.register("row_values", pa.table(table))
        query = f"SELECT {', '.join(named)} FROM (SELECT {', '.join(parsed)} FROM row_values)"
        found = self._engine.sql(query).to_arrow_table()
        order = found["number"].to_numpy()
        found = found if np.all(order[1:] > order[:-1]) else found.sort_by("number")
        return {
            number: found.select([*self._units[number].columns, f"fault_{number}"])
            .rename_columns([*self._units[number].columns, "fault"])
            .slice(0, len(columns[0]))
            for number, columns in queries.items()
        }


def is_printable(texts: pa.StringArray) -> bool:
    """Whether texts are ids without a fault, as nearly all are: not empty, short, of the letters and signs of ASCII."""
    if not len(texts) or texts.null_count:
        return not len(texts)
    lengths = pc.min_max(pc.binary_length(texts)).as_py()
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return bool(0 < lengths["min"] and lengths["max"] <= LONGEST_ID and content.min() > 32 and content.max() < 127)


def values_of(columns: list[pa.Array]) -> Values:
    """Returns the different combinations of values of coded columns, or all values of one; null is a value."""
    if not all(pa.types.is_dictionary(column.type) for column in columns):
        return Values([column.cast(pa.string()) for column in columns], None)
    texts = [with_null(column) for column in columns]
    places = [column.indices.fill_null(len(column.dictionary)).to_numpy() for column in columns]
    place = places[0].astype(np.int64)
    if len(columns) == 1:
        return Values(texts, place)
    which = [np.arange(len(texts[0]))]
    for text, beside in zip(texts[1:], places[1:], strict=True):
        place = place * len(text) + beside
        present, place = numbered(place, len(which[0]) * len(text))
        which = [of[present // len(text)] for of in which] + [present % len(text)]
    return Values([text.take(pa.array(of)) for text, of in zip(texts, which, strict=True)], place)


def with_null(column: pa.DictionaryArray) -> pa.Array:
    """The values of a coded column, and null behind them where a row has none."""
    return pa.concat_arrays([column.dictionary, pa.nulls(1 if column.null_count else 0, pa.string())])


def numbered(codes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different codes, which are below `most`, and which of them each row has."""
    if most <= _MOST_COUNTED:
        present = np.flatnonzero(np.bincount(codes, minlength=most))
        place = np.zeros(most, np.int64)
        place[present] = np.arange(len(present))
        return present, place[codes]
    found = pa.array(codes).dictionary_encode()
    return found.dictionary.to_numpy(), found.indices.to_numpy().astype(np.int64)


def taken(values: pa.Array, place: np.ndarray | None) -> pa.Array:
    """Returns the value of each row, texts coded."""
    places = pa.array(np.arange(len(values)) if place is None else place)
    if not pa.types.is_string(values.type):
        return values if place is None else values.take(places)
    coded = values.dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices.take(places), coded.dictionary)
