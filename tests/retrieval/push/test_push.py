"""Exports in Qdrant (its client's own engine) and in PostgreSQL, read back by their own clients.

PostgreSQL is asked where SKIPWISE_TEST_POSTGRES holds the URL of a database that the tests may write to.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import skipwise
from skipwise.common.errors import UserError
from skipwise.components.push import push
from skipwise.retrieval.push.config import PushConfig
from skipwise.retrieval.push.pgvector_destination import PgvectorDestination
from skipwise.retrieval.push.qdrant_destination import QdrantDestination
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.support.exports import change, record, write_made

TRACKS, DIM, NAME = 90, 8, "skipwise_test"
IDS = [f"t_{row:02}" for row in range(TRACKS - 2)] + ['a "b" \\ü\t', "null"]
NAMES = {"title": [f"Song {row}" if row % 3 else None for row in range(TRACKS)], "the artist": ["X", "Y, Z"] * 45}
POSTGRES = os.environ.get("SKIPWISE_TEST_POSTGRES", "")
KINDS = [
    "qdrant",
    pytest.param("pgvector", marks=pytest.mark.skipif(not POSTGRES, reason="SKIPWISE_TEST_POSTGRES is not set")),
]
CLASSES = {"qdrant": QdrantDestination, "pgvector": PgvectorDestination}


class Place:
    """A destination, and what its own client says."""

    def __init__(self, kind: str, url: str):
        self.kind, self.url = kind, url

    def push(self, export: Path, **options: Any) -> None:
        push(PushConfig(export, self.kind, self.url, NAME, batch=20, **options))

    def ask(self, query: np.ndarray, k: int, name: str = NAME) -> list[tuple[str, float]]:
        """The best by inner product."""
        if self.kind == "qdrant":
            with self.client() as client:
                points = client.query_points(name, query=query.tolist(), limit=k, with_payload=True).points
                return [(point.payload["track"], point.score) for point in points]
        with self.client() as connection:
            line = f'SELECT track_id, -(embedding <#> %s::vector) AS score FROM "{name}" ORDER BY score DESC LIMIT {k}'
            return connection.execute(line, [str(query.tolist())]).fetchall()

    def rows(self) -> dict[str, tuple[list[float], dict[str, str]]]:
        """Embedding and names by track id, which stands once."""
        if self.kind == "qdrant":
            with self.client() as client:
                points, _ = client.scroll(NAME, limit=1000, with_payload=True, with_vectors=True)
            found = [(one.payload.pop("track"), one.vector, one.payload) for one in points]
        else:
            with self.client() as connection:
                lines = connection.execute(
                    f'SELECT row_to_json(of), embedding::text AS vector FROM "{NAME}" AS of'
                ).fetchall()
            found = [(of.pop("track_id"), json.loads(vector), of) for of, vector in lines]
        rows = {}
        for track, vector, names in found:
            assert track not in rows
            rows[track] = vector, {name: names[name] for name in NAMES if names.get(name) is not None}
        return rows

    def client(self) -> Any:
        if self.kind == "pgvector":
            import psycopg

            return psycopg.connect(self.url)
        from contextlib import closing

        from qdrant_client import QdrantClient

        return closing(QdrantClient(path=self.url))


@pytest.fixture(params=KINDS)
def place(request, tmp_path: Path, monkeypatch) -> Place:
    """Qdrant's engine in memory, which all clients share: in a directory each row costs milliseconds."""
    if request.param == "qdrant":
        qdrant_client = pytest.importorskip("qdrant_client")
        engine = qdrant_client.QdrantClient(":memory:")
        monkeypatch.setattr(engine, "close", lambda: None)
        monkeypatch.setattr(qdrant_client, "QdrantClient", lambda **_: engine)
        return Place("qdrant", str(tmp_path / "qdrant"))
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(POSTGRES) as connection:
        connection.execute(f"DROP VIEW IF EXISTS served CASCADE; DROP TABLE IF EXISTS {NAME}, mine")
    return Place("pgvector", POSTGRES)


