"""The largest and smallest settings of the model that are accepted; the next ones are refused."""

from dataclasses import fields

import pytest

from skipwise.models.config import EncoderConfig, LossConfig, TableConfig


def accepted(config: type, name: str, value: float) -> bool:
    assert name in {field.name for field in fields(config)}
    try:
        config(**{name: value})
    except ValueError as refusal:
        assert f".{name.replace('_', '-')} " in str(refusal)
        return False
    return True


@pytest.mark.parametrize(
    ("config", "name", "within", "beyond"),
    [
        (TableConfig, "dim", (4, 16_384), (0, 6, 16_388)),
        (TableConfig, "learning_rate", (1e-9,), (0.0, -1.0)),
        (TableConfig, "eps", (1e-12,), (0.0,)),
        (TableConfig, "init_bound", (1e-9,), (0.0,)),
        (EncoderConfig, "max_length", (1, 65_536), (0, 65_537)),
        (EncoderConfig, "blocks", (1, 1024), (0, 1025)),
        (EncoderConfig, "heads", (1, 1024), (0, 1025)),
        (EncoderConfig, "hidden", (1, 65_536), (0, 65_537)),
        (EncoderConfig, "dropout", (0.0, 0.999), (-0.1, 1.0)),
        (EncoderConfig, "track_dropout", (0.0, 0.999), (-0.1, 1.0)),
        (EncoderConfig, "mask_probability", (0.001, 0.999), (0.0, 1.0)),
        (LossConfig, "temperature", (1e-6,), (0.0,)),
        (LossConfig, "calibration", (0.0, 1.0), (-0.1, 1.1)),
        (LossConfig, "keep", (0.0, 2.0), (-0.1,)),
        (LossConfig, "keep_dim", (4, 1024), (0, 2, 10, 1028)),
        (LossConfig, "alpha", (0.0, 9.0), (-0.1,)),
        (LossConfig, "beta", (0.1,), (-0.1,)),
    ],
)
def test_limits(config: type, name: str, within: tuple[float, ...], beyond: tuple[float, ...]):
    assert [accepted(config, name, value) for value in within] == [True] * len(within)
    assert [accepted(config, name, value) for value in beyond] == [False] * len(beyond)


def test_parts_of_the_loss_that_are_learned():
    assert LossConfig().parts == ("nll", "nce")
    assert LossConfig(context="none", keep=0.5).parts == ("nll", "keep"), "an alpha without a context weighs nothing"
    assert LossConfig(alpha=0.0, keep=0.5).parts == ("nll", "keep")
    assert LossConfig(alpha=1.0, beta=0.0).parts == ("nce",)
