"""A model that would learn from skips is told where a dataset has none."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from skipwise.components.recipes import RECIPES
from skipwise.training.checks import warn_without_skips


@pytest.mark.parametrize(
    ("recipe", "share", "unknown", "said"),
    [
        ("best", 0, 0, "has no skipped"),
        ("best", 1, 0, "has only skipped"),
        ("best", 0.4, 0.6, "has only skipped"),
        ("best", 0.1, 0.5, ""),
        ("best-skip-blind", 0, 0, ""),
    ],
)
def test_a_warning(recipe: str, share: float, unknown: float, said: str, caplog: pytest.LogCaptureFixture, monkeypatch):
    store = SimpleNamespace(path="data", manifest=SimpleNamespace(skip_share=share, unknown_share=unknown))
    config = RECIPES[recipe]()
    monkeypatch.setattr(logging.getLogger("skipwise"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("skipwise"), "propagate", False)
    for one in (config, replace(config, data=replace(config.data, inputs=()))):
        caplog.clear()
        warn_without_skips(one, store)
        assert bool(caplog.text) == bool(said) and said in caplog.text
