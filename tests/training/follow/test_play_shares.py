"""Shares of plays in a run that follows: by hand, and against listeners who drift."""

from pathlib import Path

import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.training.build import _log_q
from skipwise.training.follow import play_shares
from skipwise.training.follow.config import StreamConfig


def test_counts_decay_by_half_lives():
    """With a half-life of one part, a part of 60 plays follows others whose sum is 60 + 30 + 15 + ... = 120."""
    first = play_shares.as_before(np.array([3, 1, 0]), 60, 1)
    assert first.tolist() == [90, 30, 0]
    second = play_shares.decayed(first, np.array([0, 20, 20, 20]), 1)
    assert second.tolist() == [45, 35, 20, 20]
    assert play_shares.decayed(second, np.zeros(4, np.int64), 2) == pytest.approx(second / np.sqrt(2))
    shares = second / second.sum()
    assert _log_q(second) == pytest.approx(np.log(shares), rel=1e-6)
    # What was never played counts as the least played track, and one play as one.
    assert _log_q(np.array([0.0, 0.25, 0.75])) == pytest.approx(np.log([0.2, 0.2, 0.6]), rel=1e-6)
    assert _log_q(np.array([0, 4, 5])) == pytest.approx(np.log([0.1, 0.4, 0.5]), rel=1e-6)


def test_after_a_drift_shares_are_right_where_those_of_the_first_data_are_not():
    """The order of popularity is turned round. The first data have 50 parts' plays; 100 parts are ten half-lives."""
    random, tracks, plays = np.random.default_rng(0), 50, 20_000
    before = 1 / np.arange(1, tracks + 1)
    before /= before.sum()
    after, old_R = before[::-1], np.round(before * 50 * plays)
    streamed = play_shares.as_before(old_R, plays, 10)
    for _ in range(100):
        part_R = random.multinomial(plays, after)
        streamed = play_shares.decayed(streamed, part_R, 10)
    errors = {
        name: np.abs(_log_q(counts_R) - np.log(after)).max()
        for name, counts_R in {"first": old_R, "first and part": old_R + part_R, "streamed": streamed}.items()
    }
    # The rarest track has some 1,300 of the 290,000 plays that count: a deviation of 3 %, and 0.1 % from before.
    assert errors["streamed"] < 0.12
    assert errors["first"] > 3 and errors["first and part"] > 2.5


def test_a_record_that_was_changed_is_refused(tmp_path: Path):
    counts_R = np.array([0.5, 2.0])
    play_shares.write(counts_R, tmp_path / "00001.npy")
    assert np.array_equal(play_shares.read(tmp_path / "00001.npy"), counts_R)
    (tmp_path / "00001.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"00001.npy has no counts of plays \(.*\): restore the file"):
        play_shares.read(tmp_path / "00001.npy")
    with pytest.raises(ValueError, match=r"--stream.half-life 0 must be a positive number of parts"):
        StreamConfig(half_life=0)
