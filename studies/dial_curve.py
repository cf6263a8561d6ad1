"""What each setting of the dial costs and gains, with intervals, and which one `auto` is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.skip_figures import HITS, LABELS, differences, figures_of, hit_values, skip_values
from skipwise.training.build import HeldOut
from skipwise.training.config import RunConfig, Split
from skipwise.training.evaluation.dialled_ranks import rank_at_dials
from skipwise.training.evaluation.evaluator import measurable
from skipwise.training.evaluation.records import TargetRanks

DIALS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
COST = 0.003
"""The most of HR@10 that the dial `auto` costs."""
_FEWEST, _MOST, _SCORES = 5000, 20_000, 2_000_000_000
"""Targets that a curve is measured at, and the scores of a setting that their number is to stay within."""
METRICS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10")
FIGURES = HITS | {name: LABELS[name] for name in ("pairs_in_order", "listed_skips")}
"""Figures that have intervals, and their names in tables."""

Rows = dict[float, dict[str, Any]]
"""By setting: `figures`, and over another setting `difference`, each [mean, low, high]; and `metrics`."""


@dataclass(frozen=True)
class Curve:
    """What was measured of a model."""

    rows: Rows
    """By rising setting, differences to 0, the first."""
    auto: float
    targets: int
    split: Split

    @property
    def gained(self) -> str:
        """The figure by which `auto` was chosen."""
        return gained(self.rows)


def measure_curve(config: RunConfig, store: SessionStore, model: DistributedModelParallel) -> Curve:
    """At 5,000 to 20,000 targets of sessions that the weights were not trained on; equal on every rank.

    Needs a keep head.
    """
    split, counts = measurable(config)[0], store.manifest.counts
    held_out = HeldOut.of(config.evaluate, store, split)
    a_session = max(counts["plays"] / counts["sessions"] - 1, 1) if held_out.targets == "all" else 1
    targets = min(max(_SCORES // store.num_tracks, _FEWEST), _MOST)
    found = rank_at_dials(config, model, held_out, split, max(int(targets / a_session), 1), DIALS)
    rows = compare_dials(found, 0.0)
    return Curve(rows, gaining_most(rows), len(found[0.0].session), split)


def compare_dials(found: Mapping[float, TargetRanks], base: float) -> Rows:
    """The figures of each setting, and of all but `base` how they differ from those, paired by session."""
    values = {
        dial: {
            name: values_M[None]
            for name, values_M in (hit_values(ranks) | skip_values(ranks)).items()
            if name in FIGURES
        }
        for dial, ranks in found.items()
    }
    return {
        dial: {
            "metrics": {name: float(np.mean(ranks.values(name))) for name in METRICS},
            "figures": figures_of(values[dial]),
        }
        | ({} if dial == base else {"difference": differences(values[dial], values[base])})
        for dial, ranks in found.items()
    }


def gained(rows: Rows) -> str:
    """The figure that a dial is to raise: pairs in order, or HR@10 of kept over skipped targets where no pairs are."""
    return "pairs_in_order" if "pairs_in_order" in next(iter(rows.values()))["figures"] else "gap_hr@10"


def gaining_most(rows: Rows) -> float:
    """The setting that gains most over 0, of those that surely gain and cost at most `COST` of HR@10; else 0.

    Sure is a gain whose 95 % interval over sessions, paired, lies above zero. Of equal gains the lowest setting.
    """
    nothing = [0.0, 0.0, 0.0]
    gain = {dial: row.get("difference", {}).get(gained(rows), nothing) for dial, row in rows.items()}
    # The figures are quotients of whole numbers: what is exactly at the limit may be a little below it.
    cheap = [dial for dial, row in rows.items() if row.get("difference", {}).get("hr@10", nothing)[0] >= -COST - 1e-9]
    return max((dial for dial in cheap if gain[dial][1] > 0), key=lambda dial: round(gain[dial][0], 12), default=0.0)
