"""Dotted paths of a config's fields, and the sections that they are made of."""

from dataclasses import asdict

import pytest

from skipwise.common.errors import UserError
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import as_json, flatten, from_mapping, nest


def test_flat_fields_are_the_sections_again():
    flat = flatten(RunConfig())
    assert flat["loss.alpha"] == RunConfig().loss.alpha and flat["run_dir"] == ""
    assert nest(flat) == asdict(RunConfig())
    assert from_mapping(RunConfig(), nest(flat | {"loss.alpha": 2.0}), "").loss.alpha == 2.0
    assert nest({"loss.alpha": 1, "loss.beta": 2, "table.dim": 4}) == {
        "loss": {"alpha": 1, "beta": 2},
        "table": {"dim": 4},
    }


def test_a_list_of_words_reads_back():
    config = from_mapping(RunConfig(), {"data": {"inputs": ["skips"]}}, "run.yaml")
    assert config.data.inputs == ("skips",)
    assert as_json(config)["data"]["inputs"] == ["skips"]
    assert from_mapping(RunConfig(), as_json(config), "run.yaml") == config
    for wrong, sentence in (
        ("skips", "run.yaml: 'data.inputs' must be a list, not 'skips'"),
        ([["skips"]], "run.yaml: 'data.inputs' must be of type str, not"),
    ):
        with pytest.raises(UserError) as refusal:
            from_mapping(RunConfig(), {"data": {"inputs": wrong}}, "run.yaml")
        assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"train": {"validation_sessions": 9}}, "--train.validation-sessions is called --selection.sessions now"),
        ({"evaluate": {"filter_history": True}}, "--evaluate.filter-history is gone: by `served` the tracks"),
        ({"selection": {"protocol": "uniform"}}, "--selection.protocol uniform is called paper now"),
    ],
)
def test_an_older_versions_name_is_refused_with_the_new_one(fields: dict, sentence: str):
    with pytest.raises(UserError) as refusal:
        from_mapping(RunConfig(), fields, "run.yaml")
    assert str(refusal.value).startswith(f"run.yaml: {sentence}")
