"""Figures from records are those that `evaluate` computes batch by batch; reliability by hand."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.studies.skip_figures import difference, figure, over_seeds, reliability, skip_values
from skipwise.training.evaluation.records import TargetRanks
from skipwise.training.evaluation.skip_measures import FORESEEN, ORDERED
from skipwise.training.evaluation.skip_metrics import SkipMetrics

NAN = float("nan")


def ranks_of(sessions: Iterable[Iterable[tuple[int, float, float, int, float, float]]]) -> TargetRanks:
    """Records of all plays but the first of each session: strength, P(kept), the same without flags of the second
    half, pairs, and pairs won by ranking and by P(kept)."""
    rows = [(number, at + 1, *play) for number, plays in enumerate(sessions) for at, play in enumerate(plays)]
    session, position, skips, kept, halved, pairs, won, keep_won = np.array(rows, dtype=float).T
    whole = {"session": session, "position": position, "skips": skips, "pairs": pairs}
    nothing = dict.fromkeys(("rank", "ties", "candidates", "target"), np.ones(len(rows), dtype=np.int64))
    return TargetRanks(
        **{name: values.astype(np.int64) for name, values in whole.items()},
        **nothing,
        repeated=np.zeros(len(rows), dtype=bool),
        kept_probability=kept.astype(np.float32),
        halved_probability=halved.astype(np.float32),
        pairs_won=won.astype(np.float32),
        keep_pairs_won=keep_won.astype(np.float32),
        listed_skips=np.full(len(rows), NAN, dtype=np.float32),
    )


# Where it is not known what happened to a target, it is in no pair.
PLAY = st.tuples(st.integers(-1, 3), st.integers(0, 999), st.integers(0, 999), st.integers(0, 3), st.booleans()).map(
    lambda play: play if play[0] >= 0 else (*play[:3], 0, play[4])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(PLAY, min_size=1, max_size=8), min_size=1, max_size=8))
def test_figures_are_those_of_evaluate(sessions):
    """A session of n + 1 plays has its second half from play (n + 1) // 2 on."""
    ranks = ranks_of(
        [
            (
                strength,
                (told + 0.5) / 1000,
                (halved + 0.5) / 1000 if at + 1 >= (len(plays) + 1) // 2 else NAN,
                pairs,
                pairs * won,
                pairs / 2,
            )
            for at, (strength, told, halved, pairs, won) in enumerate(plays)
        ]
        for plays in sessions
    )
    metrics = SkipMetrics()
    columns = {name: torch.from_numpy(values) for name, values in vars(ranks).items()}
    plays = [len(plays) + 1 for plays in sessions for _ in plays]
    metrics.update(**columns, plays=torch.tensor(plays))
    found, expected = skip_values(ranks), metrics.compute()
    for name in (*FORESEEN, *ORDERED):
        assert (name in found) == (expected[name] is not None), name
        if name in found:
            assert found[name].mean() == pytest.approx(expected[name], abs=1e-6), name


def test_records_without_a_keep_head_or_without_pairs():
    plays = [(1, NAN, NAN, 2, 1, NAN), (0, NAN, NAN, 0, 0, NAN)]
    assert list(skip_values(ranks_of([plays]))) == ["pairs_in_order"]
    assert skip_values(ranks_of([[(1, NAN, NAN, 0, NAN, NAN)]])) == {}
    alone = skip_values(ranks_of([[(1, 0.2, NAN, 0, 0, 0), (1, 0.6, NAN, 0, 0, 0)]]))
    assert list(alone) == ["next_skip_accuracy", "next_skip_ece"], "all are skipped, and there is no second half"
    assert alone["next_skip_accuracy"].tolist() == [0.5] and alone["next_skip_ece"] == pytest.approx([0.4])


def test_seeds_and_differences_by_hand():
    """Accuracies by session: 1 and 0 with one seed, 1 and 1 with the other; of the other model 0 and 0."""
    model = [ranks_of([[(0, 0.9, NAN, 0, 0, 0)], [(1, told, NAN, 0, 0, 0)]]) for told in (0.9, 0.1)]
    other = [ranks_of([[(0, 0.1, NAN, 0, 0, 0)], [(1, 0.9, NAN, 0, 0, 0)]])]
    values, others = over_seeds(model)["next_skip_accuracy"], over_seeds(other)["next_skip_accuracy"]
    assert values.tolist() == [[1, 0], [1, 1]]
    found = figure(values)
    assert (found["mean"], found["low"], found["high"]) == (0.75, 0.5, 1) and found["over_seeds"] == pytest.approx(
        0.125**0.5
    )
    assert figure(others)["over_seeds"] is None
    assert difference(values, others) == [0.75, 0.5, 1.0]
    assert "next_skip_accuracy" not in over_seeds(
        [*model, ranks_of([[(0, NAN, NAN, 1, 1, 1)], [(1, NAN, NAN, 1, 1, 1)]])]
    )


def test_reliability_by_hand():
    """Of the cells of a fifteenth: two plays at .5 and .52, one kept; one at 1, kept; of .9 none."""
    plays = [(0, 0.5, NAN, 0, 0, 0), (2, 0.52, NAN, 0, 0, 0), (3, 1.0, NAN, 0, 0, 0)]
    low, high = reliability(ranks_of([plays]))
    assert low[:2] == pytest.approx((0.51, 0.5)) and low.plays == 2
    assert high == pytest.approx((1, 1, 1, 1, 1))


def test_what_is_not_known_is_in_no_figure_of_kept_and_skipped():
    told = [(1, 0.2, 0.3, 0, 0, 0), (0, 0.7, 0.6, 0, 0, 0)]
    whole, with_unknown = ranks_of([told, told]), ranks_of([[*told, (-1, 0.9, 0.9, 0, 0, 0)], told])
    for name, values in skip_values(whole).items():
        assert skip_values(with_unknown)[name].tolist() == pytest.approx(values.tolist()), name
    assert [point[:2] for point in reliability(with_unknown)] == [point[:2] for point in reliability(whole)]
    assert (with_unknown.kept | with_unknown.skipped).tolist() == with_unknown.known.tolist()
