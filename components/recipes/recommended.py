"""The recommended recipe and its variants."""

from dataclasses import replace

from skipwise.components.recipes.paper import SKIP_BLIND
from skipwise.datapipes.config import DataConfig
from skipwise.models.config import EncoderConfig, TableConfig
from skipwise.training.config import OptimizerConfig, RunConfig, TrainConfig


def best() -> RunConfig:
    """The recommended recipe and the default: reads skips and learns, beside the next track, whether it will be kept.

    Its settings were found by a sweep on validation (docs/modelling.md).
    """
    blind = best_skip_blind()
    return replace(blind, data=replace(blind.data, inputs=("skips",)), loss=replace(blind.loss, keep=0.5))


def best_skip_blind() -> RunConfig:
    """`best` without skips: neither read nor learned."""
    return RunConfig(
        table=TableConfig(learning_rate=0.23),
        encoder=EncoderConfig(positions="relative", dropout=0.3, track_dropout=0.15, prediction="linear"),
        loss=replace(SKIP_BLIND, in_batch=True),
        optimizer=OptimizerConfig(learning_rate=0.0029),
        train=TrainConfig(refit=True),
    )


def long() -> RunConfig:
    """`best` for sequences of up to 200, as ratings data has them."""
    return _up_to_200(best())


def long_skip_blind() -> RunConfig:
    """`long` without skips, for data that have none."""
    return _up_to_200(best_skip_blind())


def _up_to_200(config: RunConfig) -> RunConfig:
    """For longer sequences, without in-batch negatives, which would be as many as a batch has plays."""
    return replace(config, encoder=replace(config.encoder, max_length=200), loss=replace(config.loss, in_batch=False))


def best_long() -> RunConfig:
    """The recommended recipe for histories of users without skips, such as purchases: few plays a track, few repeats.

    Narrower than `best`, with more dropout, norms first and no prediction layer (docs/results.md).
    """
    return RunConfig(
        data=DataConfig(negatives=4000),
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
        loss=SKIP_BLIND,
        train=TrainConfig(refit=True),
    )
