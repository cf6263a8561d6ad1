"""What runs do with skips, and which of them may be compared: the model without skips, with them, and the controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skipwise.common.errors import UserError
from skipwise.datapipes.signals import SKIPS
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.start import FREE_TO_CHANGE

FLAGS = "data.skip_flags"
SKIP_FIELDS = {
    "data.inputs",
    "data.hidden_inputs",
    "data.skipped_tracks",
    "data.skip_up_to",
    "data.targets",
    "data.skip_negatives",
    "data.skipped_negatives",
    "loss.context",
    "loss.alpha",
    "loss.beta",
    "loss.temperature",
    "loss.queries",
    "loss.mask_repeats",
    "loss.keep",
    "loss.keep_dim",
    "loss.keep_dropout",
    "evaluate.dial",
    FLAGS,
}
"""Fields in which the runs of an audit may differ; of `data.inputs` in the skips alone."""
_NO_FIGURE = {*FREE_TO_CHANGE, "train.seed"} - {"table.sharding"}
"""Fields that change no figure, and the seed; runs of one sharding are compared."""


@dataclass(frozen=True)
class Variant:
    """Runs of one config, by ascending seed."""

    runs: tuple[RunDirectory, ...]
    measured_at: float | None = None
    """A setting of the dial that `evaluate --dial` measured them at; None: what their config says."""

    @property
    def dial(self) -> float:
        """What the logit of P(kept) weighs in its ranking."""
        return self.config.evaluate.dial if self.measured_at is None else self.measured_at

    @property
    def config(self) -> RunConfig:
        """The first run's."""
        return self.runs[0].config

    @property
    def parts(self) -> dict[str, list[str]]:
        """What it does with skips, in words, by where: `input`, `objective` and `dial`; empty without skips."""
        data, loss = self.config.data, self.config.loss
        found = {
            "input": [
                *["skips read"] * (SKIPS in data.inputs),
                *["skipped tracks taken out"] * (data.skipped_tracks == "filter"),
            ],
            "objective": [
                *["skip loss"] * (loss.context != "none" and loss.alpha > 0),
                *["keep head"] * (loss.keep > 0),
                *["next kept track as target"] * (data.targets == "next-kept"),
                *["skipped tracks as negatives"] * (data.skipped_negatives > 0),
            ],
            "dial": [f"dial {self.dial:g}"] * (self.dial > 0),
        }
        return {name: words for name, words in found.items() if words}

    @property
    def is_control(self) -> bool:
        """It learned from shuffled flags."""
        return bool(self.parts) and self.config.data.skip_flags != "recorded"

    @property
    def label(self) -> str:
        """In words."""
        flags = self.config.data.skip_flags.replace("-", " as ")
        words = [word for part in self.parts.values() for word in part]
        return ", ".join(words + [f"flags {flags}"] * self.is_control) or "no skips"

    def settings(self) -> dict[str, Any]:
        """The fields about skips."""
        found = {path: value for path, value in flatten(self.config).items() if path in SKIP_FIELDS}
        return found | {"evaluate.dial": self.dial}


@dataclass(frozen=True)
class Family:
    """The runs of an audit."""

    blind: Variant
    """Without skips: what a gain is over."""
    real: tuple[Variant, ...]
    """With recorded flags: those that have controls first, and of these the one that uses most: the one asked about."""
    controls: tuple[tuple[Variant, ...], ...]
    """For each of `real`, the same with shuffled flags."""


def family(runs: Sequence[RunDirectory], dials: Sequence[float] = ()) -> Family:
    """Sorts runs by what they do with skips; those with a keep head are there at each of `dials` too.

    Raises `UserError` for runs that say nothing of each other.
    """
    first = runs[0]
    for run in runs:
        if not run.finished:
            raise UserError(f"{run.path} has not finished training: train it to its end")
        if unlike := _unlike(first, run):
            raise UserError(f"{run.path} cannot be audited beside {first.path}: {unlike}")
    variants = _variants(runs)
    heads = [variant for variant in variants if variant.config.loss.keep]
    if dials and not heads:
        raise UserError("--dial turns the ranking by a keep head, and no run has one: train one with --loss.keep")
    variants += [Variant(one.runs, dial) for one in heads for dial in sorted(set(dials)) if dial != one.dial]
    blind = [variant for variant in variants if not variant.parts]
    real = [variant for variant in variants if variant.parts and not variant.is_control]
    if not blind:
        raise UserError(
            "none of the runs is without skips, and a gain is over such a run: train one with the settings of "
            f"{first.path} but without '{Variant((first,)).label}', and name it too"
        )
    if not real:
        raise UserError(
            "none of the runs learns from recorded skips: train one with the settings of "
            f"{blind[0].runs[0].path} and, for example, --data.inputs skips --loss.keep 0.5, and name it too"
        )
    controls: dict[int, list[Variant]] = {number: [] for number in range(len(real))}
    for control in (variant for variant in variants if variant.is_control):
        of = [number for number, one in enumerate(real) if _but_flags(one) == _but_flags(control)]
        if not of:
            raise UserError(
                f"{control.runs[0].path} is a control (--data.skip-flags {control.config.data.skip_flags}) of no other "
                "run: name the one that has its settings and --data.skip-flags recorded too"
            )
        controls[of[0]].append(control)
    # Stable: of equal ones the first that was named.
    order = sorted(controls, key=lambda number: (not controls[number], -len(real[number].parts)))
    return Family(blind[0], tuple(real[number] for number in order), tuple(tuple(controls[number]) for number in order))


def _variants(runs: Sequence[RunDirectory]) -> list[Variant]:
    groups: dict[str, dict[int, RunDirectory]] = {}
    for run in runs:
        one = Variant((run,))
        seeds = groups.setdefault(str(one.settings()) if one.parts else "", {})
        if (other := seeds.setdefault(run.config.train.seed, run)) is not run:
            raise UserError(f"{run.path} and {other.path} are one model with one seed: leave either out")
    variants = [Variant(tuple(run for _, run in sorted(seeds.items()))) for seeds in groups.values()]
    first = {run.config.train.seed for run in variants[0].runs}
    for variant in variants[1:]:
        own = {run.config.train.seed for run in variant.runs}
        if own != first:
            raise UserError(
                f"'{variant.label}' has the seeds {_list(own)}, and '{variants[0].label}' {_list(first)}: "
                "name runs of the same seeds"
            )
    return variants


def _unlike(first: RunDirectory, other: RunDirectory) -> str:
    """Why two runs differ in more than skips, and what to do; empty where they do not."""
    if not first.record.is_same(other.record):
        return "the runs were trained on different data sets, or different splits of one; train both on one"
    theirs = flatten(other.config)
    for path, value in flatten(first.config).items():
        found = theirs[path]
        if path == "data.inputs":
            value, found = (tuple(name for name in names if name != SKIPS) for names in (value, found))
        elif path in SKIP_FIELDS or path in _NO_FIGURE:
            continue
        if value != found:
            return f"its config has {path} {found or '(none)'}, not {value or '(none)'}; train both with the same"
    return ""


def _but_flags(variant: Variant) -> dict[str, Any]:
    return variant.settings() | {FLAGS: ""}


def _list(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
