"""The recommended recipe and its variants."""

from dataclasses import replace

from skipwise.components.recipes.paper import SKIP_BLIND
from skipwise.models.config import EncoderConfig, TableConfig
from skipwise.training.config import RunConfig, TrainConfig


def best() -> RunConfig:
    """The recommended recipe and the default: reads skips and learns, beside the next track, whether it will be kept.

    Relative positions, hidden tracks, shared negatives, and a refit on the validation too (docs/results.md).
    """
    blind = best_skip_blind()
    return replace(blind, data=replace(blind.data, inputs=("skips",)), loss=replace(blind.loss, keep=0.5))


def best_skip_blind() -> RunConfig:
    """`best` without skips: neither read nor learned."""
    return RunConfig(
        table=TableConfig(learning_rate=0.1),
        encoder=EncoderConfig(positions="relative", dropout=0.3, track_dropout=0.15),
        loss=SKIP_BLIND,
        train=TrainConfig(refit=True),
    )


def long() -> RunConfig:
    """`best` for sequences of up to 200, as ratings data has them."""
    return replace(best(), encoder=replace(best().encoder, max_length=200))


def long_skip_blind() -> RunConfig:
    """`long` without skips, for data that have none."""
    return replace(best_skip_blind(), encoder=long().encoder)


def best_long() -> RunConfig:
    """The recommended recipe for histories of users without skips, such as purchases: few plays a track, few repeats.

    Narrower than `best`, with more dropout, norms first and no prediction layer (docs/results.md).
    """
    blind = best_skip_blind()
    return replace(
        blind,
        table=TableConfig(dim=64),
        encoder=EncoderConfig(
            max_length=50,
            positions="relative",
            blocks=1,
            heads=1,
            dropout=0.5,
            norm_first=True,
            prediction="none",
        ),
    )
