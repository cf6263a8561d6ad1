"""Groups of targets against plain loops over the log: new or repeated, position, popularity, age, context type."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.datapipes.manifest import SESSIONS, Manifest
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.groupings import CONTEXT, groupings
from skipwise.training.build import HeldOut
from skipwise.training.config import EvaluateConfig
from skipwise.training.evaluation.records import SKIP_COLUMNS, TargetRanks
from tests.conftest import random_sessions

TRACKS = 30


def with_context(data: Path) -> SessionStore:
    """Every play's context type is its session's number in the whole dataset and its place; some have none."""
    number = 0
    for part in sorted((data / SESSIONS).iterdir()):
        table = pq.read_table(part)
        words = []
        for row, tracks in enumerate(table["tracks"].to_pylist()):
            words.append([None if at % 5 == 4 else f"{number + row}:{at}" for at in range(len(tracks))])
        number += len(table)
        pq.write_table(table.append_column(CONTEXT, pa.array(words)), part, row_group_size=7)
    Manifest.read(data).model_copy(update={"context_columns": [CONTEXT]}).write(data)
    return SessionStore(str(data))


def targets(store: SessionStore, positions: str, split: str = "test") -> TargetRanks:
    """A record of each target of a split, the session's last track or all but its first."""
    held_out = HeldOut.of(EvaluateConfig(positions=positions), store, split)
    columns = {name: [] for name in ("session", "position", "target", "repeated")}
    for group in range(len(held_out.sessions.group_sizes)):
        window = held_out.sessions.read(np.array([group]))
        for number, start, end in zip(window.numbers, window.offsets[:-1], window.offsets[1:], strict=True):
            tracks = window.tracks[start:end]
            places = range(1, len(tracks)) if held_out.targets == "all" else [len(tracks) - held_out.targets]
            for place in places:
                row = (number, place, tracks[place], tracks[place] in tracks[:place])
                for values, value in zip(columns.values(), row, strict=True):
                    values.append(value)
    zeros = np.zeros(len(columns["session"]), dtype=np.int64)
    others = dict.fromkeys(("rank", "ties", "candidates", "skips", *SKIP_COLUMNS), zeros)
    return TargetRanks(**{name: np.array(values) for name, values in columns.items()}, **others)


@pytest.mark.parametrize("split", [None, {"test": 25, "train": 40, "validation": 15}])
@pytest.mark.parametrize("held_out", ["validation", "test"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_context_types_of_each_targets_own_play(make_dataset, split: dict | None, held_out: str, positions: str):
    """By the sessions' numbers in the whole dataset, several files, batches and targets a session."""
    store = with_context(make_dataset(random_sessions(80, TRACKS), TRACKS, parts=3, split=split))
    ranks = targets(store, positions, held_out)
    assert len(ranks.session) > len(np.unique(ranks.session)) or split is None or positions == "last"
    expected = [
        "unknown" if position % 5 == 4 else f"{session}:{position}"
        for session, position in zip(ranks.session, ranks.position, strict=True)
    ]
    found = groupings(store, np.ones(TRACKS))["target's context type"](ranks)
    assert found.tolist() == expected
    assert {"unknown"} < set(expected)


def test_other_groups_by_hand(make_dataset):
    """Session 0 plays 3 1 3 3 2, session 1 plays 2 2: every track but the first is a target."""
    sessions = [([3, 1, 3, 3, 2], [0] * 5), ([2, 2], [0] * 2), ([4, 5, 6], [0] * 3), ([7, 8, 9], [0] * 3)]
    data = make_dataset(sessions, TRACKS, parts=1, split={"test": 2, "train": 1, "validation": 1})
    store = SessionStore(str(data))
    ranks = targets(store, "all")
    assert (ranks.session.tolist(), ranks.target.tolist()) == ([0, 0, 0, 0, 1], [1, 3, 3, 2, 2])
    counts = np.zeros(TRACKS)
    counts[[1, 2, 3]] = 5, 9, 7
    by = groupings(store, counts)
    age = "age of the target's track"
    assert set(by) == {"new or repeated target", "position in the session", "target's popularity", age}, (
        "the log has no context type"
    )
    assert set(by[age](ranks)) == {"1 played in training"}
    counts[3] = 0
    unplayed, played = "0 not played in training", "1 played in training"
    assert by[age](ranks).tolist() == [played, unplayed, unplayed, played, played]
    assert age not in groupings(store, counts + 1), "one group says nothing"
    counts[3] = 7
    assert by["new or repeated target"](ranks).tolist() == ["new", "repeated", "repeated", "new", "repeated"]
    assert by["position in the session"](ranks).tolist() == ["2", "3", "4", "5", "2"]
    # Plays of the targets 5 7 7 9 9: the edges of fifths are 9 7 7 7 from above.
    popular = by["target's popularity"](ranks).tolist()
    assert popular == ["5 least played", "2", "2", "1 most played", "1 most played"]
