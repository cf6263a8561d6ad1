"""Do skips pay: gains by hand over a model without skips, what controls lose, and runs that cannot be compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from skipwise.common.errors import UserError
from skipwise.studies.audit.audit_runs import audit_runs, compare_flags, verdict
from skipwise.studies.audit.run_variants import _NO_FIGURE, SKIP_FIELDS, family
from skipwise.studies.audit.runs_text import runs_markdown, sentences
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten, nest
from skipwise.training.evaluation.records import TargetRankWriter, read_target_ranks
from skipwise.training.run.directory import RunDirectory

SESSIONS = 100
BLIND = {"loss.context": "none", "loss.alpha": 0.0, "loss.beta": 1.0}
REAL = {"data.inputs": ["skips"], "loss.keep": 0.5}
SHUFFLED = REAL | {"data.skip_flags": "shuffled"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., RunDirectory]:
    """A finished run whose sessions have a skipped and then a kept target.

    In `found` of the sessions both are among the first 10, in `kept` more the kept one alone, and in `won` of them the
    ranking has their pair in order; `told`: P(kept) of the kept one, and 1 less that of the skipped one.
    """

    def run(
        name: str,
        config: dict[str, Any] | None = None,
        found: int = 50,
        kept: int = 0,
        won: int = 40,
        told: float | None = None,
        finished: bool = True,
        **record: Any,
    ) -> RunDirectory:
        folder = tmp_path / name
        folder.mkdir()
        content = {
            "schema_version": 2, "recipe": "best", "ranks": 1, "vocabulary_hash": "0" * 64, "data_hash": "1" * 64,
            "counts": {"sessions": 900, "plays": 9000, "tracks": 30}, "rows": 30, "rows_hash": "0" * 64, "versions": {},
        } | record  # fmt: skip
        (folder / "run.json").write_text(json.dumps(content))
        (folder / "config.yaml").write_text(yaml.safe_dump(nest(BLIND | (config or {}))))
        (folder / "metrics.json").write_text(json.dumps({"train": {"epochs": 1}} if finished else {}))
        number = torch.arange(2 * SESSIONS)
        session, skipped = number // 2, number % 2 == 0
        hit = (session < found) | (~skipped & (session < found + kept))
        columns = {
            "session": session,
            "rank": torch.where(hit, 3, 30),
            "position": number % 2 + 1,
            "skips": skipped * 2,
        }
        columns |= {"ties": number * 0, "candidates": number * 0 + 99, "target": number * 0, "repeated": number < 0}
        columns |= {"pairs": skipped * 1, "pairs_won": (skipped & (session < won)) * 1.0}
        if told is not None:
            columns |= {"kept_probability": torch.where(skipped, 1 - told, told), "keep_pairs_won": skipped * 1.0}
        with TargetRankWriter(folder, "served", "test") as records:
            records.write(**columns)
        return RunDirectory.open(str(folder))

    return run


def test_gains_and_what_the_control_loses_by_hand(write):
    runs = [
        write("control", SHUFFLED, won=41, told=0.5),
        write("blind"),
        write("real", REAL, kept=30, won=60, told=0.75),
    ]
    figures = compare_flags(runs)
    sizes = {name: figures[name] for name in ("sessions", "targets", "pairs", "seeds")}
    assert sizes == {"sessions": SESSIONS, "targets": 2 * SESSIONS, "pairs": SESSIONS, "seeds": [0]}
    ((name, row),) = figures["rows"].items()
    ((label, control),) = row["controls"].items()
    assert (name, label) == ("skips read, keep head", "skips read, keep head, flags shuffled")
    gains = {figure: found[0] for figure, found in row["gain"].items()}
    assert gains == pytest.approx(
        {"hr@10": 0.15, "kept_hr@10": 0.3, "skipped_hr@10": 0, "gap_hr@10": 0.3, "pairs_in_order": 0.2}
    )
    assert control["gain"]["pairs_in_order"][0] == pytest.approx(0.01)
    assert control["lost"]["pairs_in_order"][0] == pytest.approx(0.19)
    assert control["lost"]["next_skip_auc"] == pytest.approx([0.5] * 3)
    low, high = row["gain"]["kept_hr@10"][1:]
    assert 0.2 < low < 0.25 and 0.35 < high < 0.4, "a binomial share of .3 of 100 has a standard error of .046"
    assert figures["verdict"] == {
        "gained": ["pairs_in_order", "kept_hr@10"],
        "by_flags": ["pairs_in_order", "kept_hr@10"],
        "controls": 1,
        "cost": 0.0,
    }
    gain, of_control, pays = sentences(figures)
    assert "first in 60.0 % of the cases, 20.0 points more [" in gain and "30.0 points more [" in gain
    assert (
        "with flags shuffled it has 1.0 points more [" in of_control
        and "AUC .500 where true flags reach 1.000" in of_control
    )
    assert pays == (
        "So the skips pay: kept tracks come before skipped ones and more of the tracks that are kept are found, and "
        "the control loses 95 % of that."
    )
    last = sentences(figures | {"best_is_last": ["runs/a"]})[2]
    assert (
        last == f"{pays[:-1]}; but some of these runs ended at their best epoch, and more epochs may change all of it."
    )
    text = runs_markdown(figures)
    assert (
        "| model | `data.skip_flags` | `data.inputs` | `loss.keep` | runs |" in text
        and "| recorded | skips | 0.5 |" in text
    )
    assert "| *less no skips* | *+.1500 [" in text and "| *true flags less these* |" in text


def test_verdicts(write):
    blind = write("blind")
    better = write("better", REAL, won=60)
    same = write("same", SHUFFLED, won=60)
    said = {
        "no gain is surely above zero": [write("as-blind", REAL)],
        "without a control it may not be the skips'": [better],
        "is not the skips': a control may have as much of it": [better, same],
        "the control loses all of that": [better, write("lost", SHUFFLED)],
    }
    for words, runs in said.items():
        assert words in sentences(compare_flags([blind, *runs]))[2]
    costs = write("costs", REAL, found=30, won=60)
    figures = compare_flags([blind, costs, write("c2", SHUFFLED, found=30)])
    assert figures["verdict"]["cost"] == pytest.approx(0.2)
    assert sentences(figures)[2].endswith("but HR@10 falls by 20.0 points: weigh the two.")


def test_a_gain_must_be_sure_and_above_every_control():
    """The interval's lower end decides, of the gain and of what each control loses."""
    row = {"gain": {"hr@10": [-0.01, -0.02, 0.0], "pairs_in_order": [0.1, 0.01, 0.2], "kept_hr@10": [0.1, 0.0, 0.2]}}
    loses, keeps = {"lost": {"pairs_in_order": [0.1, 0.01, 0.2]}}, {"lost": {"pairs_in_order": [0.1, 0.0, 0.2]}}
    for controls, by_flags in (([], []), ([loses], ["pairs_in_order"]), ([loses, keeps], [])):
        found = verdict(row | {"controls": dict(enumerate(controls))})
        assert found["gained"] == ["pairs_in_order"] and found["by_flags"] == by_flags and found["cost"] == 0


