"""`--where`: a condition in SQL over the columns of a log, which rows must meet to be read."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.datapipes.nested import Leaf
from skipwise.datapipes.prepare.row_marks import FINE, NOT_JSON, UNFIT

LEFT_OUT = "that --where leaves out"
"""The reason in the manifest."""
_STATEMENT = "SELECT 1 FROM log WHERE (\n{}\n)"
_REFUSED = {"SUBQUERY": "a query of its own", "STAR": "all columns at once", "PARAMETER": "a parameter"}
_NUMBER = "(?i)-?((0|[1-9][0-9]*)?([.][0-9]*)?(e[+-]?[0-9]+)?|inf|infinity|nan)"
"""007, +7 and ' 7' are texts: as numbers they would be equal to 7."""
_WRITTEN = {"BIGINT": "-?(0|[1-9][0-9]*)([.]0*)?", "HUGEINT": "-?(0|[1-9][0-9]*)([.]0*)?", "DOUBLE": _NUMBER}
"""How numbers of a type are written."""


class Condition(NamedTuple):
    """A condition, and what it is about."""

    where: str
    """As it was given."""
    sql: str
    """With the names of roles, `where_1` on, in place of its columns."""
    columns: dict[str, str]
    """From these roles to the columns as the condition names them."""
    texts: frozenset[str] = frozenset()
    """The roles that are read as text: those of `try_cast(x AS ...)` and `x::VARCHAR`."""


@functools.cache
def condition_of(where: str) -> Condition:
    """Reads a condition; raises `UserError` for one that is not a single expression over the columns of a row."""
    with duckdb.connect(config={"enable_external_access": False}) as engine:

        def parsed(text: str) -> dict[str, Any]:
            ((found,),) = engine.execute("SELECT json_serialize_sql(?)", [_STATEMENT.format(text)]).fetchall()
            tree: dict[str, Any] = json.loads(found)
            return tree

        tree = parsed(where)
        if tree["error"]:
            raise wrong(where, tree["error_message"])
        if _frame(tree) != _frame(parsed("true")):
            raise wrong(where, "it is more than a condition")
        roles: dict[tuple[str, bool], str] = {}
        as_text: list[dict[str, Any]] = []
        for node in _nodes(tree["statements"][0]["node"]["where_clause"]):
            if what := _REFUSED.get(node.get("class", "")):
                raise wrong(where, f"it names {what}")
            if node.get("type") in ("COMPARE_EQUAL", "COMPARE_IN") and (name := _beside_empty(node)):
                raise wrong(where, f"{name} is never equal to '', an empty field is missing: write {name} IS NULL")
            if node.get("class") == "CAST" and (node["try_cast"] or node["type_expr"]["type_name"] == "VARCHAR"):
                as_text.append(node["child"])
            if node.get("class") == "COLUMN_REF":
                key = ".".join(node["column_names"]), any(node is one for one in as_text)
                node["column_names"] = [roles.setdefault(key, f"where_{len(roles) + 1}")]
        ((sql,),) = engine.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()
    condition = sql.split("WHERE", 1)[1].strip().removesuffix(";")
    columns = {role: name for (name, _), role in roles.items()}
    return Condition(where, condition, columns, frozenset(role for (_, text), role in roles.items() if text))


def wrong(where: str, why: str) -> UserError:
    """Returns the error of a condition that cannot be used."""
    reason = " ".join(re.split(r"LINE \d+:", why)[0].split())[:300]
    example = "\"ms_played > 30000 AND country = 'SE'\""
    given = " ".join(where.split())[:100]
    hint = "; the name of a column that is a word of SQL stands in double quotes" if "syntax error" in reason else ""
    return UserError(f"--where {given} cannot be used ({reason}): expected a condition such as {example}{hint}")


def failed(condition: Condition, error: duckdb.Error) -> UserError:
    """Returns the error of a condition that the engine refuses, with its own names of columns."""
    reason = str(error)
    for role, name in [*condition.columns.items()][::-1]:
        reason = reason.replace(role, name)
    return wrong(condition.where, reason)


def types_of(condition: Condition, leaves: dict[str, Leaf], first: pa.RecordBatch) -> dict[str, str]:
    """Returns the SQL type of each of the condition's roles: of columns of text or JSON by the `first` rows.

    `leaves`: columns whose type is known. Raises `UserError` for a condition that does not fit the types.
    """
    types = {}
    for role, name in condition.columns.items():
        if leaf := leaves.get(name):
            types[role] = _sql_type(leaf.kind)
        elif role in condition.texts:
            types[role] = "VARCHAR"
        else:
            fits = [("BIGINT", "AND NOT contains(x, '.')"), ("HUGEINT", "AND NOT contains(x, '.')"), ("DOUBLE", "")]
            cases = [f"WHEN bool_and({_fits('x', kind)} {more}) THEN '{kind}'" for kind, more in fits]
            with duckdb.connect() as engine:
                engine.register("batch", first.select([role]))
                ((types[role],),) = engine.execute(
                    f"""SELECT CASE WHEN count(x) = 0 THEN 'VARCHAR' {" ".join(cases)}
                        WHEN bool_and(lower(x) IN ('true', 'false')) THEN 'BOOLEAN' ELSE 'VARCHAR' END
                    FROM (SELECT {role} AS x FROM batch WHERE {role} <> '')"""
                ).fetchall()
    with duckdb.connect(config={"enable_external_access": False}) as engine:
        columns = ", ".join(f'"{role}" {kind}' for role, kind in {"row": "BIGINT", **types}.items())
        try:
            engine.execute(f"CREATE TABLE log ({columns}); SELECT 1 FROM log WHERE {condition.sql}").fetchall()
        except duckdb.Error as error:
            raise failed(condition, error) from None
    return types


def met(condition: Condition, types: dict[str, str]) -> str:
    """Returns the SQL of the rows of `incoming` that meet the condition, or could not be read.

    Rows with a value that is not of its type are marked as `UNFIT`: it is not known whether they meet it.
    """
    unfit = [f"({role} <> '' AND NOT {_fits(role, kind)})" for role, kind in types.items()]
    mark = f"CASE WHEN mark = {FINE} AND ({' OR '.join(unfit) or 'false'}) THEN {UNFIT}::UTINYINT ELSE mark END AS mark"
    columns = (f"try_cast(nullif({role}, '') AS {kind}) AS {role}" for role, kind in types.items())
    rows = f"SELECT * REPLACE ({', '.join([mark, *columns])}) FROM incoming"
    return f"(SELECT * FROM ({rows}) WHERE row IS NULL OR mark IN ({NOT_JSON}, {UNFIT}) OR ({condition.sql}))"


def _fits(column: str, kind: str) -> str:
    """SQL: whether a text that is not empty is a value of this type."""
    written = f" AND regexp_full_match({column}, '{_WRITTEN[kind]}')" if kind in _WRITTEN else ""
    return f"(try_cast({column} AS {kind}) IS NOT NULL{written})"


def _beside_empty(node: dict[str, Any]) -> str | None:
    """The column that a comparison sets beside an empty text."""
    beside = node.get("children") or [node["left"], node["right"]]
    if not any(one.get("literal") == {"kind": "STRING", "text": ""} for one in beside):
        return None
    return next((".".join(one["column_names"]) for one in beside if one["class"] == "COLUMN_REF"), None)


def _sql_type(kind: pa.DataType) -> str:
    types = pa.types
    for is_one, name in (
        (types.is_boolean, "BOOLEAN"),
        (types.is_unsigned_integer, "UBIGINT"),
        (types.is_integer, "BIGINT"),
        (types.is_floating, "DOUBLE"),
        (types.is_decimal, f"DECIMAL({kind.precision}, {kind.scale})" if _is_exact(kind) else "DOUBLE"),
        (types.is_date, "DATE"),
        (types.is_timestamp, "TIMESTAMPTZ" if types.is_timestamp(kind) and kind.tz else "TIMESTAMP"),
    ):
        if is_one(kind):
            return name
    return "VARCHAR"


def _is_exact(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) and kind.precision <= 38


def _frame(tree: dict[str, Any]) -> Any:
    """The statement but its condition."""
    nodes = [{**one["node"], "where_clause": None} for one in tree["statements"]]
    return json.dumps(nodes)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(part)
