"""The pauses that docs/data.md adds to a log, prepared."""

import re
from pathlib import Path

import pyarrow.parquet as pq

from skipwise.datapipes.prepare import PrepareConfig, prepare

LOG = """user,track,time,skipped
a,x,2026-01-01 10:00:00,0
a,y,2026-01-01 10:00:01,1
a,z,2026-01-01 10:00:04,0
a,x,2026-01-01 10:03:04,0
a,y,2026-01-01 10:03:04,0
b,z,2026-01-01 09:00:00,0
b,x,2026-01-02 09:00:00,0
b,z,2026-01-02 09:02:40,0
b,y,2026-01-02 09:05:20,1
"""


def test_pauses_are_logarithms(tmp_path: Path, monkeypatch):
    """Of 1 more second: 0 s is 0, 1 s is 1, 3 s is 2, 180 s and 160 s are 7 (7.50, 7.33), a day is 16 (16.4)."""
    monkeypatch.chdir(tmp_path)
    Path("plays.csv").write_text(LOG)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"```python\n(import duckdb.*?)```", page, re.DOTALL)
    exec(code, {})
    config = PrepareConfig(
        input=(Path("plays.parquet"),),
        output=Path("data"),
        session="user",
        track="track",
        order="time",
        sort=True,
        skip="skipped",
        context=("pause",),
        min_length=3,
    )
    # Training sees all but each session's last two plays.
    assert prepare(config).contexts["pause"] == ["1", "16", "2"]
    sessions = pq.read_table("data/sessions/part-00000.parquet").to_pylist()
    pauses = {session["session_id"]: session["pause"] for session in sessions}
    assert pauses == {"a": [None, "1", "2", "7", "0"], "b": [None, "16", "7", "7"]}