def test_rows_are_by_input_objective_and_dial_and_seeds_are_one_row(write):
    runs = []
    for seed in (1, 0):
        for name, config in (
            ("blind", {"loss.keep_dim": 4}),
            ("input", {"data.inputs": ["skips"]}),
            ("dial", REAL | {"evaluate.dial": 2.0}),
            ("label", REAL | {"evaluate.dial": 2.0, "data.skip_flags": "shuffled-label"}),
            ("loss", {"loss.context": "track", "loss.alpha": 0.5, "loss.beta": 0.5}),
        ):
            runs.append(write(f"{name}-{seed}", config | {"train.seed": seed}))
    found = family(runs)
    assert [run.path.name for run in found.blind.runs] == ["blind-0", "blind-1"]
    assert [one.label for one in found.real] == ["skips read, keep head, dial 2", "skips read", "skip loss"]
    assert list(found.real[0].parts) == ["input", "objective", "dial"]
    assert [[one.label for one in controls] for controls in found.controls] == [
        ["skips read, keep head, dial 2, flags shuffled as label"], [], []
    ]  # fmt: skip
    without_control = [run for run in runs if not run.path.name.startswith(("label", "blind"))]
    others = [
        write(f"shuffled-{seed}", {"data.inputs": ["skips"], "data.skip_flags": "shuffled", "train.seed": seed})
        for seed in (0, 1)
    ]
    found = family([*without_control, *others, *runs[:1], *runs[5:6]])
    assert [one.label for one in found.real] == ["skips read", "skips read, keep head, dial 2", "skip loss"]
    assert [len(controls) for controls in found.controls] == [1, 0, 0], "one that has a control comes first"
    figures = compare_flags(runs)
    assert figures["seeds"] == [0, 1] and figures["rows"]["skips read"]["figures"]["hr@10"]["over_seeds"] == 0


def at_dial(run: RunDirectory, won: int, dial: str = "dial-0.5") -> RunDirectory:
    """As `evaluate --dial` leaves it, with so many pairs in order."""
    ranks = vars(read_target_ranks(run.path, "served", "test"))
    columns = {name: torch.from_numpy(values.copy()) for name, values in ranks.items()}
    columns["pairs_won"] = ((columns["pairs"] > 0) & (columns["session"] < won)) * 1.0
    with TargetRankWriter(run.path, dial, "test") as records:
        records.write(**columns)
    return run


