"""Recipes: functions that return the whole config of a run. Copy one's return, edit it, and you have your own.

The six named after the paper (Seshadri & Knees, arXiv 2309.11623, table 1) keep its settings: 2 blocks, 8 heads,
d = hidden = 128, dense Adam at 0.005, 1000 negatives a session, cloze 0.2, alpha = beta = 0.5, and the
12 epochs of its published code. Row-wise Adagrad stands in for its Adam on the table, which CPU kernels lack.
"""

from collections.abc import Callable
from dataclasses import replace

from skipwise.datapipes.config import DataConfig
from skipwise.models.config import EncoderConfig, LossConfig, TableConfig
from skipwise.training.config import OptimizerConfig, RunConfig, TrainConfig

_SKIP_BLIND = LossConfig(context="none", alpha=0.0, beta=1.0)


def unidir() -> RunConfig:
    """SASRec-like, skip-blind: "Unidir S-" of the paper's table 1."""
    return RunConfig(
        data=DataConfig(sampling="per-session"),
        loss=_SKIP_BLIND,
        optimizer=OptimizerConfig(learning_rate=0.005),
        train=TrainConfig(epochs=12, patience=4),
    )


def unidir_skip_context() -> RunConfig:
    """SASRec-like, skips pushed from the encoder's output: "Unidir S+, c = ŷ"."""
    return replace(unidir(), loss=LossConfig(context="output"))


def unidir_skip_track() -> RunConfig:
    """SASRec-like, skips pushed from each track's own embedding: "Unidir S+, c = e"."""
    return replace(unidir(), loss=LossConfig(context="track"))


def bidir() -> RunConfig:
    """BERT4Rec-like, skip-blind: "Bidir S-"."""
    return replace(unidir(), encoder=EncoderConfig(direction="bidirectional"))


def bidir_skip_context() -> RunConfig:
    """BERT4Rec-like, skips pushed from the encoder's output: "Bidir S+, c = ŷ"."""
    return replace(bidir(), loss=LossConfig(context="output"))


def bidir_skip_track() -> RunConfig:
    """BERT4Rec-like, skips pushed from each track's own embedding: "Bidir S+, c = e"."""
    return replace(bidir(), loss=LossConfig(context="track"))


def best() -> RunConfig:
    """The recommended recipe and the default: "Unidir S+, c = e" with shared negatives and more regularization.

    Relative positions, hidden tracks, a weaker skip loss, and a refit on all but the test track. Chosen on the
    validation HR@10 of 8,000 real MSSD sessions on 2026-11-21 (docs/results.md).
    """
    return RunConfig(
        table=TableConfig(learning_rate=0.1),
        encoder=EncoderConfig(positions="relative", dropout=0.3, track_dropout=0.15),
        loss=LossConfig(alpha=0.25, beta=1.0),
        train=TrainConfig(refit=True),
    )


def best_skip_blind() -> RunConfig:
    """`best` without the skip head."""
    return replace(best(), loss=_SKIP_BLIND)


def long() -> RunConfig:
    """`best` for sequences of up to 200, as ratings data has them."""
    return replace(best(), encoder=replace(best().encoder, max_length=200))


def long_skip_blind() -> RunConfig:
    """`long` without the skip head, for data without skips."""
    return replace(long(), loss=_SKIP_BLIND)


RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        best,
        unidir,
        unidir_skip_context,
        unidir_skip_track,
        bidir,
        bidir_skip_context,
        bidir_skip_track,
        best_skip_blind,
        long,
        long_skip_blind,
    )
}
DEFAULT = "best"
