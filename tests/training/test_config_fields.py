"""Dotted paths of a config's fields, and the sections that they are made of."""

from dataclasses import asdict

from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten, from_mapping, nest


def test_flat_fields_are_the_sections_again():
    flat = flatten(RunConfig())
    assert flat["loss.alpha"] == RunConfig().loss.alpha and flat["run_dir"] == ""
    assert nest(flat) == asdict(RunConfig())
    assert from_mapping(RunConfig(), nest(flat | {"loss.alpha": 2.0}), "").loss.alpha == 2.0
    assert nest({"loss.alpha": 1, "loss.beta": 2, "table.dim": 4}) == {
        "loss": {"alpha": 1, "beta": 2},
        "table": {"dim": 4},
    }
