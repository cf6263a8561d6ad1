"""What is read of a play beside its track: a sum of rows, by hand; and nothing of a later play."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.signals import Signals
from skipwise.datapipes.view import View
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.models.encoder import Encoder
from skipwise.models.task import Learner
from tests.datapipes.test_context_columns import sessions

DIM, TRACKS = 8, 30
SIGNALS = Signals.of(("skips", "device", "list"), {"device": ["phone", "tv"], "list": ["a", "b", "c"]})
CODES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=7
    ),
    min_size=1,
    max_size=3,
)


def learner(keep: float = 0.0, direction: str = "unidirectional") -> Learner:
    torch.manual_seed(1)
    config = EncoderConfig(direction=direction, blocks=2, heads=2, hidden=16, max_length=8, dropout=0.0)
    loss = LossConfig(context="none", alpha=0.0, beta=1.0, keep=keep, keep_dim=4)
    encoder = Encoder(config, DIM, loss.keep_width, reads_signals=True)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Learner(encoder.eval(), loss, None, TRACKS)


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_a_prediction_from_rows_added_by_hand(direction: str):
    mask = direction == "bidirectional"
    model, plays = learner(direction=direction), [(3, 0, 1, 1), (9, 1, 2, 0), (4, 2, 0, 3), (8, 3, 1, 2)]
    (batch,) = EvaluationBuilder(0, View(8, signals=SIGNALS), 8, TRACKS, 1, 1, 0, "rank-tes", mask).build(
        sessions(plays), 0, 0
    )
    tracks, signals = torch.randn(TRACKS, DIM), torch.randn(SIGNALS.num_rows, DIM)
    rows = torch.zeros(batch.sessions.tracks.stride(), DIM)
    ids = batch.sessions.tracks["track"].values()
    rows[: len(ids)] = tracks[ids]
    found = model.predict(rows, batch.sessions, signals)
    # The skips' rows are 0 to 4, the device's 5 to 7, the list's 8 to 11; the first of each is of what is not known.
    by_hand = [
        tracks[3] + signals[1] + signals[6] + signals[9],
        tracks[9] + signals[2] + signals[7] + signals[8],
        tracks[4] + signals[3] + signals[5] + signals[11],
        *[torch.zeros(DIM)] * mask,  # the mask token's place
    ]
    read_B, masked_BT = torch.tensor([3 + mask]), torch.zeros(1, 3 + mask, dtype=torch.bool)
    masked_BT[0, 3:] = True
    torch.testing.assert_close(found, model.encoder.queries(torch.stack(by_hand)[None], read_B, masked_BT))


@settings(max_examples=40, deadline=None)
@given(plays=CODES, place=st.integers(0, 6), code=st.integers(0, 2), seed=st.integers(0, 9))
def test_a_later_play_changes_nothing_before_it(plays: list, place: int, code: int, seed: int):
    """Outputs of training, of the next-track head and the keep head, at all positions before the changed plays."""
    model = learner(keep=0.5)
    generator = torch.Generator().manual_seed(seed)
    tracks = torch.randn(TRACKS, DIM, generator=generator)
    signals = torch.randn(SIGNALS.num_rows, DIM, generator=generator)

    def outputs(changed: bool) -> torch.Tensor:
        data = sessions(*plays)
        if changed:
            data.contexts_BTK[:, place + 1 :] = code
        batch = TrainBuilder(0, View(8, signals=SIGNALS), 8, TRACKS, 12, "shared", None, held_out=0, judge=True).build(
            data, 1, 0
        )
        rows = torch.zeros(batch.tracks.stride(), DIM)
        ids = batch.tracks["track"].values()
        rows[: len(ids)] = tracks[ids]
        told_BTD = signals[batch.signals_BTC].sum(dim=2)
        return model.encoder.padded(rows[batch.items_BT], batch.inputs_B, batch.masked_BT, told_BTD)

    with torch.no_grad():
        assert torch.equal(outputs(False)[:, : place + 1], outputs(True)[:, : place + 1])
