"""Rows of every type, in pieces, against one numpy table."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.vectors import Piece, Vectors


def table(kind: str, rows: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As it is stored, and its numbers in float32, decoded one by one."""
    random = np.random.default_rng(seed)
    if kind != "int8":
        stored = random.standard_normal((rows, dim)).astype(kind)
        return stored, stored.astype(np.float32)
    codes = random.integers(0, 256, (rows, dim), dtype=np.uint8)
    scale_bias = random.standard_normal((rows, 2)).astype("<f4")
    stored = np.concatenate([codes, scale_bias.view(np.uint8)], axis=1)
    return stored, np.float32(codes) * scale_bias[:, :1] + scale_bias[:, 1:]


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(["float32", "float16", "int8"]),
    rows=st.integers(1, 60),
    dim=st.sampled_from([1, 4, 7]),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    block=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_like_one_table(kind: str, rows: int, dim: int, cuts: list[int], block: int, seed: int):
    stored, expected_RD = table(kind, rows, dim, seed)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    pieces = [Piece(first, stored[first:last], kind) for first, last in zip(edges, edges[1:], strict=False)]
    vectors = Vectors(pieces)
    assert vectors.dim == dim
    chosen_N = np.random.default_rng(seed).integers(0, rows, 80)
    for rows_N in (chosen_N, chosen_N[:0]):
        taken_ND = vectors.take(rows_N)
        assert taken_ND.dtype == np.float32 and np.array_equal(taken_ND, expected_RD[rows_N])
    row = 0
    for first, block_BD in vectors.blocks(block):
        assert first == row and 1 <= len(block_BD) <= block and block_BD.dtype == torch.float32
        assert np.array_equal(block_BD.numpy(), expected_RD[first : first + len(block_BD)])
        row += len(block_BD)
    assert row == rows


@pytest.mark.parametrize("unit", [False, True])
def test_exact_search_over_pieces(unit: bool):
    """Equal rows in different pieces come by the lower row."""
    values_RD = np.random.default_rng(1).standard_normal((90, 5)).astype(np.float32)
    values_RD[70] = values_RD[3]
    vectors = Vectors([Piece(first, values_RD[first : first + 30]) for first in (0, 30, 60)])
    query_1D = torch.from_numpy(values_RD[3:4] / np.linalg.norm(values_RD[3]))
    rows_1K, scores_1K = ExactSearch(vectors, unit).search(query_1D, 90, torch.tensor([[5, -1]]))
    scored_R = values_RD / np.linalg.norm(values_RD, axis=1, keepdims=True) if unit else values_RD
    scores_R = scored_R @ query_1D[0].numpy()
    assert rows_1K[0, -1] == -1 and torch.isneginf(scores_1K[0, -1]) and 5 not in rows_1K
    np.testing.assert_allclose(scores_R[rows_1K[0, :-1]], scores_1K[0, :-1], atol=1e-6)
    order = rows_1K[0].tolist()
    assert order.index(70) == order.index(3) + 1 and (not unit or order[0] == 3)
    assert (np.diff(scores_1K[0, :-1].numpy()) <= 0).all()
