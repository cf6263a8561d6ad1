"""Context columns from disk to the rows that a model reads of past plays."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.batch import SIGNAL_FEATURE
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.manifest import SESSIONS
from skipwise.datapipes.session_order import SessionOrder, pad
from skipwise.datapipes.sessions import Sessions, SessionStore
from skipwise.datapipes.signals import UNKNOWN, Signals
from skipwise.datapipes.view import View
from tests.conftest import random_sessions
from tests.support.contexts import add_contexts, words

TRACKS = 30
SIGNALS = Signals.of(("device", "skips", "list"), {"device": ["phone", "tv"], "list": ["a", "b", "c"]})
"""Rows 0 to 2 of the device, 3 to 7 of the skip, 8 to 11 of the list."""


def sessions(*plays: list[tuple[int, int, int, int]]) -> Sessions:
    """Of (track, strength, code of the device, code of the list)."""
    length_B = np.array(list(map(len, plays)))
    whole_BTX = np.zeros((len(plays), max(length_B), 4), dtype=np.int64)
    whole_BTX[..., 0] = -1
    for number, session in enumerate(plays):
        whole_BTX[number, : len(session)] = session
    tracks_BT, skips_BT, contexts_BTK = whole_BTX[..., 0], whole_BTX[..., 1].astype(np.int8), whole_BTX[..., 2:]
    return Sessions(tracks_BT, skips_BT, length_B, np.arange(len(plays)), contexts_BTK.astype(np.uint16))


def built(data: Sessions, length: int = 6, cloze: float | None = None, **options):
    return TrainBuilder(
        0, View(length, signals=SIGNALS), 8, TRACKS, 12, "shared", cloze, held_out=0, judge=True, **options
    ).build(data, 1, 0)


def evaluated(data: Sessions, targets: int | str, length: int = 6, append_mask: bool = False):
    return EvaluationBuilder(0, View(length, signals=SIGNALS), 8, TRACKS, targets, 5, 0, "rank-tes", append_mask).build(
        data, 0, 0
    )


def test_each_column_has_rows_of_its_own():
    assert SIGNALS.num_rows == 12 and [column.first_row for column in SIGNALS.columns] == [0, 3, 8]
    strengths, codes = np.array([[0, 3, UNKNOWN]]), np.array([[[1, 0], [2, 3], [0, 1]]], dtype=np.uint16)
    assert SIGNALS.rows(strengths, codes).tolist() == [[[1, 4, 8], [2, 7, 11], [0, 3, 9]]]
    assert SIGNALS.rows(strengths).tolist() == [[[0, 4, 8], [0, 7, 8], [0, 3, 8]]], "nothing is known of the context"
    with pytest.raises(UserError, match="--data.inputs colour is a context column, and no dataset has it"):
        Signals.of(("colour",), {"device": []})


PLAYS = [(3, 0, 1, 1), (9, 1, 2, 0), (4, 2, 0, 3), (8, 3, 1, 2), (5, 0, 2, 1)]
ROWS = [[1, 4, 9], [2, 5, 8], [0, 6, 11], [1, 7, 10], [2, 4, 9]]


def test_a_batch_by_hand():
    """Of the first session the last four plays, one of which is only predicted; rows 0, 4 and 8 at padding."""
    batch = built(sessions(PLAYS, PLAYS[:2]), length=3)
    assert batch.tracks[SIGNAL_FEATURE].values().tolist() == list(range(12))
    assert batch.inputs_B.tolist() == [3, 1]
    assert batch.signals_BTC.tolist() == [ROWS[1:], [*ROWS[:2], *[[0, 4, 8]] * 2]]
    assert built(sessions(PLAYS), cloze=0.3).signals_BTC.tolist() == [ROWS]


@pytest.mark.parametrize("append_mask", [False, True])
def test_evaluation_reads_the_plays_before_the_target(append_mask: bool):
    (batch,) = evaluated(sessions(PLAYS), "all", 4 + append_mask, append_mask)
    for number in range(4):
        read = 1 + number
        assert batch.sessions.signals_BTC[number, :read].tolist() == ROWS[:read]
        past = [[*play[2:]] for play in PLAYS[:read]] + [[0, 0]] * (4 - read)
        assert batch.history_contexts_BSK[number].tolist() == past
        # Of five plays, those from the third on tell nothing where the second half is foreseen.
        halved = [*ROWS[:2], *[[0, 3, 8]] * 3][:read]
        assert batch.halved_signals_BTC[number, :read].tolist() == halved
    (last,) = evaluated(sessions(PLAYS), 2, 2 + append_mask, append_mask)
    assert last.sessions.signals_BTC[0, :2].tolist() == ROWS[1:3]


def test_hidden_sessions_hide_every_column():
    batch = built(sessions(*[PLAYS] * 2000), hidden_inputs=0.2)
    hidden = batch.signals_BTC == torch.tensor([0, 3, 8])
    skips, contexts = hidden[..., 1], hidden[..., [0, 2]].all(dim=2)
    for of in (skips, contexts):
        assert (of.any(dim=1) == of.all(dim=1)).all(), "of all plays of a session or of none"
    assert abs(skips.any(dim=1).double().mean() - 0.2) < 0.03
    assert abs(contexts.any(dim=1).double().mean() - 0.4) < 0.04, "in as many sessions they alone are hidden"
    assert contexts[skips].all()


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_what_is_read_of_a_play_is_shuffled_with_its_flag(inputs: bool, labels: bool):
    """Code and strength say the same of each play: they still do, in another order."""
    many = sessions(*[[(number, number % 4, 0, number % 4) for number in range(8)]] * 60)
    plain, batch = built(many, length=8), built(many, length=8, shuffle_inputs=inputs, shuffle_labels=labels)
    read = batch.signals_BTC[:, :8]
    assert torch.equal(read[..., 1] - 4, read[..., 2] - 8)
    assert torch.equal(plain.signals_BTC, batch.signals_BTC) != inputs
    assert torch.equal(plain.judged_kept_J, batch.judged_kept_J) != labels


CODES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=8
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(plays=CODES, targets=st.sampled_from([1, 2, "all"]), data=st.data())
def test_context_of_the_target_and_later_is_never_read(plays: list, targets: int | str, data: st.DataObject):
    """Of no target's batch does a code at its position or behind it change anything."""
    given_plays = sessions(*plays)
    for batch in evaluated(given_plays, targets):
        for row, number in enumerate(batch.sessions.session_B.tolist()):
            if number < 0:
                continue
            at = int(batch.position_B[row])
            later = sessions(*plays)
            later.contexts_BTK[number, at:] = data.draw(st.integers(0, 2))
            found = [
                other.sessions.signals_BTC[place]
                for other in evaluated(later, targets)
                for place in range(len(other.position_B))
                if (other.sessions.session_B[place], other.position_B[place]) == (number, at)
            ]
            assert len(found) == 1
            width = min(found[0].shape[0], batch.sessions.signals_BTC.shape[1])
            assert torch.equal(found[0][:width], batch.sessions.signals_BTC[row, :width])


