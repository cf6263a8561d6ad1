"""Ablations: what happens to the paper's models when one thing about the skips, the negatives or the loss changes.

Most start from `shared`, which is `unidir-skip-track` with one pool of negatives a batch: a third of the step's time.
Each names the row that it is compared with; `table --recipes NAME ...` runs them, and `train NAME` any one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from skipwise.components.recipes import paper, recommended
from skipwise.training.config import RunConfig


@dataclass(frozen=True)
class Ablation:
    """A recipe with a question."""

    label: str
    baseline: str
    """The row it is compared with: another ablation, or a recipe."""
    recipe: Callable[[], RunConfig]


def edit(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    """`config` with fields of its sections replaced: `edit(config, loss={"alpha": 4.0})`."""
    return replace(config, **{name: replace(getattr(config, name), **changes) for name, changes in sections.items()})


def shared() -> RunConfig:
    """`unidir-skip-track` with shared negatives."""
    return edit(paper.unidir_skip_track(), data={"sampling": "shared"})


def shared_blind() -> RunConfig:
    """`unidir` with shared negatives."""
    return edit(paper.unidir(), data={"sampling": "shared"})


def shared_bidir() -> RunConfig:
    """`bidir-skip-track` with shared negatives."""
    return edit(paper.bidir_skip_track(), data={"sampling": "shared"})


def _changed(start: Callable[[], RunConfig], **sections: dict[str, Any]) -> Callable[[], RunConfig]:
    return lambda: edit(start(), **sections)


ABLATIONS: dict[str, Ablation] = {
    # The control: with flags that tell nothing, nothing must be gained over the skip-blind model.
    "shuffled-context": Ablation(
        "S+, c = ŷ, flags shuffled",
        "unidir",
        _changed(paper.unidir_skip_context, data={"skip_flags": "shuffled"}),
    ),
    "shuffled-track": Ablation(
        "S+, c = e, flags shuffled", "unidir", _changed(paper.unidir_skip_track, data={"skip_flags": "shuffled"})
    ),
    "shared-blind": Ablation("S-, shared negatives", "unidir", shared_blind),
    "shared": Ablation("S+, c = e, shared negatives", "shared-blind", shared),
    "filter": Ablation(
        "S-, skipped tracks taken out", "shared-blind", _changed(shared_blind, data={"skipped_tracks": "filter"})
    ),
    "strength-1": Ablation("skipped is strength 1", "shared", _changed(shared, data={"skip_up_to": 1})),
    "strength-3": Ablation("skipped is strength 1, 2, 3", "shared", _changed(shared, data={"skip_up_to": 3})),
    "other-sessions": Ablation(
        "skips of another session", "shared", _changed(shared, data={"skip_negatives": "other"})
    ),
    "kept-queries": Ablation("queries at kept positions only", "shared", _changed(shared, loss={"queries": "kept"})),
    "temperature-0.1": Ablation("temperature 0.1", "shared", _changed(shared, loss={"temperature": 0.1})),
    "alpha-1": Ablation("alpha 1", "shared", _changed(shared, loss={"alpha": 1.0})),
    "alpha-4": Ablation("alpha 4", "shared", _changed(shared, loss={"alpha": 4.0})),
    "negatives-100": Ablation("100 negatives", "shared", _changed(shared, data={"negatives": 100})),
    "negatives-4000": Ablation("4000 negatives", "shared", _changed(shared, data={"negatives": 4000})),
    "session-negatives-100": Ablation(
        "100 negatives a session", "unidir-skip-track", _changed(paper.unidir_skip_track, data={"negatives": 100})
    ),
    "session-negatives-4000": Ablation(
        "4000 negatives a session", "unidir-skip-track", _changed(paper.unidir_skip_track, data={"negatives": 4000})
    ),
    "in-batch": Ablation(
        "in-batch negatives, log-q", "shared", _changed(shared, data={"negatives": 0}, loss={"in_batch": True})
    ),
    "mixed": Ablation("1000 uniform and in-batch, log-q", "shared", _changed(shared, loss={"in_batch": True})),
    # Against the skip-blind row: gBCE is a hundredth of the softmax in size, and any alpha would drown it.
    "gbce": Ablation("gBCE", "shared-blind", _changed(shared_blind, loss={"head": "gbce"})),
    "length-10": Ablation("last 10 tracks read", "shared", _changed(shared, encoder={"max_length": 10})),
    "length-5": Ablation("last 5 tracks read", "shared", _changed(shared, encoder={"max_length": 5})),
    "bidir-shared": Ablation("Bidir S+, c = e, shared negatives", "bidir-skip-track", shared_bidir),
    "mask-0.1": Ablation("cloze 0.1", "bidir-shared", _changed(shared_bidir, encoder={"mask_probability": 0.1})),
    "mask-0.4": Ablation("cloze 0.4", "bidir-shared", _changed(shared_bidir, encoder={"mask_probability": 0.4})),
    # For sequences of up to 200, as ratings data has them.
    **{
        f"long-{length}": Ablation(
            f"last {length} tracks read", "long", _changed(recommended.long, encoder={"max_length": length})
        )
        for length in (20, 50, 100)
    },
}