def table(seed: int = 0, rows: int = TRACKS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)


def expected(rows_RD: np.ndarray, ids=IDS, names=NAMES) -> dict[str, tuple[list[float], dict[str, str]]]:
    named = [{name: of[row] for name, of in names.items() if of[row] is not None} for row in range(len(ids))]
    return {track: (vector, of) for track, vector, of in zip(ids, rows_RD.tolist(), named, strict=True)}


def same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for track, (vector, names) in wanted.items():
        assert np.float32(found[track][0]).tolist() == vector and found[track][1] == names


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    return write_made(tmp_path_factory.mktemp("pushed") / "out", IDS, table(), parts=3, names=NAMES)


def write_delta(
    folder: Path, base: Path, ids: list[str], rows_RD: np.ndarray, names, gone: list[str], **counts
) -> Path:
    """What `export --only-new-since` writes, from a run whose export is `base`."""
    write_made(folder, ids, rows_RD, names=names)
    pq.write_table(pa.table({"track_id": pa.array(gone, pa.string())}), folder / "gone.parquet")
    since = {"run": "runs/before", "rows_hash": json.loads((base / "manifest.json").read_text())["vocabulary_hash"]}
    since |= counts | {"gone": len(gone), "gone_tracks": record(folder, "gone.parquet") | {"rows": len(gone)}}
    change(folder, since=since, vocabulary_hash=f"{7:064}")
    return folder


def test_rows_and_neighbours(place, export, capfd):
    """Every number, and what the exact search of the export finds."""
    place.push(export)
    assert "90 rows, 90 written and 0 taken out" in capfd.readouterr().err
    same(place.rows(), expected(table()))
    recommender = skipwise.load(export)
    session = ["t_04", "t_19", "t_33"]
    found = place.ask(recommender.encode(session), 12)
    ranked = recommender.recommend(session, k=12, exclude="none")
    assert [track for track, _ in found] == [track for track, _ in ranked]
    assert np.allclose([score for _, score in found], [score for _, score in ranked], atol=1e-5)
    place.push(export)
    assert "has this export already" in capfd.readouterr().err


def test_only_what_changed_is_written(place, export, tmp_path, capfd):
    place.push(export)
    rows_RD, ids = np.concatenate([table()[5:], table(1, 3)]), IDS[5:] + ["new_1", "new_2", "new_3"]
    names = {name: of[5:] + [None, "N", None] for name, of in NAMES.items()} | {"album": [None] * 87 + ["A"]}
    rows_RD[:4] += 1  # of four tracks, one of which has a new title too
    names["title"] = ["Another", *names["title"][1:]]
    names["title"][10] = "Renamed"
    capfd.readouterr()
    place.push(write_made(tmp_path / "next", ids, rows_RD, parts=2, names=names))
    assert "88 rows, 8 written and 5 taken out" in capfd.readouterr().err
    same(place.rows(), expected(rows_RD, ids, {name: names[name] for name in NAMES}))


def test_a_delta(place, export, tmp_path, capfd):
    """Applied, applied again, and refused on any other base."""
    place.push(export)
    ids, gone, rows_RD = ["t_03", "new_1", "t_70"], ["t_00", "null"], table(2, 3)
    counts = {"table_rows": TRACKS - 1, "changed": 2, "new": 1, "unchanged": TRACKS - 4}
    delta = write_delta(tmp_path / "delta", export, ids, rows_RD, {name: ["n"] * 3 for name in NAMES}, gone, **counts)
    capfd.readouterr()
    place.push(delta)
    assert "89 rows, 3 written and 2 taken out" in capfd.readouterr().err
    wanted = expected(table()) | expected(rows_RD, ids, {name: ["n"] * 3 for name in NAMES})
    same(place.rows(), {track: of for track, of in wanted.items() if track not in gone})
    place.push(delta)
    assert "has this export already" in capfd.readouterr().err
    other = write_delta(tmp_path / "other", export, ids, rows_RD, {name: ["m"] * 3 for name in NAMES}, gone, **counts)
    with pytest.raises(
        UserError, match="holds only what changed since runs/before, .*push an export of the whole table"
    ):
        place.push(other)


