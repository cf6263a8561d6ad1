"""Ablations: what happens to the paper's models when one thing about the skips, the negatives or the loss changes.

Most start from `shared`, which is `unidir-skip-track` with one pool of negatives a batch: a third of the step's time.
`table --recipes NAME ...` runs them, and `train NAME` any one of them.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ablation:
    """A recipe with a question."""

    label: str
    baseline: str
    """The row it is compared with: another ablation, or a recipe."""
    changes: dict[str, dict[str, Any]]
    """By section: the fields in which it differs from the baseline."""


_SKIP_LOSS = {"alpha": 0.5, "beta": 0.5}
MSSD_CONTEXT = ("context_type", "hour_of_day", "premium", "shuffle", "reason_start", "reason_end")
_KEEP = {"loss": {"keep": 0.5}}


def _length(baseline: str, length: int) -> Ablation:
    return Ablation(f"last {length} tracks read", baseline, {"encoder": {"max_length": length}})


def _encoder(label: str, name: str, **changes: Any) -> dict[str, Ablation]:
    """An encoder without and with the skip loss."""
    return {
        f"{name}-blind": Ablation(f"S-, {label}", "shared-blind", {"encoder": changes}),
        name: Ablation(f"S+, c = e, {label}", f"{name}-blind", {"loss": {"context": "track"} | _SKIP_LOSS}),
    }


ABLATIONS: dict[str, Ablation] = {
    # The control: with shuffled flags nothing must be gained over the skip-blind model.
    "shuffled-context": Ablation(
        "S+, c = ŷ, flags shuffled",
        "unidir",
        {"data": {"skip_flags": "shuffled"}, "loss": {"context": "output"} | _SKIP_LOSS},
    ),
    "shuffled-track": Ablation(
        "S+, c = e, flags shuffled",
        "unidir",
        {"data": {"skip_flags": "shuffled"}, "loss": {"context": "track"} | _SKIP_LOSS},
    ),
    # The paper's question at a sharper temperature, and with repeats of a track as negatives of themselves.
    "context-temperature-0.1": Ablation(
        "S+, c = ŷ, temperature 0.1", "unidir", {"loss": {"context": "output", "temperature": 0.1} | _SKIP_LOSS}
    ),
    "track-temperature-0.1": Ablation(
        "S+, c = e, temperature 0.1", "unidir", {"loss": {"context": "track", "temperature": 0.1} | _SKIP_LOSS}
    ),
    "track-repeats": Ablation(
        "S+, c = e, repeats not masked", "unidir", {"loss": {"context": "track", "mask_repeats": False} | _SKIP_LOSS}
    ),
    "track-repeats-0.1": Ablation(
        "S+, c = e, repeats not masked, temperature 0.1",
        "unidir",
        {"loss": {"context": "track", "mask_repeats": False, "temperature": 0.1} | _SKIP_LOSS},
    ),
    "shared-blind": Ablation("S-, shared negatives", "unidir", {"data": {"sampling": "shared"}}),
    "shared": Ablation("S+, c = e, shared negatives", "shared-blind", {"loss": {"context": "track"} | _SKIP_LOSS}),
    "filter": Ablation("S-, skipped tracks taken out", "shared-blind", {"data": {"skipped_tracks": "filter"}}),
    "strength-1": Ablation("skipped is strength 1", "shared", {"data": {"skip_up_to": 1}}),
    "strength-3": Ablation("skipped is strength 1, 2, 3", "shared", {"data": {"skip_up_to": 3}}),
    "other-sessions": Ablation("skips of another session", "shared", {"data": {"skip_negatives": "other"}}),
    "heard-negatives": Ablation("heard tracks as negatives", "shared", {"data": {"heard_negatives": True}}),
    # Skips as input, as what is learned, and both; with shuffled flags the gain must vanish.
    "relative-blind": Ablation("S-, relative positions", "shared-blind", {"encoder": {"positions": "relative"}}),
    "inputs": Ablation("skips read", "relative-blind", {"data": {"inputs": ("skips",)}}),
    "keep": Ablation("keep head", "relative-blind", {"loss": {"keep": 0.5}}),
    "inputs-keep": Ablation("skips read, keep head", "relative-blind", {"data": {"inputs": ("skips",)}} | _KEEP),
    "context": Ablation("context read as well", "inputs-keep", {"data": {"inputs": ("skips", *MSSD_CONTEXT)}}),
    "shuffled-input": Ablation("shuffled as input", "inputs-keep", {"data": {"skip_flags": "shuffled-input"}}),
    "shuffled-label": Ablation("shuffled as label", "inputs-keep", {"data": {"skip_flags": "shuffled-label"}}),
    "next-kept": Ablation("next kept track as target", "inputs-keep", {"data": {"targets": "next-kept"}}),
    "skipped-negatives": Ablation(
        "skipped tracks as negatives of the next kept one", "next-kept", {"data": {"skipped_negatives": 1.0}}
    ),
    # What the follow-up adds (arXiv 2409.07367), to models that read and learn skips.
    "output-contrast": Ablation("InfoNCE, c = ŷ", "inputs-keep", {"loss": {"context": "output", "alpha": 0.5}}),
    "session-contrast": Ablation("InfoNCE, c = e", "next-kept", {"loss": {"context": "track", "alpha": 0.5}}),
    "kept-queries": Ablation("queries at kept positions only", "shared", {"loss": {"queries": "kept"}}),
    "temperature-0.1": Ablation("temperature 0.1", "shared", {"loss": {"temperature": 0.1}}),
    "alpha-1": Ablation("alpha 1", "shared", {"loss": {"alpha": 1.0}}),
    "alpha-4": Ablation("alpha 4", "shared", {"loss": {"alpha": 4.0}}),
    "negatives-100": Ablation("100 negatives", "shared", {"data": {"negatives": 100}}),
    "negatives-4000": Ablation("4000 negatives", "shared", {"data": {"negatives": 4000}}),
    "session-negatives-100": Ablation("100 negatives a session", "unidir-skip-track", {"data": {"negatives": 100}}),
    "session-negatives-4000": Ablation("4000 negatives a session", "unidir-skip-track", {"data": {"negatives": 4000}}),
    "in-batch": Ablation("in-batch negatives, log-q", "shared", {"data": {"negatives": 0}, "loss": {"in_batch": True}}),
    "mixed": Ablation("1000 uniform and in-batch, log-q", "shared", {"loss": {"in_batch": True}}),
    "mixed-exact": Ablation("uniform and in-batch, log-q of negatives", "mixed", {"loss": {"log_q": "negatives"}}),
    "hardest-100": Ablation("the 100 hardest negatives", "shared", {"loss": {"hardest": 100}}),
    "gbce": Ablation("gBCE", "shared-blind", {"loss": {"head": "gbce"}}),
    # Whether the skip loss fits any encoder.
    **_encoder("norms first", "norm-first", norm_first=True),
    **_encoder("LiGR", "ligr", kind="ligr"),
    **_encoder("HSTU", "hstu", kind="hstu", positions="relative"),
    **_encoder("GRU", "gru", kind="gru", positions="none"),
    **_encoder("NextItNet", "nextitnet", kind="nextitnet", positions="none"),
    "length-10": _length("shared", 10),
    "length-5": _length("shared", 5),
    "bidir-shared": Ablation("Bidir S+, c = e, shared negatives", "bidir-skip-track", {"data": {"sampling": "shared"}}),
    "mask-0.1": Ablation("cloze 0.1", "bidir-shared", {"encoder": {"mask_probability": 0.1}}),
    "mask-0.4": Ablation("cloze 0.4", "bidir-shared", {"encoder": {"mask_probability": 0.4}}),
    # For sequences of up to 200, as ratings data has them, by how much is read and in which direction.
    **{f"long-{length}": _length("long", length) for length in (10, 20, 50, 100)},
    **{
        f"bidir-{name}": Ablation(f"cloze, {name}", name, {"encoder": {"direction": "bidirectional"}})
        for name in ("long-10", "long-20", "long-50", "long-100", "long")
    },
}
