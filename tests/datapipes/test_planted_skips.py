from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from skipwise.datapipes.synthesize import Catalogue, SynthesizeConfig, synthesize

SESSIONS, TRACKS, CLUSTERS = 4_000, 400, 4


def plays_of(rule: str, folder: Path) -> tuple[Catalogue, list[tuple[np.ndarray, np.ndarray]]]:
    """The catalogue, and each session's tracks, as the catalogue numbers them, and flags."""
    config = SynthesizeConfig(folder / "log.parquet", SESSIONS, TRACKS, 5, CLUSTERS, zipf=0, planted=rule)
    synthesize(config)
    catalogue = Catalogue(config)
    number_of = {track: number for number, track in enumerate(catalogue.ids.to_pylist())}
    log = pq.read_table(config.output, columns=["track_id_clean", "session_position", "skip_2", "skip_3"])
    assert log["skip_2"].equals(log["skip_3"])  # no strength 3
    tracks = np.array([number_of[track] for track in log["track_id_clean"].to_pylist()])
    starts = np.flatnonzero(log["session_position"].to_numpy() == 1)[1:]
    flags = log["skip_2"].to_numpy()
    return catalogue, list(zip(np.split(tracks, starts), np.split(flags, starts), strict=True))


def auc(skipped: np.ndarray, score: np.ndarray) -> float:
    """`score`: in 0..1."""
    return binary_auroc(torch.from_numpy(score).double(), torch.from_numpy(skipped).long()).item()


def test_content_is_decided_by_the_two_angles(tmp_path):
    catalogue, sessions = plays_of("content", tmp_path)
    cosines, skips = [], []
    for tracks, flags in sessions:
        clusters = np.searchsorted(catalogue.starts, tracks, side="right") - 1
        home = np.bincount(clusters).argmax()
        if np.count_nonzero(clusters == home) >= 8:  # so that it is known
            cosines.append(np.cos(catalogue.angles[tracks] - catalogue.tastes[home]))
            skips.append(flags)
    cosine, skip = np.concatenate(cosines), np.concatenate(skips)
    assert len(skip) > 20_000
    assert auc(skip, (1 - cosine) / 2) == pytest.approx(0.904, abs=0.01)
    for low in (-1, -0.5, 0, 0.5):
        within = (cosine >= low) & (cosine < low + 0.5)
        expected = 1 / (1 + np.exp(3 * cosine[within]))
        assert skip[within].mean() == pytest.approx(expected.mean(), abs=0.02)


def test_state_is_decided_by_the_play_before(tmp_path):
    _, sessions = plays_of("state", tmp_path)
    before, after = (np.concatenate([flags[part] for _, flags in sessions]) for part in (slice(-1), slice(1, None)))
    assert after[before].mean() == pytest.approx(0.2, abs=0.01)
    assert after[~before].mean() == pytest.approx(0.8, abs=0.01)
    assert np.mean([flags[0] for _, flags in sessions]) == pytest.approx(0.5, abs=0.03)
    assert auc(after, ~before) == pytest.approx(0.8, abs=0.01)
    rates = np.bincount(
        np.concatenate([tracks for tracks, _ in sessions]),
        np.concatenate([flags for _, flags in sessions]),
        TRACKS,
    ) / np.bincount(np.concatenate([tracks for tracks, _ in sessions]), minlength=TRACKS)
    assert rates.std() < 0.06  # about 150 plays each: 0.04 by chance


def test_pairs_are_decided_by_whether_the_track_is_a_bait(tmp_path):
    catalogue, sessions = plays_of("pairs", tmp_path)
    came, skips, others, pairs = [], [], [], []
    for tracks, flags in sessions:
        clusters = np.searchsorted(catalogue.starts, tracks, side="right") - 1
        home = clusters[0]
        first = catalogue.starts[(home + 1) % CLUSTERS]
        baits = (tracks == first) | (tracks == first + 1)
        assert (baits | (clusters == home)).all()
        came += baits[1:][~flags[:-1]].tolist()
        assert not baits[1:][flags[:-1]].any() and not baits[0]
        skips += flags[baits].tolist()
        others += flags[~baits].tolist()
        for place in range(len(tracks) - 1):
            kept = np.flatnonzero(~flags[place + 1 :])
            run = slice(place + 1, place + 1 + kept[0]) if len(kept) else slice(0)
            pairs += baits[run].tolist()
    assert np.mean(came) == pytest.approx(0.8, abs=0.01)
    assert np.mean(skips) == pytest.approx(0.9, abs=0.01) and np.mean(others) == pytest.approx(0.1, abs=0.01)
    assert np.mean(pairs) + (1 - np.mean(pairs)) / 2 == pytest.approx(0.894, abs=0.01)


def test_pairs_need_another_cluster():
    with pytest.raises(ValueError, match="--clusters must be at least 2"):
        SynthesizeConfig(Path("log.csv"), 10, 10, clusters=1, planted="pairs")