def test_an_interrupted_push_goes_on(place, export, tmp_path, monkeypatch, capfd):
    """Killed in the third batch, then repeated; and in the third batch of another version."""
    for number, rows_RD in enumerate([table(), table(3)]):
        version = write_made(tmp_path / f"v{number}", IDS, rows_RD, names=NAMES)
        kind, sent = CLASSES[place.kind], []
        with monkeypatch.context() as patch:
            whole = kind.upsert

            def stop(self, rows, whole=whole, sent=sent):
                if len(sent) == 2:
                    raise KeyboardInterrupt
                sent.append(len(rows.tracks))
                whole(self, rows)

            patch.setattr(kind, "upsert", stop)
            with pytest.raises(KeyboardInterrupt):
                place.push(version)
        capfd.readouterr()
        place.push(version)
        left = 90 if place.kind == "pgvector" else 50  # a transaction is undone as a whole
        assert f"90 rows, {left} written and 0 taken out" in capfd.readouterr().err
        same(place.rows(), expected(rows_RD))


def test_a_directory_without_a_server(export, tmp_path, capfd):
    """Closed and opened again."""
    pytest.importorskip("qdrant_client")
    place = Place("qdrant", str(tmp_path / "qdrant"))
    for said in ("90 rows, 90 written", "has this export already"):
        place.push(export)
        assert said in capfd.readouterr().err
    same(place.rows(), expected(table()))


