"""The settings of the data pipe. Imports neither torch nor Arrow."""

from dataclasses import dataclass
from typing import Literal

from skipwise.common.errors import UserError

HELD_OUT = {"validation": 2, "test": 1}
"""Which track from the session's end each split predicts; training sees neither."""
MOST_PROFILE = 1000
"""Tracks of a listener's profile."""
_MOST_SKIPPED = 1e6


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a batch is made of it."""

    path: str = "data/sample"
    """Dataset directory, as `prepare` writes it."""
    batch_size: int = 128
    """Sessions of one global batch, over all ranks."""
    negatives: int = 1000
    """Uniform tracks the softmax compares the target with, or all there are; 0 needs --loss.in-batch."""
    sampling: Literal["shared", "per-session"] = "shared"
    """One pool of negatives a batch (collisions masked), or one a session (the paper's text)."""
    heard_negatives: bool = False
    """The tracks read up to a position (cloze: all visible ones), its target left out, are softmax negatives too."""
    skipped_negatives: float = 0.0
    """As how many softmax negatives each track counts that the session skipped before a position's target (0: none).
    Needs --data.targets next-kept. Not --data.skip-negatives, which is of the skip InfoNCE."""
    skip_up_to: Literal[1, 2, 3] = 2
    """Skip strengths 1 up to this count as skipped: 1 very briefly, 2 briefly, 3 mostly played."""
    skip_flags: Literal["recorded", "shuffled", "shuffled-input", "shuffled-label"] = "recorded"
    """`shuffled`: training's skip flags change places within each session (control: what is learned must vanish);
    `shuffled-input`: as --data.inputs has them alone; `shuffled-label`: as the losses have them alone. As input, all
    else that is read of a play changes places with its flag. Of a session of N plays, one keeps its place by chance."""
    skipped_tracks: Literal["read", "filter"] = "read"
    """`filter`: skipped tracks are taken out of every input, and of training's targets, as if never played."""
    inputs: tuple[str, ...] = ()
    """What is read of each past play beside its track: `skips`, what happened to it (kept, strength 1, 2 or 3), and
    context columns of the dataset, by their names."""
    hidden_inputs: float = 0.05
    """Share of training's sessions whose --data.inputs are read as not known, so that a session without them can be;
    of as many, the context columns alone are."""
    profile: int = 0
    """The most tracks that are read of what the session's listener kept in the sessions before, as `prepare --profile`
    keeps it: as a token before the session's tracks, and as a sum added to what is predicted. 0 is without."""
    features: tuple[str, ...] = ()
    """What is known of each track and added to its row: columns of the dataset's features, by their names."""
    id_dropout: float = 0.5
    """With --data.features: share of the tracks of a step that training knows by their features alone; 1 gives no track
    a row of its own."""
    hold_out_tracks: float = 0.0
    """Share of all tracks whose plays training does not see: how well are cold tracks found? They are drawn by their
    places in the vocabulary, the same for every model; figures of those targets are given apart."""
    targets: Literal["next", "next-kept"] = "next"
    """What a position predicts: the next track, or the next one that the listener kept (the paper's h_i)."""
    skip_negatives: Literal["own", "other"] = "own"
    """Whose skipped tracks the skip InfoNCE pushes away: the session's, or those of another one of the batch. Not
    --data.skipped-negatives, which adds negatives to the softmax."""
    lanes: int = 16
    """Stretches of the epoch's order that are read side by side; ranks must divide it, and it the batch size."""
    shuffle_groups: int = 8
    """Row groups (4096 sessions each) whose sessions are mixed with one another."""
    workers: int = 1
    """Threads a rank keeps for reading and drawing; 0 does it between two steps."""
    prefetch: int = 4
    """Batches each worker prepares ahead."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("batch_size", 1, 1 << 20),
            ("negatives", 0, (1 << 63) - 1),
            ("lanes", 1, 1 << 20),
            ("shuffle_groups", 1, (1 << 63) - 1),
            ("profile", 0, MOST_PROFILE),
            ("workers", 0, 1024),
            ("prefetch", 1, 1 << 16),
        ):
            if not least <= getattr(self, name) <= most:
                flag = f"--data.{name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, name)} must lie in {least}..{most}")
        if self.batch_size % self.lanes:
            raise ValueError(
                f"--data.batch-size {self.batch_size} must be a multiple of --data.lanes {self.lanes}: change either"
            )
        for option, names in (("inputs", self.inputs), ("features", self.features)):
            for number, name in enumerate(names):
                if name in names[:number]:
                    raise ValueError(f"--data.{option} names {name} twice: name it once")
        if not 0 <= self.id_dropout <= 1:
            raise ValueError(f"--data.id-dropout {self.id_dropout} must lie in [0, 1]")
        if not 0 <= self.hold_out_tracks < 1:
            raise ValueError(f"--data.hold-out-tracks {self.hold_out_tracks} must lie in [0, 1)")
        if not 0 <= self.hidden_inputs < 1:
            raise ValueError(f"--data.hidden-inputs {self.hidden_inputs} must lie in [0, 1)")
        if not 0 <= self.skipped_negatives <= _MOST_SKIPPED:
            raise ValueError(f"--data.skipped-negatives {self.skipped_negatives} must lie in 0..{_MOST_SKIPPED:g}")
        if self.skipped_negatives and self.targets != "next-kept":
            raise ValueError("--data.skipped-negatives are skipped before the target: set --data.targets next-kept")
        if self.skip_negatives == "other" and self.batch_size == self.lanes:
            raise ValueError("--data.skip-negatives other needs a --data.batch-size above --data.lanes: change either")

    @property
    def borrow_from(self) -> int:
        """Sessions of a group in which each borrows the next one's skips: a lane's, so that ranks change nothing."""
        return self.batch_size // self.lanes if self.skip_negatives == "other" else 0

    def check_world_size(self, world_size: int) -> None:
        """Raises `UserError` for a number of ranks that does not divide the lanes."""
        if self.lanes % world_size:
            batch_size = max(round(self.batch_size / world_size), 1) * world_size
            raise UserError(
                f"{world_size} ranks do not divide --data.lanes {self.lanes}: take another number of ranks, or train "
                f"with --data.lanes {world_size} --data.batch-size {batch_size}"
            )
