"""Serving works where neither TorchRec nor FBGEMM is installed, and loads nothing of training."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.components.index import index
from skipwise.retrieval.export.row_encoding import encode
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
from skipwise.retrieval.search.config import IndexConfig
from tests.support.exports import change, record, write_made

DIM, LONGEST, TRACKS = 8, 6, 40
IDS = [f"t_{row:02}" for row in range(TRACKS)]
ROWS = np.random.default_rng(0).standard_normal((TRACKS, DIM)).astype(np.float32)
HEARD, SKIPPED = ["t_03", "t_09", "t_04"], [False, True, False]
ALONE = """
import sys
sys.modules["torchrec"] = sys.modules["fbgemm_gpu"] = None  # importing them raises ImportError
from pathlib import Path
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
import skipwise.retrieval.serve.app
ranked = TrackRecommender.load(sys.argv[1]).recommend(TRACKS, SKIPPED, k=5)
loaded = [name for name in sys.modules if name.split(".")[0] in ("torchrec", "fbgemm_gpu") and sys.modules[name]]
assert not loaded, loaded
training = [name for name in sys.modules if name.startswith(("skipwise.training", "skipwise.studies"))]
assert not training, training
import json
print(json.dumps(ranked))
"""


def write_int8(folder: Path) -> None:
    """Turns the export's part into npy of int8, with the ids beside it."""
    (folder / "tracks").mkdir()
    ids = pa.table({"track_id": pa.array(IDS), "row": pa.array(range(TRACKS), pa.int32())})
    pq.write_table(ids, folder / "tracks/part-00000.parquet")
    np.save(folder / "embeddings/part-00000.npy", encode(torch.from_numpy(ROWS), "int8", np.arange(TRACKS)))
    rows = {"first_row": 0, "rows": TRACKS}
    parts, tracks = (record(folder, f"{name}/part-00000.{kind}") for name, kind in PIECES)
    change(folder, format="npy", dtype="int8", parts=[parts | rows], tracks=[tracks | rows])


PIECES = (("embeddings", "npy"), ("tracks", "parquet"))


@pytest.fixture(params=["float32 and an index", "int8"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """With an encoder of random weights."""
    folder = write_made(tmp_path / "out", IDS, ROWS, longest=LONGEST, direction="bidirectional")
    (folder / "encoder.pt2").unlink()  # skipwise itself does not need it
    if request.param == "int8":
        write_int8(folder)
    else:
        index(IndexConfig(folder, kinds=("hnsw",), recall=0.1, threads=1))
    return folder


def test_recommend_without_torchrec_and_fbgemm(export: Path):
    code = ALONE.replace("TRACKS", repr(HEARD)).replace("SKIPPED", repr(SKIPPED))
    done = subprocess.run([sys.executable, "-c", code, str(export)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = TrackRecommender.load(export).recommend(HEARD, SKIPPED, k=5)
    assert [track for track, _ in found] == [track for track, _ in expected] and len(found) == 5
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], rtol=1e-6)