def test_a_delta_is_refused_after_an_interrupted_push(place, export, tmp_path, monkeypatch):
    if place.kind == "pgvector":
        pytest.skip("nothing of an interrupted push is left there")
    place.push(export)
    with monkeypatch.context() as patch:
        patch.setattr(QdrantDestination, "upsert", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            place.push(write_made(tmp_path / "next", IDS, table(4), names=NAMES))
    counts = {"table_rows": TRACKS, "changed": 1, "new": 0, "unchanged": TRACKS - 1}
    delta = write_delta(
        tmp_path / "delta", export, ["t_03"], table(2, 1), {name: ["n"] for name in NAMES}, [], **counts
    )
    with pytest.raises(UserError, match="push an export of the whole table"):
        place.push(delta)
    place.push(export)
    place.push(delta)


def test_an_alias_is_turned(place, export):
    place.push(export, alias="served")
    place.push(export, alias="served")
    assert place.ask(table()[7], 3, "served") == place.ask(table()[7], 3)


def test_an_alias_that_is_something_else_is_refused_first(place, export, tmp_path, monkeypatch):
    """A collection, table or view of somebody else, or a view that another one reads: it stays, nothing is sent."""
    monkeypatch.setattr(CLASSES[place.kind], "upsert", lambda *_: pytest.fail("rows were sent"))
    if place.kind == "qdrant":
        from qdrant_client import models

        with place.client() as client:
            client.create_collection("served", models.VectorParams(size=DIM, distance=models.Distance.DOT))
            with pytest.raises(UserError, match="has a collection 'served', .*: give another --alias$"):
                place.push(export, alias="served")
            assert [one.name for one in client.get_collections().collections] == ["served"]
        return
    no_view = "has 'served', which is no view of a table that push made: give another --alias$"
    with place.client() as connection:
        connection.execute("CREATE TABLE mine (a int); COMMENT ON TABLE mine IS 'mine'")
    for make, drop in (("TABLE served (a int)", "TABLE served"), ("VIEW served AS SELECT * FROM mine", "VIEW served")):
        with place.client() as connection:
            connection.execute(f"CREATE {make}")
        with pytest.raises(UserError, match=no_view):
            place.push(export, alias="served")
        with place.client() as connection:
            assert connection.execute(f"SELECT to_regclass('{NAME}')").fetchone() == (None,)
            connection.execute(f"DROP {drop}")
    monkeypatch.undo()
    place.push(export, alias="served")
    with place.client() as connection:
        connection.execute("DROP TABLE mine; CREATE VIEW reads_it AS SELECT track_id FROM served")
    monkeypatch.setattr(PgvectorDestination, "upsert", lambda *_: pytest.fail("rows were sent"))
    with pytest.raises(UserError, match=r"'served' cannot be turned to .*reads_it depends on .*\): mend that, or give"):
        place.push(write_made(tmp_path / "next", IDS, table(5), names=NAMES), alias="served")
    same(place.rows(), expected(table()))
    assert place.ask(table()[7], 3, "served") == place.ask(table()[7], 3)


def test_other_rows_under_the_name(place, export, tmp_path):
    place.push(export)
    wider = write_made(tmp_path / "wide", IDS, np.eye(TRACKS, DIM + 4), names=NAMES)
    with pytest.raises(UserError, match=f"export has (rows of )?{DIM + 4} .*give another --name"):
        place.push(wider)
    if place.kind == "qdrant":
        from qdrant_client import models

        with place.client() as client:
            client.delete_collection(NAME)
            client.create_collection(NAME, models.VectorParams(size=DIM, distance=models.Distance.DOT))
    else:
        with place.client() as connection:
            connection.execute(f"COMMENT ON TABLE {NAME} IS 'somebody else''s'")
    with pytest.raises(UserError, match=f"{NAME}' that push did not make: give another --name"):
        place.push(export)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "qdrant", "--url", "http://127.0.0.1:1"], "qdrant at http://127.0.0.1:1 failed"),
        (
            ["--to", "pgvector", "--url", "postgresql://me@127.0.0.1:1/db"],
            "pgvector at postgresql://me@127.0.0.1:1/db failed",
        ),
        (["--to", "pgvector", "--url", "postgresql://me:secret@127.0.0.1/db"], "--url holds a password"),
        (["--to", "pgvector", "--url", "http://127.0.0.1"], "expected postgresql://... or postgres://..."),
        (["--to", "qdrant", "--url", "redis://here"], "expected http://... or https://... or a directory"),
        (["--to", "qdrant", "--url", "q", "--name", 'a"b'], "must be 1 to 63 letters"),
        (["--to", "qdrant", "--url", "q", "--alias", "skipwise"], "is --name too"),
    ],
)
def test_refused_command_lines(export, words, said, tmp_path, monkeypatch, run):  # noqa: F811
    pytest.importorskip("qdrant_client")
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    refused(run("push", "--export", str(export), *words), said)
    assert not [*tmp_path.iterdir()]


def test_the_manual(place, tmp_path, monkeypatch, capsys):
    """The lines of docs/push.md that ask, on an export with their tracks; of those for other systems, whether they are
    Python."""
    text = (Path(__file__).parents[3] / "docs" / "push.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        compile(block, "push.md", "exec")
    ids = [f"t_{1209 + 72 * row}" for row in range(TRACKS)]
    export = write_made(tmp_path / "exports" / "mine", ids, table(), names=NAMES)
    monkeypatch.chdir(tmp_path)
    if place.kind == "pgvector":
        with place.client() as connection:
            connection.execute("DROP TABLE IF EXISTS tracks")
    push(PushConfig(export, place.kind, place.url, "tracks"))
    ask, qdrant, pgvector = blocks[:3]
    found: dict[str, Any] = {}
    exec(ask, found)
    if place.kind == "qdrant":
        exec(qdrant.replace('"http://localhost:6333"', f"path={place.url!r}"), found)
        asked = [point.payload["track"] for point in found["points"]]
    else:
        exec(pgvector.replace("postgresql://me@localhost/music", place.url), found)
        asked = [track for track, _ in found["rows"]]
    ranked = skipwise.load(export).recommend(["t_1209", "t_1281"], [False, True], k=10)
    assert asked == [track for track, _ in ranked]