def test_a_dial_adds_a_row_with_a_control_of_its_own(write):
    runs = [write("blind"), at_dial(write("real", REAL, won=45), 80), at_dial(write("c", SHUFFLED, won=42), 44)]
    figures = compare_flags(runs, [0.5])
    (name, row), (other, _) = figures["rows"].items()
    assert (name, other) == ("skips read, keep head, dial 0.5", "skips read, keep head")
    ((label, control),) = row["controls"].items()
    assert label == "skips read, keep head, dial 0.5, flags shuffled"
    found = [one["pairs_in_order"][0] for one in (row["gain"], row["turned"], control["turned"], control["lost"])]
    assert found == pytest.approx([0.4, 0.35, 0.02, 0.36])
    assert "| *less their own dial* |" in runs_markdown(figures)
    assert "turned" not in figures["rows"][other]
    with pytest.raises(UserError, match=r"holds no ranks: measure the run with evaluate --run \S*real --dial 2$"):
        compare_flags(runs, [2.0])
    with pytest.raises(UserError, match="no run has one: train one with --loss.keep"):
        compare_flags([runs[0], write("input", {"data.inputs": ["skips"]})], [0.5])


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([{}, {"loss.keep": 0.5, "table.dim": 64}], "table.dim 64, not 128; train both with the same"),
        ([{}, REAL | {"data.skip_up_to": 1}, {"train.epochs": 3}], "train.epochs 3, not 200"),
        ([REAL], "none of the runs is without skips"),
        ([{}], "none of the runs learns from recorded skips"),
        ([{}, SHUFFLED], "none of the runs learns from recorded skips"),
        ([{}, {"loss.keep": 0.5}, SHUFFLED], r"run2 is a control \(--data.skip-flags shuffled\) of no other run"),
        ([{}, REAL, REAL], "run2 and .*run1 are one model with one seed"),
        ([{}, REAL | {"train.seed": 1}], "'skips read, keep head' has the seeds 1, and 'no skips' 0"),
    ],
)
def test_runs_that_say_nothing_of_each_other_are_refused(runs: list[dict], said: str, write):
    with pytest.raises(UserError, match=said):
        compare_flags([write(f"run{number}", config) for number, config in enumerate(runs)])


def test_runs_of_other_data_or_unfinished_or_of_other_targets_are_refused(write):
    blind = write("blind")
    with pytest.raises(UserError, match="different data sets"):
        compare_flags([blind, write("other", REAL, data_hash="2" * 64)])
    with pytest.raises(UserError, match="has not finished training"):
        compare_flags([blind, write("begun", REAL, finished=False)])
    fewer = write("fewer", REAL)
    with TargetRankWriter(fewer.path, "served", "test") as records:
        number = torch.arange(2)
        columns = dict.fromkeys(("session", "rank", "ties", "candidates", "skips", "position", "target"), number)
        records.write(**columns, repeated=number < 0)
    with pytest.raises(UserError, match="was measured on other targets"):
        compare_flags([blind, fewer])


def test_records_without_pairs_are_measured_again_or_said_to_have_none(write, capsys):
    """Of an older version: first the one run's, then the other's, then both."""
    folders = [str(write("blind").path), str(write("real", REAL).path)]
    parts = [Path(folder) / "ranks" / "served-test" / "part-00000.parquet" for folder in folders]
    whole = [pq.read_table(part) for part in parts]
    older = [table.drop_columns(["pairs", "pairs_won"]) for table in whole]
    for number, name in enumerate(("blind", "real")):
        pq.write_table(older[number], parts[number])
        with pytest.raises(
            UserError, match=f"/{name} has records of an older version, without pairs: measure it again"
        ):
            audit_runs(folders, None)
        pq.write_table(whole[number], parts[number])
    for table, part in zip(older, parts, strict=True):
        pq.write_table(table, part)
    audit_runs(folders, None)
    out = capsys.readouterr()
    assert "first in" not in out.out and "the records have no pairs" in out.out + out.err


def test_runs_that_might_have_improved_are_named(write, capsys):
    runs = [write("blind"), write("real", REAL)]
    (runs[1].path / "metrics.json").write_text(json.dumps({"train": {"epochs": 3, "best_epoch": 3}}))
    audit_runs([str(run.path) for run in runs], None)
    said = f"The best epoch is the last one, so that more may be better, of {runs[1].path}: raise --train.epochs"
    assert said in capsys.readouterr().err and said in runs_markdown(compare_flags(runs))
    (runs[1].path / "metrics.json").write_text(json.dumps({"train": {"epochs": 3, "best_epoch": 2}}))
    assert "best epoch" not in runs_markdown(compare_flags(runs))


def test_files_are_written_whole(write, tmp_path: Path, capsys):
    names = [str(write(name, config).path) for name, config in (("a", {}), ("b", REAL), ("c", SHUFFLED))]
    audit_runs(names, str(tmp_path / "made" / "out"))
    output = tmp_path / "made" / "out"
    assert sorted(file.name for file in output.iterdir()) == ["runs.json", "runs.md", "runs.png"]
    said = capsys.readouterr().out.splitlines()
    found = json.loads((output / "runs.json").read_text())
    assert said[:3] == found["sentences"] and found["rows"]["skips read, keep head"]["controls"]
    assert all(f"- {line}" in (output / "runs.md").read_text() for line in said[:3])
    assert (output / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_every_field_is_of_skips_or_of_no_figure_or_compared():
    assert SKIP_FIELDS | _NO_FIGURE < set(flatten(RunConfig())) and not SKIP_FIELDS & _NO_FIGURE