COLUMNS = {"device": words("phone", "tv", None, "only once"), "list": words("a", "b", None), "empty": words(None)}


@pytest.mark.parametrize("split", [None, {"test": 12, "train": 30, "validation": 13}])
def test_codes_from_disk_are_those_of_plain_loops(make_dataset, split: dict | None):
    """Whatever part, window and lane a session is read in."""
    data = make_dataset(random_sessions(55, TRACKS), TRACKS, parts=2, split=split)
    texts = add_contexts(data, COLUMNS)
    store = SessionStore(str(data))
    values = {"list": store.manifest.contexts["list"], "device": ["tv", "of another log", "phone"], "empty": []}
    read = store.reading(values)
    assert store.contexts == {} and read.part("test").contexts == read.contexts == values
    for part in [read] if split is None else [read.part("train"), read.part("validation", "test")]:
        order = SessionOrder(part, 0, 1, shuffle_groups=2, windows_kept=2)
        block = pad([order.take(0, len(part) // 2), order.take(len(part) // 2, len(part))], len(part))
        assert block.contexts_BTK.shape == (*block.tracks_BT.shape, 3)
        for number, codes_TK in zip(block.number_B, block.contexts_BTK, strict=True):
            if number < 0:
                assert not codes_TK.any()
                continue
            for column, codes_T in zip(values, codes_TK.T, strict=True):
                told = texts[column][number]
                known = [values[column].index(text) + 1 if text in values[column] else 0 for text in told]
                assert codes_T.tolist() == known + [0] * (len(codes_T) - len(told))
    assert pad([SessionOrder(store, 0, 1, 2, 2).take(0, 3)], 3).contexts_BTK is None


def test_what_cannot_be_read_is_refused(make_dataset):
    data = make_dataset(random_sessions(40, TRACKS), TRACKS, parts=1)
    add_contexts(data, COLUMNS)
    store = SessionStore(str(data))
    with pytest.raises(UserError, match=r"no context column 'colour' \(it has device, list, empty\): prepare it again"):
        store.reading({"device": [], "colour": []})
    file = data / SESSIONS / "part-00000.parquet"
    table = pq.read_table(file)
    told = table["device"].to_pylist()
    told[8][0] = "tv" if told[8][0] == "phone" else "phone"

    def damaged(column: pa.Array) -> SessionStore:
        pq.write_table(table.set_column(table.column_names.index("device"), "device", column), file, row_group_size=7)
        return SessionStore(str(data)).reading({"device": ["phone"]})

    read = damaged(pa.array(told))
    assert len(read.read(np.array([0])).contexts) > 0
    with pytest.raises(
        UserError, match="row group 1: 'device' is not what prepare wrote, by its checksum: run prepare"
    ):
        read.read(np.array([1]))
    with pytest.raises(UserError, match="row group 1: cannot be read .*not as long as the tracks.*: run prepare again"):
        damaged(pa.array([row + ["tv"] for row in told])).read(np.array([1]))
    with pytest.raises(UserError, match="row group 0: cannot be read .*: run prepare again"):
        damaged(pa.array([1] * len(told))).read(np.array([0]))
