"""JSON records as Arrow columns of text, by DuckDB: what they hold, and the columns that are read of them."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.common.errors import UserError
from skipwise.datapipes.nested import Leaf
from skipwise.datapipes.prepare.cut_records import Records, line_records, records_of, value_records

SAMPLE = 10_000
"""Records whose columns are looked at first."""
DIGITS = 17
"""Most that programs write of a double: a number of more is none."""
LONG = "|".join(rf"[1-9][0-9]{{{whole - 1}}}\.[0-9]{{{max(1, DIGITS + 1 - whole)},}}" for whole in range(1, DIGITS + 2))
"""What a record holds that has a number from 1 with a fraction and more digits."""
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[1-9][0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?', re.DOTALL)


def json_records(path: Path, encoding: str, advance: Callable[[int], object] = lambda size: None) -> Iterator[Records]:
    """Yields the records of a JSON file: its lines, where the first is an object by itself, otherwise its objects."""
    first = next(records_of(path, encoding, line_records)).texts()[:1]
    return records_of(path, encoding, line_records if first and is_object(first[0]) else value_records, advance)


def is_object(line: bytes) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def json_shape(path: Path, encoding: str) -> Any:
    """Returns the structure of a file's first records, as DuckDB has it: objects, lists of one, and names of types."""
    for records in json_records(path, encoding):
        texts = [text.decode(errors="replace") for text in records.texts()[:SAMPLE]]
        with duckdb.connect() as engine:
            engine.register("records", pa.table({"text": pa.array(texts, pa.string())}))
            shapes = engine.sql("""
                SELECT json_structure(text) FROM records
                WHERE CASE WHEN json_valid(text) THEN json_type(text) = 'OBJECT' END""").fetchall()
        found = merged([json.loads(shape) for shape in dict.fromkeys(shape for (shape,) in shapes)])
        if isinstance(found, dict):
            return found
        if texts:
            raise UserError(
                f"{path}, line {records.line(0)} is no JSON object with fields: expected objects, one a play or session"
            )
    raise UserError(f"{path} has no rows: expected one a play, or leave the file out")


def merged(shapes: list[Any]) -> Any:
    """Returns the structure of values of these structures; beside objects all other values are bad."""
    objects, lists = ([one for one in shapes if isinstance(one, kind) and one] for kind in (dict, list))
    kinds = {one for one in shapes if isinstance(one, str)} - {"NULL"}
    if objects:
        keys = dict.fromkeys(key for one in objects for key in one)
        return {key: merged([one[key] for one in objects if key in one]) for key in keys}
    if lists and not kinds:
        return [merged([one for of in lists for one in of])]
    if not lists and kinds <= {"UBIGINT", "BIGINT", "HUGEINT", "DOUBLE"}:
        return "DOUBLE" if kinds else "NULL"
    return kinds.pop() if len(kinds) == 1 and not lists else "JSON"


def json_leaves(shape: Any, path: tuple[str, ...] = (), lists: int = 0) -> dict[str, Leaf]:
    """Returns the columns of a structure by their dotted names; those with values of several kinds are of JSON."""
    if isinstance(shape, list):
        return json_leaves(shape[0], path, lists + 1)
    if isinstance(shape, dict) and shape:
        return {name: leaf for key, of in shape.items() for name, leaf in json_leaves(of, (*path, key), lists).items()}
    return {".".join(path): Leaf(path, pa.json_() if shape == "JSON" else pa.string(), lists)}


def only(shape: Any, wanted: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> Any:
    """Returns a structure with the wanted columns alone, all of them text; None where it has none of them."""
    if isinstance(shape, list):
        inner = only(shape[0], wanted, path)
        return inner and [inner]
    if isinstance(shape, dict) and shape:
        found = {key: only(of, wanted, (*path, key)) for key, of in shape.items()}
        return {key: of for key, of in found.items() if of} or None
    return "VARCHAR" if path in wanted else None


def exact_numbers(texts: pa.Array) -> pa.Array:
    """Returns JSON records in which numbers that DuckDB would round to a double are strings."""

    def quoted(token: re.Match[str]) -> str:
        return token[0] if token[0][0] == '"' or not re.search(LONG, token[0]) else f'"{token[0]}"'

    has_long = pc.fill_null(pc.match_substring_regex(texts, LONG), False)
    if not pc.any(has_long).as_py():
        return texts
    changed = [TOKEN.sub(quoted, text) for text in texts.filter(has_long).to_pylist()]
    return pc.replace_with_mask(texts, has_long, pa.array(changed, texts.type))


class JsonReader:
    """Reads the wanted columns of a structure from the texts of records."""

    def __init__(self, shape: Any, wanted: set[tuple[str, ...]]):
        structure = json.dumps(only(shape, wanted)).replace("'", "''")
        self._query = f"SELECT TRY(json_transform(text, '{structure}')) AS record FROM records"
        self._engine = duckdb.connect()

    def read(self, texts: pa.Array) -> pa.Array:
        """Returns structs of text: null for what is not JSON."""
        self._engine.register("records", pa.table({"text": exact_numbers(texts)}))
        return self._engine.sql(self._query).to_arrow_table()["record"].combine_chunks()
