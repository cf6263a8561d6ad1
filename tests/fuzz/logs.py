"""Logs that no tool should have written, as hypothesis strategies."""

import gzip
import io
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.fuzz.mutate import applied, mutations

COLUMNS = ["session_id", "session_position", "track_id_clean", "strength", "hour_of_day", "premium", "context_type"]
WORDS = (
    "NaN null -1 1.5 1e999 2020-01-01 2020-02-30T25:00 infinity \" ' a\nb a\rb é\u2028 \ufeff , \t true 4 -0 0x1 1_000"
)
JUNK = [*WORDS.split(" "), "", " ", "epoch", "t1\0", "\0", "9" * 30, "x" * 2000]
SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": " ", ".csv.gz": ",", ".tsv.gz": "\t"}

damage = st.one_of(st.just([]), st.just([]), st.lists(mutations, min_size=1, max_size=2))


class Log(NamedTuple):
    """One file to prepare."""

    name: str
    data: bytes


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """A header and rows that are right, but for up to three junk cells, doubled or missing rows, odd names."""
    names = COLUMNS[: draw(st.sampled_from([3, 4, 7]))]
    rows = [[*names]]
    for session in range(draw(st.integers(0, 5))):
        for place in range(draw(st.integers(1, 6))):
            strength = draw(st.integers(0, 3))
            rows.append(
                [f"s{session}", str(place), f"t{draw(st.integers(0, 6))}", str(strength), "7", "1", "c"][: len(names)]
            )
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        row = draw(st.sampled_from(rows))
        match draw(st.sampled_from(["cell", "cell", "short", "long", "twice", "swap"])):
            case "cell" if row:
                row[draw(st.integers(0, len(row) - 1))] = draw(st.one_of(st.sampled_from(JUNK), st.text(max_size=5)))
            case "short" if len(row) > 1:
                row.pop()
            case "long":
                row.append(draw(st.sampled_from(JUNK + COLUMNS)))
            case "twice":
                rows.append([*row])
            case "swap" if len(rows) > 2:
                rows.append(rows.pop(draw(st.integers(1, len(rows) - 1))))
    return rows


@st.composite
def text_logs(draw: st.DrawFn) -> Log:
    """A text file: a table or pairs of numbers, in some encoding, its bytes perhaps damaged before or after gzip."""
    suffix = draw(st.sampled_from([*SUFFIXES]))
    rows = draw(tables())
    if suffix == ".txt" and draw(st.booleans()):
        rows = [[row[0][1:] or "1", row[2][1:] or "1"] for row in rows[1:] if len(row) > 2]
    end = draw(st.sampled_from(["\n"] * 8 + ["\r\n"] * 3 + ["\r"]))
    encoding = draw(st.sampled_from(["utf-8"] * 20 + ["utf-8-sig", "utf-16", "latin-1"]))
    text = end.join(SUFFIXES[suffix].join(row) for row in rows) + draw(st.sampled_from([end, ""]))
    data = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    data = applied(data, draw(damage))
    if suffix.endswith(".gz"):
        data = applied(gzip.compress(data, mtime=0), draw(damage))
    return Log("log" + suffix, data)


PLAIN = "int8 int64 float16 float64 bool_ binary large_string null date32 string_view".split()
KINDS = [
    *(getattr(pa, name)() for name in PLAIN),
    *(pa.timestamp("ns", "UTC"), pa.timestamp("ns"), pa.duration("s"), pa.time64("us"), pa.decimal128(20, 3)),
    *(pa.list_(pa.int8()), pa.struct([("x", pa.int8())]), pa.binary(3), pa.dictionary(pa.int32(), pa.string())),
]


@st.composite
def parquet_logs(draw: st.DrawFn) -> Log:
    """A Parquet file of text columns, one of them perhaps of another type, its bytes perhaps damaged."""
    rows = [row for row in draw(tables()) if len(row) >= 3] or [COLUMNS[:3]]
    width = min(map(len, rows))
    columns = [pa.array([row[column] for row in rows[1:]], pa.string()) for column in range(width)]
    for _ in range(draw(st.integers(0, 2))):
        at, kind = draw(st.integers(0, width - 1)), draw(st.sampled_from(KINDS))
        values = [draw(st.one_of(st.none(), st.integers(-1, 5))) for _ in rows[1:]]
        try:
            columns[at] = pa.array(values, pa.int64()).cast(kind)
        except pa.ArrowException:
            binary = pa.array([None if value is None else b"\xff%d" % value for value in values], pa.binary())
            columns[at] = binary if kind == pa.binary() else pa.nulls(len(values), kind)
    with io.BytesIO() as file:
        pq.write_table(
            pa.Table.from_arrays(columns, names=rows[0][:width]), file, row_group_size=draw(st.integers(1, 9))
        )
        return Log("log.parquet", applied(file.getvalue(), draw(damage)))


junk_logs = st.builds(
    Log, st.sampled_from([f"log{suffix}" for suffix in (*SUFFIXES, ".parquet")]), st.binary(max_size=200)
)
logs = st.one_of(text_logs(), text_logs(), text_logs(), parquet_logs(), junk_logs)
