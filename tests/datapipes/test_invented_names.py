"""Invented titles and artists: the same for a track whatever else is asked for, and nothing that a log cannot hold."""

import numpy as np
import pyarrow.parquet as pq

from skipwise.datapipes.invented_names import artists, titles
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize

STARTS = np.linspace(0, 10_000, 6).astype(np.int64)


def test_names_are_a_function_of_seed_and_number():
    numbers = np.arange(10_000)
    some = np.random.default_rng(0).permutation(numbers)[:50]
    for made in (lambda seed, number: titles(seed, number), lambda seed, number: artists(seed, number, STARTS)):
        every = made(3, numbers).to_pylist()
        assert made(3, some).to_pylist() == [every[number] for number in some]
        assert made(4, numbers).to_pylist() != every
        assert all(name and name.isascii() and name.replace(" ", "").isalpha() for name in every)
        assert max(map(len, every)) < 60


def test_they_are_as_many_as_a_catalogue_has():
    numbers = np.arange(10_000)
    named = set(zip(titles(1, numbers).to_pylist(), artists(1, numbers, STARTS).to_pylist(), strict=True))
    assert len(named) > 9_900
    assert 500 < len(set(artists(1, numbers, STARTS).to_pylist())) <= 10_000 // 12 + 5


def test_a_log_is_the_same_but_for_them(tmp_path):
    for name, names in (("with", True), ("without", False)):
        file = tmp_path / f"{name}.parquet"
        synthesize(SynthesizeConfig(output=file, sessions=300, tracks=200, clusters=5, seed=2, names=names))
    named, plain = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("with", "without"))
    assert named.column_names == [*plain.column_names, "title", "artist"]
    assert named.select(plain.column_names).equals(plain)
    said = {(row["track_id_clean"], row["title"], row["artist"]) for row in named.to_pylist()}
    assert len(said) == len({track for track, *_ in said}), "one name a track"
