"""A stretch of the ids, whatever the row groups and blocks in which the file is read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.datapipes import vocabulary
from skipwise.datapipes.vocabulary import Vocabulary

IDS = [f"t_{row}" for row in range(11)]


@pytest.mark.parametrize("group_size", [2, 3, 6, 11])
@pytest.mark.parametrize("block", [1, 2, 65536])
def test_any_stretch_is_that_of_the_list(group_size: int, block: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(vocabulary, "BLOCK_ROWS", block)
    table = pa.table({"track_id": IDS, "row": pa.array(range(11), pa.int32()), "count": [1] * 11})
    pq.write_table(table, tmp_path / "vocabulary.parquet", row_group_size=group_size)
    opened = Vocabulary(tmp_path / "vocabulary.parquet", 11, "", "")
    for first in range(12):
        for last in range(first, 12):
            found = {}
            for row, ids in opened.ids(first, last):
                assert len(ids) <= block
                found |= dict(enumerate(ids.to_pylist(), row))
            assert found == dict(enumerate(IDS[first:last], first))
