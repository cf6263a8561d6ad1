"""PostgreSQL with the extension vector: a table with a row for each track. One push is one transaction.

Rows go in by COPY in binary: a vector is its width and an unused number, 16 bits each, and float32 in network order.
"""

import struct
from collections.abc import Iterator
from typing import Any, Self

from skipwise.common.errors import UserError, brief
from skipwise.common.versions import import_extra
from skipwise.retrieval.push.config import PushConfig
from skipwise.retrieval.push.destination import PushedState, read_state
from skipwise.retrieval.push.exported_rows import DIGEST, ExportedRows

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)
_PAGE = 10_000
_CONNECT_S = 10


class PgvectorDestination:
    """A `Destination`."""

    def __init__(self, config: PushConfig, dim: int, names: list[str]):
        """`names`: columns of text beside `track_id` and `embedding`."""
        self._psycopg = import_extra("pgvector", "--to pgvector")
        self._sql = import_extra("pgvector", "--to pgvector", "psycopg.sql")
        self.errors: tuple[type[Exception], ...] = (self._psycopg.Error,)
        self._config, self._dim, self._names = config, dim, names
        self._connection: Any = None

    def __enter__(self) -> Self:
        self._connection = self._psycopg.connect(self._config.url, connect_timeout=_CONNECT_S)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self._connection.commit()
        self._connection.close()  # without a commit all of it is undone

    def _prepare(self) -> None:
        name = self._config.name
        if not self._row("SELECT pg_try_advisory_xact_lock(hashtext({text}))", text=f"skipwise push {name}")[0]:
            raise UserError(f"another push writes the table {name!r} at this moment: wait for its end")
        if not self._row("SELECT count(*) FROM pg_extension WHERE extname = 'vector'")[0]:
            try:
                self._run("CREATE EXTENSION vector")
            except self._psycopg.Error as error:
                raise UserError(
                    f"the database has no extension vector ({brief(error)}): install pgvector on its server, and have "
                    "an administrator run CREATE EXTENSION vector"
                ) from error
        table = self._row("SELECT to_regclass({text})::oid::int8", text=f'"{name}"')[0]
        if table is None:
            self._run(
                "CREATE TABLE {table} "
                "(track_id text PRIMARY KEY, embedding vector({dim}) NOT NULL, {digest} text NOT NULL)"
            )
            self.mark(PushedState())
        elif read_state(self._row("SELECT obj_description({number}::oid, 'pg_class')", number=table)[0]) is None:
            raise UserError(f"the database has a table {name!r} that push did not make: give another --name")
        columns = dict(
            self._run(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = {regclass}::regclass AND attnum > 0 AND NOT attisdropped",
                regclass=f'"{name}"',
            ).fetchall()
        )
        if columns.get("embedding") != f"vector({self._dim})":
            raise UserError(
                f"the table {name!r} has an embedding of type {columns.get('embedding')}, and the export has rows of "
                f"{self._dim} numbers: give another --name"
            )
        for column in self._names:
            if column not in columns:
                self._run("ALTER TABLE {table} ADD COLUMN {column} text", column=self._sql.Identifier(column))
        self._run("CREATE TEMP TABLE skipwise_pushed (LIKE {table}) ON COMMIT DROP")
        if self._config.alias:
            self._check_alias(self._config.alias)

    def _check_alias(self, alias: str) -> None:
        """Raises `UserError` where the view could not be turned once all rows are there, or is somebody else's."""
        there = self._row("SELECT to_regclass({text})::oid::int8", text=f'"{alias}"')[0]
        if there is not None:
            read = self._run(
                "SELECT DISTINCT obj_description(refobjid, 'pg_class') FROM pg_rewrite "
                "JOIN pg_depend ON objid = pg_rewrite.oid AND classid = 'pg_rewrite'::regclass "
                "WHERE ev_class = {number}::oid AND refclassid = 'pg_class'::regclass AND refobjid <> ev_class",
                number=there,
            ).fetchall()
            if len(read) != 1 or read_state(read[0][0]) is None:
                raise UserError(
                    f"the database has {alias!r}, which is no view of a table that push made: give another --alias"
                )
        try:
            with self._connection.transaction(force_rollback=True):
                self.turn(alias)
        except self._psycopg.Error as error:
            raise UserError(
                f"the view {alias!r} cannot be turned to {self._config.name!r} ({brief(error)}): mend that, or give "
                "another --alias"
            ) from error

    def state(self) -> PushedState:
        """From the table's comment."""
        comment = self._row(
            "SELECT obj_description({regclass}::regclass, 'pg_class')", regclass=f'"{self._config.name}"'
        )
        return read_state(comment[0]) or PushedState()

    def mark(self, state: PushedState) -> None:
        """Into the table's comment."""
        self._run("COMMENT ON TABLE {table} IS {text}", text=state.model_dump_json())

    def digests(self) -> Iterator[tuple[str, str]]:
        """By a cursor of the server."""
        with self._connection.cursor(name="skipwise_digests") as cursor:
            cursor.itersize = _PAGE
            yield from cursor.execute(self._query("SELECT track_id, {digest} FROM {table}"))

    def upsert(self, rows: ExportedRows) -> None:
        """By way of a temporary table, since COPY replaces no rows."""
        names = [DIGEST, *self._names]
        columns = self._sql.SQL(", ").join(map(self._sql.Identifier, ["track_id", "embedding", *names]))
        changes = self._sql.SQL(", ").join(
            self._sql.SQL("{} = excluded.{}").format(one, one)
            for one in map(self._sql.Identifier, ["embedding", *names])
        )
        self._run("TRUNCATE skipwise_pushed")
        with (
            self._connection.cursor() as cursor,
            cursor.copy(
                self._query("COPY skipwise_pushed ({columns}) FROM STDIN (FORMAT BINARY)", columns=columns)
            ) as copy,
        ):
            copy.write(_HEADER + b"".join(self._tuples(rows)) + _END)
        self._run(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM skipwise_pushed "
            "ON CONFLICT (track_id) DO UPDATE SET {changes}",
            columns=columns,
            changes=changes,
        )

    def _tuples(self, rows: ExportedRows) -> Iterator[bytes]:
        head = struct.pack("!h", 3 + len(self._names))
        width = struct.pack("!ihh", 4 + 4 * self._dim, self._dim, 0)
        vectors_BD = rows.vectors_BD.astype(">f4")
        for track, vector_D, names, digest in zip(rows.tracks, vectors_BD, rows.names, rows.digests, strict=True):
            more = (_text(names[name]) if name in names else _NULL for name in self._names)
            yield b"".join([head, _text(track), width, vector_D.tobytes(), _text(digest), *more])

    def delete(self, tracks: list[str]) -> None:
        """By their ids."""
        with self._connection.cursor() as cursor:
            cursor.execute(self._query("DELETE FROM {table} WHERE track_id = ANY(%s)"), [tracks])

    def count(self) -> int:
        """Exactly."""
        return int(self._row("SELECT count(*) FROM {table}")[0])

    def turn(self, alias: str) -> None:
        """In the transaction of the push."""
        view = self._sql.Identifier(alias)
        self._run("DROP VIEW IF EXISTS {view}", view=view)
        self._run("CREATE VIEW {view} AS SELECT * FROM {table}", view=view)

    def _query(self, query: str, /, **values: Any) -> Any:
        """Names are identifiers, other values literals."""
        sql = self._sql
        literal = {
            name: value if isinstance(value, sql.Composable) else sql.Literal(value) for name, value in values.items()
        }
        fixed = {
            "table": sql.Identifier(self._config.name),
            "digest": sql.Identifier(DIGEST),
            "dim": sql.Literal(self._dim),
        }
        return sql.SQL(query).format(**fixed | literal)

    def _run(self, query: str, /, **values: Any) -> Any:
        return self._connection.execute(self._query(query, **values))

    def _row(self, query: str, /, **values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._run(query, **values).fetchone()
        return row


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("!i", len(content)) + content
