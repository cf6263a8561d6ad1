"""The whole audit: it names what was planted, writes its files whole, and refuses what it cannot measure."""

import json

import numpy as np
import pytest
from scipy.special import expit

from skipwise.common.errors import UserError
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit.audit_text import audit_markdown, sentences, sources
from skipwise.studies.audit.predictors import COMBINED
from skipwise.studies.audit.run_audit import audit, run_audit

SESSIONS, LENGTH, TRACKS = 1500, 12, 30
SPLIT = {"test": 400, "train": 1000, "validation": 100}


def planted(what: str, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Sessions of uniform tracks whose skips follow from the session's mood, the track, the pair or nothing."""
    random = np.random.default_rng(seed)
    moods, by_track = random.choice([-2, 2], SESSIONS), random.choice([-2, 2], TRACKS)
    # In each row and column as many skipped as kept, so that a track alone says nothing.
    by_pair = 4 * ((np.arange(TRACKS)[:, None] + np.arange(TRACKS)) % 2) - 2
    tracks = random.integers(TRACKS, size=(SESSIONS, LENGTH))
    before = np.column_stack([tracks[:, :1], tracks[:, :-1]])
    logits = {
        "session": np.broadcast_to(moods[:, None], tracks.shape),
        "track": by_track[tracks],
        "pair": by_pair[before, tracks],
        "nothing": np.zeros(tracks.shape),
    }[what]
    skipped = random.random(tracks.shape) < expit(logits)
    return [(rows.tolist(), (2 * flags).tolist()) for rows, flags in zip(tracks, skipped, strict=True)]


@pytest.mark.parametrize("split", [None, SPLIT], ids=["position", "session"])
@pytest.mark.parametrize("what", ["session", "track", "pair", "nothing"])
def test_the_planted_source_is_named(what: str, split: dict | None, make_dataset):
    figures = audit(SessionStore(str(make_dataset(planted(what), TRACKS, 300, split=split))))
    explained = figures["predictors"]["explained"]
    areas = {name: row["auc"] for name, row in figures["predictors"]["by"].items()}
    (share, told, gain) = sentences(figures)
    if what == "nothing":
        assert abs(sum(explained.values())) < 0.01
        assert areas[COMBINED]["low"] < 0.5 < areas[COMBINED]["high"]
        assert "is not predicted" in told
        return
    # Known coins of expit(2) = .88 explain 1 - H(.88) / log 2 = .47, and order .5 + .76 / 2 = .88 of the pairs.
    assert sources(explained)[what] > 0.9 and sum(explained.values()) > 0.2
    assert areas[COMBINED]["low"] > 0.75 and areas[COMBINED]["value"] < 0.9
    words = {"session": "what the session has skipped", "track": "which track comes", "pair": "which track follows"}
    assert told.split(" % comes from ")[1].startswith(words[what])
    assert share.startswith("Listeners skip") and "points with one run a model" in gain


def test_a_known_track_orders_pairs_and_a_mood_does_not(make_dataset):
    pairs = {}
    for what in ("track", "session"):
        data = make_dataset(planted(what), TRACKS, 300, split=SPLIT)
        pairs[what] = audit(SessionStore(str(data)))["predictors"]["pairs"]
    assert pairs["track"]["low"] > 0.8
    assert pairs["session"]["low"] < 0.5 < pairs["session"]["high"]


def test_maa_takes_no_flag_of_the_second_half(make_dataset):
    """Flags turn in the middle: who sees the first half alone and trusts it is wrong everywhere."""
    flags = [0] * 6 + [2] * 6
    sessions = [(list(range(12)), flags if number % 2 else flags[::-1]) for number in range(SESSIONS)]
    by = audit(SessionStore(str(make_dataset(sessions, TRACKS, 300, split=SPLIT))))["predictors"]["by"]
    assert by["last flag"]["maa"]["value"] == 0
    assert by["last flag"]["accuracy"]["value"] == pytest.approx(10 / 11)
    assert by[COMBINED]["maa"]["value"] == 1  # its weights are those of the second half


def test_files_are_written_whole(make_dataset, tmp_path, capsys):
    output = tmp_path / "made" / "audit"
    run_audit(str(make_dataset(planted("track"), TRACKS, 300)), str(output))
    said = capsys.readouterr().out.splitlines()
    assert sorted(file.name for file in output.iterdir()) == ["audit.json", "audit.md", "audit.png"]
    figures = json.loads((output / "audit.json").read_text())
    assert figures["sentences"] == said and len(said) == 3
    assert (output / "audit.md").read_text() == audit_markdown(figures)
    assert all(sentence in (output / "audit.md").read_text() for sentence in said)
    assert (output / "audit.png").read_bytes().startswith(b"\x89PNG")
    run_audit(str(make_dataset(planted("track"), TRACKS, 300)), str(output))  # replaces them
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: name a directory"):
        run_audit("missing", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("strength", "length", "wanted"),
    [
        (0, 5, "all 60 training plays are kept: expected both kinds; prepare the log with its skips"),
        (3, 5, "all 60 training plays are kept"),
        (1, 5, r"all 60 training plays are skipped \(strength 1 or 2\)"),
    ],
)
def test_a_log_of_one_kind_is_refused(strength: int, length: int, wanted: str, make_dataset):
    data = make_dataset([(list(range(length)), [strength] * length)] * 20, 9)
    with pytest.raises(UserError, match=wanted):
        audit(SessionStore(str(data)))


def test_what_cannot_be_measured_is_refused(make_dataset):
    one = make_dataset([([0, 1, 2, 3, 4], [0, 1, 0, 2, 0])], 5, parts=1)
    with pytest.raises(UserError, match="holds out plays of one session: expected at least 2"):
        audit(SessionStore(str(one)))
    kept = make_dataset([([0, 1, 2, 3, 4], [0, 1, 0, 2, 0])] * 9, 5)
    with pytest.raises(UserError, match="all 9 held-out plays are kept: expected both kinds"):
        audit(SessionStore(str(kept)))


def test_sessions_that_are_too_short_for_pairs(make_dataset):
    """Three plays, split by position: training has first plays alone, and no kept one follows a skipped one."""
    sessions = [([0, 1, 2], [2, 0, 2]), ([1, 2, 0], [0, 0, 2]), ([2, 0, 1], [0, 0, 0])] * 5
    figures = audit(SessionStore(str(make_dataset(sessions, 3))))
    assert figures["predictors"]["pairs"] is None
    assert "## Power" in audit_markdown(figures)
