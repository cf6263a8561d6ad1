"""Exports written by hand in which the norms of tracks matter."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tests.support.exports import write_made

DIM, MOST = 16, 20


class SumEncoder(nn.Module):
    """A session's query is the sum of its tracks: exact, where those are whole numbers."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return items_BTD.sum(dim=1) * (lengths_B > 0)[:, None]


def write_by_hand(folder: Path, table_RD: np.ndarray, queries_SD: np.ndarray, **data: Any) -> Path:
    """An export of `table_RD` in two parts; `data`: settings of the run's data."""
    ids = [f"t_{row:05}" for row in range(len(table_RD))]
    return write_made(folder, ids, table_RD, parts=2, longest=MOST, queries_SD=queries_SD, **data)


def change_index(folder: Path, **changes) -> None:
    """Changes fields of the manifest's entry; None removes one."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index"] = {name: of for name, of in (manifest["index"] | changes).items() if of is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def put(export: Path, content: bytes) -> None:
    """Another file of the index under a right hash."""
    file = json.loads((export / "manifest.json").read_text())["index"]["file"]
    (export / file).write_bytes(content)
    change_index(export, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def norms_matter(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table whose norms differ by a factor of up to ten, so that the best by cosine are others, and queries."""
    random = np.random.default_rng(seed)
    table_RD = random.standard_normal((rows, DIM), dtype=np.float32)
    table_RD *= np.exp(random.uniform(-1.15, 1.15, (rows, 1))).astype(np.float32)
    return table_RD, random.standard_normal((queries, DIM), dtype=np.float32)
