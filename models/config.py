"""The settings of the model: table, encoder and losses. Imports neither torch nor TorchRec."""

import math
from dataclasses import dataclass
from typing import Literal

_MOST = {"max_length": 1 << 16, "blocks": 1 << 10, "heads": 1 << 10, "hidden": 1 << 16}
"""Larger values would exhaust the memory before the first step."""
_WIDEST = 1 << 14
_GPU_ONLY = ("adam", "partial_rowwise_adam")
MAX_DIAL = 100.0
"""At which P(kept) decides nearly alone."""
KERNEL = 3
"""Tracks that a dilated convolution reads."""
STATE = 32
"""Width of the keep head's recurrent state."""
TIMES = 33
"""Buckets of the times between two plays."""


@dataclass(frozen=True)
class TableConfig:
    """Size, sharding and optimizer of the track table."""

    dim: int = 128
    """Width of a row; a multiple of 4 (FBGEMM) and of the encoder's heads."""
    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd", "adam", "partial_rowwise_adam"] = "rowwise_adagrad"
    """Fused FBGEMM optimizer; the two Adams need a GPU."""
    learning_rate: float = 0.05
    eps: float = 1e-8
    """Added to the optimizer's denominator."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """What a row's numbers are kept in; fp16 halves the table's memory. The optimizer's state, lookups and gradients
    are float32. On a GPU updates are rounded stochastically, on a CPU to the nearest number."""
    exchange: Literal["fp32", "half"] = "fp32"
    """What ranks send each other of the table: rows and their gradients as float32, or in half the bytes, rows as
    float16 and gradients, which may be too small for that, as bfloat16."""
    sharding: Literal["row_wise", "column_wise", "table_wise", "grid", "planner"] = "row_wise"
    """How the table is split over ranks: blocks of rows, of columns, all on rank 0, blocks of columns over nodes and in
    each of rows over its ranks, or by TorchRec's planner."""
    init_bound: float = 0.02
    """Rows start as a normal of this deviation, truncated at plus and minus this bound (paper: 0.02)."""

    def __post_init__(self) -> None:
        if not 4 <= self.dim <= _WIDEST or self.dim % 4:
            raise ValueError(f"--table.dim {self.dim} must be a positive multiple of 4, at most {_WIDEST}")
        for name in ("learning_rate", "eps", "init_bound"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--table.{name.replace('_', '-')} must be positive")

    def check_device(self, device: str) -> None:
        """Raises `ValueError` where `device` ("cpu", "cuda") lacks the optimizer.

        docs/architecture.md, "Facts about this stack".
        """
        if device == "cpu" and self.optimizer in _GPU_ONLY:
            raise ValueError(
                f"--table.optimizer {self.optimizer} needs a GPU: choose rowwise_adagrad, adagrad or sgd on CPU"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of each of a row's numbers."""
        return 2 if self.precision == "fp16" else 4

    def blocks(self, world_size: int, num_nodes: int = 1) -> tuple[int, int]:
        """In how many blocks of rows and of columns the table is split; its first ranks hold one block each.

        Column blocks are of equal width, a multiple of 4. `num_nodes`: over which `grid` splits the columns; raises
        `ValueError` where that is not possible.
        """
        if self.sharding == "column_wise":
            return 1, max(n for n in range(1, world_size + 1) if self.dim % n == 0 and (self.dim // n) % 4 == 0)
        if self.sharding == "grid":
            if world_size % num_nodes or self.dim % (4 * num_nodes):
                raise ValueError(
                    f"--table.sharding grid splits rows of {self.dim} numbers over {num_nodes} nodes into blocks of a "
                    "multiple of 4: choose another number of nodes, another --table.dim or --loss.keep-dim, or row_wise"
                )
            return world_size // num_nodes, num_nodes
        return 1 if self.sharding == "table_wise" else world_size, 1


def row_block(num_rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """(first, last) of a rank's rows under row-wise sharding: blocks of ceil(num_rows / world_size)."""
    block = math.ceil(num_rows / world_size)
    return min(rank * block, num_rows), min((rank + 1) * block, num_rows)


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and regularization of the encoder."""

    direction: Literal["unidirectional", "bidirectional"] = "unidirectional"
    """Which positions a position sees: those before it, or all (trained by cloze)."""
    kind: Literal["transformer", "ligr", "hstu", "gru", "nextitnet"] = "transformer"
    """The blocks: a transformer's (the paper); with gated residuals and SwiGLU (LiGR, arXiv 2502.03417; eSASRec, arXiv
    2508.06450); HSTU (arXiv 2402.17152); a recurrent network (GRU4Rec, arXiv 1511.06939); or dilated convolutions
    (NextItNet, arXiv 1808.05163)."""
    max_length: int = 20
    """Longest session, in positions; the bidirectional mask token counts as one of them."""
    positions: Literal["learned", "relative", "none"] = "learned"
    """How order is encoded: a learned vector a position (the paper), or a learned bias a head and distance between two
    positions (Shaw et al., arXiv 1803.02155; as a bias: Raffel et al., arXiv 1910.10683), or by the blocks alone."""
    times: bool = False
    """A learned bias a head and time between two plays, as far as --data.inputs pause tells it (HSTU's)."""
    blocks: int = 2
    heads: int = 8
    """Of attention: kinds `transformer`, `ligr` and `hstu`."""
    hidden: int = 128
    """Inner width of a block's feed-forward layer, or of `gru`; `hstu` and `nextitnet` have none."""
    dropout: float = 0.2
    """Share of activations dropped in training, in [0, 1). Each rank draws masks of its own."""
    track_dropout: float = 0.0
    """Share of the tracks read that training hides from the encoder, each whole, in [0, 1)."""
    norm_first: bool = False
    """Kind `transformer`: normalize before each sub-layer instead of after it, and once more at the end."""
    prediction: Literal["gelu", "linear", "none"] = "gelu"
    """What stands between the last block and the scores: a linear layer and a GELU (the paper), whose values are hardly
    ever negative, a linear layer alone, or nothing."""
    mask_probability: float = 0.2
    """Bidirectional only: share of positions masked in training (paper: 0.2)."""

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"--encoder.{name.replace('_', '-')} {getattr(self, name)} must lie in 1..{most}")
        for name in ("dropout", "track_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--encoder.{name.replace('_', '-')} {getattr(self, name)} must lie in [0, 1)")
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"--encoder.mask-probability {self.mask_probability} must lie between 0 and 1")
        if self.kind != "transformer" and self.norm_first:
            raise ValueError(
                f"--encoder.norm-first is of --encoder.kind transformer, and {self.kind} has norms at places of its "
                "own: add --encoder.no-norm-first"
            )
        if not self.attends and self.direction == "bidirectional":
            raise ValueError(
                f"--encoder.kind {self.kind} reads a session in one direction: set --encoder.direction unidirectional"
            )
        if not self.attends and self.positions == "relative":
            raise ValueError(
                f"--encoder.positions relative is a bias of attention, which --encoder.kind {self.kind} has not: set "
                "--encoder.positions none or learned"
            )
        if not self.attends and self.times:
            raise ValueError(
                f"--encoder.times is a bias of attention, which --encoder.kind {self.kind} has not: add "
                "--encoder.no-times, or take transformer, ligr or hstu"
            )

    @property
    def attends(self) -> bool:
        """Whether the blocks have attention, and with it heads."""
        return self.kind in ("transformer", "ligr", "hstu")

    @property
    def ends_with_norm(self) -> bool:
        """Whether a norm follows the last block: blocks that normalize first leave their last sum as it is."""
        return self.norm_first or self.kind in ("ligr", "hstu")

    @property
    def appended_positions(self) -> int:
        """Positions appended to a session's tracks to predict the next one: a bidirectional encoder's mask token."""
        return int(self.direction == "bidirectional")

    @property
    def max_tracks(self) -> int:
        """The most tracks of a session that are read to predict the next one."""
        return self.max_length - self.appended_positions

    def num_weights(self, dim: int, keep_dim: int = 0, reads_signals: bool = False, profile: int = 0) -> int:
        """Numbers of `skipwise.models.encoder.Encoder`'s weights over rows of width `dim`."""
        order = {
            "learned": self.max_length * dim,
            "relative": self.blocks * self.heads * (2 * self.max_length - 1),
            "none": 0,
        }[self.positions]
        square, hidden = dim * dim + dim, self.hidden
        block = {
            # Queries, keys, values and their merge; two norms; feed-forward, with two gates of residuals in `ligr`.
            "transformer": 4 * square + 4 * dim + 2 * dim * hidden + dim + hidden,
            "ligr": 4 * square + 4 * dim + 3 * dim * hidden + 2 * square,
            "hstu": 5 * square + 4 * dim,
            "gru": 3 * hidden * (dim + hidden + 2) + hidden * dim + dim,
            "nextitnet": 2 * (KERNEL * dim * dim + dim + 2 * dim),
        }[self.kind]
        prediction = square * (self.prediction != "none") + 2 * dim * self.ends_with_norm
        if keep_dim:
            prediction += (dim + 1) * (keep_dim + 1)
            if reads_signals:
                prediction += 3 * STATE * (dim + STATE + 2) + STATE * (keep_dim + 1)
        prediction += (square + 2 * profile) * bool(profile)
        order += self.times * self.blocks * self.heads * TIMES
        return order + self.appended_positions * dim + 2 * dim + self.blocks * block + prediction

    def num_activations(self, sessions: int, positions: int, dim: int) -> int:
        """Numbers that the blocks keep of padded sessions for backward, at least, with attention's dropout mask."""
        padded = sessions * positions
        if self.attends:
            scores = padded * positions * self.heads
            projected = 4 if self.kind == "hstu" else 3
            buckets = padded * positions // 4 * self.times  # of a byte each
            return self.blocks * (projected * padded * dim + scores) + (scores if self.dropout else 0) + buckets
        return self.blocks * padded * (dim + 4 * self.hidden if self.kind == "gru" else 4 * dim)


@dataclass(frozen=True)
class LossConfig:
    """Loss = alpha * InfoNCE over skips + beta * next-track head (Seshadri & Knees, arXiv 2309.11623, section 3).

    The defaults are the paper's losses.
    """

    context: Literal["none", "output", "track"] = "track"
    """What kept and skipped tracks are compared with: nothing (skip-blind), the encoder's output, or a track's row."""
    alpha: float = 0.5
    """Weight of the skip InfoNCE."""
    beta: float = 0.5
    """Weight of the next-track head."""
    temperature: float = 1.0
    """Divides the InfoNCE's cosines."""
    queries: Literal["all", "kept"] = "all"
    """Positions the InfoNCE starts from: all, or kept tracks alone (ablation)."""
    mask_repeats: bool = True
    """InfoNCE: the positive's track, and the query's with context `track`, are no negatives of a position."""
    head: Literal["softmax", "gbce"] = "softmax"
    """Sampled softmax, or gBCE (Petrov & Macdonald, "gSASRec", RecSys 2023, arXiv 2308.07192)."""
    keep: float = 0.0
    """Weight of the keep head, which learns P(kept | session, track) of every next track; 0 is without."""
    keep_dim: int = 16
    """Columns of a track's row that are the keep head's; a multiple of 4."""
    keep_dropout: float = 0.5
    """Share of those columns, and of the encoder's output as the keep head reads it, dropped in training, in [0, 1)."""
    calibration: float = 0.75
    """gBCE's t: 0 is plain binary cross-entropy, 1 undoes all the overconfidence of sampling (gSASRec takes 0.75)."""
    in_batch: bool = False
    """Softmax: the targets of the global batch are negatives too, all with log-q correction (Yi et al., RecSys 2019;
    with uniform ones besides, Yang et al., WWW 2020 companion). --data.negatives 0 leaves the targets alone."""
    log_q: Literal["all", "negatives"] = "all"
    """In-batch: the logits that are corrected: the target's too, or the negatives' alone, since a position's target is
    always there and not drawn (Khrylchenko et al., RecSys 2025, arXiv 2507.09331)."""
    hardest: int = 0
    """Softmax: of a position's drawn negatives, as many with the highest logits are learned from (Wilm et al., "TRON",
    RecSys 2023, arXiv 2307.14906); 0 takes all."""

    def __post_init__(self) -> None:
        if not self.keep >= 0 or not 4 <= self.keep_dim <= 1024 or self.keep_dim % 4:
            raise ValueError("--loss.keep must not be negative, and --loss.keep-dim a multiple of 4, 4 to 1024")
        if not 0 <= self.keep_dropout < 1:
            raise ValueError(f"--loss.keep-dropout {self.keep_dropout} must lie in [0, 1)")
        if self.alpha < 0 or self.beta < 0 or self.alpha + self.beta == 0:
            raise ValueError("--loss.alpha and --loss.beta must not be negative, nor both zero")
        if not self.temperature > 0:
            raise ValueError(f"--loss.temperature {self.temperature} must be positive")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"--loss.calibration {self.calibration} must lie in [0, 1]")
        if self.keep and self.beta == 0:
            raise ValueError("--loss.keep stands beside the next-track head: --loss.beta must be above zero")
        if self.head == "gbce" and self.in_batch:
            raise ValueError("--loss.head gbce takes uniform negatives: leave --loss.in-batch out, or take softmax")
        if self.log_q == "negatives" and not self.in_batch:
            raise ValueError("--loss.log-q negatives corrects targets of the batch: set --loss.in-batch")
        if self.hardest < 0:
            raise ValueError(f"--loss.hardest {self.hardest} must not be negative")
        if self.hardest and self.head == "gbce":
            raise ValueError(f"--loss.hardest {self.hardest} needs --loss.head softmax")

    @property
    def keep_width(self) -> int:
        """Columns of a track's row that are the keep head's; 0 without it."""
        return self.keep_dim if self.keep else 0

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the loss that are learned, as reports name them: `nll` (softmax or gBCE), `nce`, `keep`."""
        weights = {"nll": self.beta, "nce": self.alpha * (self.context != "none"), "keep": self.keep}
        return tuple(name for name, weight in weights.items() if weight)
