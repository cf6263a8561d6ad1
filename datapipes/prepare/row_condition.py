"""`--where`: a condition in SQL over the columns of a log, which rows must meet to be read."""

import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.datapipes.nested import Leaf

LEFT_OUT = "that --where leaves out"
"""The reason in the manifest."""
_STATEMENT = "SELECT 1 FROM log WHERE (\n{}\n)"
_REFUSED = {"SUBQUERY": "a query of its own", "STAR": "all columns at once", "PARAMETER": "a parameter"}
_OF_TEXT = """
    SELECT CASE WHEN count(x) = 0 THEN 'VARCHAR'
        WHEN bool_and(regexp_full_match(x, '[+-]?[0-9]{{1,18}}')) THEN 'BIGINT'
        WHEN bool_and(try_cast(x AS DOUBLE) IS NOT NULL) THEN 'DOUBLE'
        WHEN bool_and(lower(x) IN ('true', 'false')) THEN 'BOOLEAN' ELSE 'VARCHAR' END
    FROM (SELECT {role} AS x FROM batch WHERE {role} <> '')"""


class Condition(NamedTuple):
    """A condition, and what it is about."""

    where: str
    """As it was given."""
    sql: str
    """With the names of roles, `where_1` on, in place of its columns."""
    columns: dict[str, str]
    """From these roles to the columns as the condition names them."""


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
        roles: dict[str, str] = {}
        for node in _nodes(tree["statements"][0]["node"]["where_clause"]):
            if what := _REFUSED.get(node.get("class", "")):
                raise wrong(where, f"it names {what}")
            if node.get("class") == "COLUMN_REF":
                name = ".".join(node["column_names"])
                node["column_names"] = [roles.setdefault(name, f"where_{len(roles) + 1}")]
        ((sql,),) = engine.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()
    condition = sql.split("WHERE", 1)[1].strip().removesuffix(";")
    return Condition(where, condition, {role: name for name, role in roles.items()})


def wrong(where: str, why: str) -> UserError:
    """Returns the error of a condition that cannot be used."""
    reason = " ".join(why.split("LINE 1:")[0].split())[:300]
    example = "\"ms_played > 30000 AND country = 'SE'\""
    given = " ".join(where.split())[:100]
    hint = "; the name of a column that is a word of SQL stands in double quotes" if "syntax error" in reason else ""
    return UserError(f"--where {given} cannot be used ({reason}): expected a condition such as {example}{hint}")


def types_of(condition: Condition, leaves: dict[str, Leaf], first: pa.RecordBatch) -> dict[str, str]:
    """Returns the SQL type of each of the condition's roles: of columns of text or JSON by the `first` rows.

    `leaves`: columns whose type is known. Raises `UserError` for a condition that does not fit the types.
    """
    types = {}
    for role, name in condition.columns.items():
        if leaf := leaves.get(name):
            types[role] = _sql_type(leaf.kind)
        else:
            with duckdb.connect() as engine:
                engine.register("batch", first.select([role]))
                ((types[role],),) = engine.execute(_OF_TEXT.format(role=role)).fetchall()
    with duckdb.connect(config={"enable_external_access": False}) as engine:
        columns = ", ".join(f'"{role}" {kind}' for role, kind in {"row": "BIGINT", **types}.items())
        try:
            engine.execute(f"CREATE TABLE log ({columns}); SELECT 1 FROM log WHERE {condition.sql}").fetchall()
        except duckdb.Error as error:
            reason = str(error)
            for role, name in [*condition.columns.items()][::-1]:
                reason = reason.replace(role, name)
            raise wrong(condition.where, reason) from None
    return types


def met(condition: Condition, types: dict[str, str]) -> str:
    """Returns the SQL of the rows of `incoming` that meet the condition, or could not be read."""
    columns = ", ".join(f"try_cast(nullif({role}, '') AS {kind}) AS {role}" for role, kind in types.items())
    replaced = f"REPLACE ({columns})" if columns else ""
    return f"(SELECT * FROM (SELECT * {replaced} FROM incoming) WHERE row IS NULL OR ({condition.sql}))"


def _sql_type(kind: pa.DataType) -> str:
    types = pa.types
    for is_one, name in (
        (types.is_boolean, "BOOLEAN"),
        (types.is_unsigned_integer, "UBIGINT"),
        (types.is_integer, "BIGINT"),
        (types.is_floating, "DOUBLE"),
        (types.is_decimal, "DOUBLE"),
        (types.is_date, "DATE"),
        (types.is_timestamp, "TIMESTAMPTZ" if types.is_timestamp(kind) and kind.tz else "TIMESTAMP"),
    ):
        if is_one(kind):
            return name
    return "VARCHAR"


def _frame(tree: dict[str, Any]) -> Any:
    """The statement but its condition."""
    nodes = [{**one["node"], "where_clause": None} for one in tree["statements"]]
    return json.dumps(nodes)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(part)
