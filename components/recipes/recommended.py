"""The recommended recipe and its variants."""

from dataclasses import replace

from skipwise.components.recipes.paper import SKIP_BLIND
from skipwise.models.config import EncoderConfig, LossConfig, TableConfig
from skipwise.training.config import RunConfig, TrainConfig


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
    return replace(best(), loss=SKIP_BLIND)


def long() -> RunConfig:
    """`best` for sequences of up to 200, as ratings data has them."""
    return replace(best(), encoder=replace(best().encoder, max_length=200))


def long_skip_blind() -> RunConfig:
    """`long` without the skip head, for data without skips."""
    return replace(long(), loss=SKIP_BLIND)
