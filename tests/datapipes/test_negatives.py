"""Draws are uniform, distinct, unseen, and a function of their key."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from skipwise.datapipes.negatives import draw_unseen, keys, permuted, uniforms


@settings(max_examples=80, deadline=None)
@given(size=st.integers(2, 5000), seed=st.integers(0, 2**40))
def test_permuted_is_a_permutation(size: int, seed: int):
    key = keys("test", seed, 3, np.arange(2))
    images = permuted(key, size, size)
    assert np.array_equal(np.sort(images, axis=1), np.tile(np.arange(size), (2, 1)))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), tracks=st.integers(2, 400), seed=st.integers(0, 1000))
def test_drawn_tracks_are_distinct_and_unseen(data, tracks: int, seed: int):
    """And where a session leaves fewer than asked for, they are all that it leaves, and padding after them."""
    width = data.draw(st.integers(0, 10))
    count = data.draw(st.integers(1, tracks + 5))
    seen = np.array(data.draw(st.lists(st.integers(-1, tracks - 1), min_size=3 * width, max_size=3 * width)))
    seen = seen.reshape(3, width).astype(np.int64)
    rows = draw_unseen(keys("test", seed, 0, np.arange(3)), tracks, count, seen)
    assert rows.shape == (3, count) and rows.max() < tracks
    for drawn, own in zip(rows, seen, strict=True):
        most = min(count, tracks - len(set(own) - {-1}))
        assert (drawn[:most] >= 0).all() and (drawn[most:] == -1).all()
        assert len(set(drawn[:most])) == most and not set(drawn[:most]) & set(own)


def test_every_track_is_as_likely_at_every_place():
    """Chi-square over 40 tracks: below the 99.99 % point at 39 degrees of freedom (80.6)."""
    draws = permuted(keys("uniform", 0, 0, np.arange(40_000)), 3, 40)
    for place in range(3):
        counts = np.bincount(draws[:, place].astype(int), minlength=40)
        assert ((counts - 1000) ** 2 / 1000).sum() < 80.6


def test_pairs_of_tracks_are_as_likely():
    draws = permuted(keys("pairs", 0, 0, np.arange(90_000)), 2, 10).astype(int)
    counts = np.bincount(draws[:, 0] * 10 + draws[:, 1], minlength=100).reshape(10, 10)
    assert counts.trace() == 0
    rest = counts[~np.eye(10, dtype=bool)]
    assert ((rest - 1000) ** 2 / 1000).sum() < 150.0  # 99.99 % point at 89 degrees of freedom


@pytest.mark.parametrize("tracks", [3000, 4096, 5000])
def test_a_catalogue_of_more_than_2048_tracks_is_as_well_mixed(tracks: int):
    """Where the network has fewest rounds: each place sees every track, and neighbours every pair of blocks, as often.

    A block is 64 neighbouring tracks, or all with the same remainder by 64: one half of the network each. One, two and
    three rounds exceed these bounds.
    """
    draws = permuted(keys("large", 0, 0, np.arange(200_000)), 3, tracks).astype(int)
    for place in range(3):
        counts = np.bincount(draws[:, place], minlength=tracks)
        expected = len(draws) / tracks
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, tracks - 1)
    for block_of in (lambda rows: rows // 64, lambda rows: rows % 64):
        size_X = np.bincount(block_of(np.arange(tracks)))
        pairs_XX = np.outer(size_X, size_X) - np.diag(size_X)
        expected_XX = len(draws) * pairs_XX / pairs_XX.sum()
        for places in ([0, 1], [1, 2], [0, 2]):
            counts_XX = np.zeros_like(pairs_XX)
            np.add.at(counts_XX, tuple(block_of(draws[:, places]).T), 1)
            assert ((counts_XX - expected_XX) ** 2 / expected_XX).sum() < chi2.ppf(0.9999, pairs_XX.size - 1)


def test_keys_differ_by_each_of_their_parts():
    base = dict(purpose="a", seed=1, epoch=2, numbers=np.array([3]))
    variants = [
        base,
        base | {"purpose": "b"},
        base | {"seed": 2},
        base | {"epoch": 1},
        base | {"numbers": np.array([4])},
    ]
    assert len({int(keys(**variant)[0]) for variant in variants}) == len(variants)


def test_a_key_does_not_depend_on_its_neighbours():
    together, alone = keys("a", 0, 0, np.array([5, 9])), keys("a", 0, 0, np.array([9]))
    assert together[1] == alone[0]
    assert np.array_equal(uniforms(together, 6)[1], uniforms(alone, 6)[0])


def test_uniforms_fill_the_unit_interval():
    values = uniforms(keys("u", 0, 0, np.arange(2000)), 50)
    assert 0 <= values.min() and values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 53.0  # 99.99 % point at 19 degrees of freedom
