"""The whole manual of the export as one program, on exports made as it says."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipwise.components.export import export
from skipwise.datapipes.signals import UNKNOWN
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.search.exact import ExactSearch
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import save_untrained, small
from tests.support.one_rank import alone  # noqa: F401  a fixture

ROOT = Path(__file__).parents[3]
CHECKS = """
newer = dict(rows_of("exports/demo"))
assert whole == newer and len(newer) == len(track_ids)
assert np.abs(onnx_queries - queries.numpy()).max() < 1e-5
assert np.abs(first_rows - embeddings[:100]).max() <= scale.max() / 2 + 1e-6
assert np.abs(rows_BD.numpy() - first_rows[17:20]).max() <= scale.max() / 2
best = (torch.from_numpy(sessions_BD) @ torch.from_numpy(embeddings).half().float().T).topk(10)
assert len(found) == 1 and np.allclose(found[0][0], best.values, atol=1e-5)
assert (found[0][1] == best.indices.numpy()).mean() > 0.99
"""


@pytest.mark.ranks
@pytest.mark.usefixtures("alone")
def test_the_manual(folder: Path, tmp_path: Path):
    exports, run = tmp_path / "exports", str(folder / "bidirectional")
    exports.mkdir()
    for name, source in (("demo", "bidirectional-1"), ("demo-older", "unidirectional-2")):
        shutil.copytree(folder / source, exports / name)
    write_export(ExportConfig(run, exports / "demo-int8", False, "npy", "int8"))
    write_export(ExportConfig(run, exports / "demo-faiss", False, "faiss", "float16", onnx=True))
    write_export(ExportConfig(run, exports / "demo-delta", only_new_since=str(folder / "unidirectional")))
    config = small("best", tmp_path)
    config = replace(
        config,
        data=replace(config.data, path=str(folder / "data"), inputs=("skips",)),
        loss=replace(config.loss, keep=0.5, keep_dim=4),
    )
    # In a process of its own: here the first program is taken for all.
    run_on_ranks(tmp_path, 1, save_untrained, config)
    run_on_ranks(tmp_path, 1, export, ExportConfig(config.run_dir, exports / "demo-skips"))
    text = (ROOT / "docs" / "export.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)) + CHECKS
    code += "\nnp.save('by-hand.npy', torch.stack([ranked_by, p_kept]).numpy())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    opened = OpenExport.open(exports / "demo-skips")
    history, options = SessionHistory.of([[(17, 0), (18, 2), (19, UNKNOWN)]]), RecommendOptions(k=9, dial="auto")
    found = Recommender(opened, ExactSearch(opened.vectors)).recommend(history, options)
    ranked = np.stack([found.scores_BK[0], found.kept_BK[0]])
    np.testing.assert_allclose(np.load(tmp_path / "by-hand.npy")[:, found.rows_BK[0]], ranked, atol=1e-5)
