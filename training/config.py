"""The whole config of a run, section by section; each section is defined by its owner."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from skipwise.common.errors import UserError
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.signals import PAUSE
from skipwise.models.config import MAX_DIAL, EncoderConfig, LossConfig, TableConfig
from skipwise.training.follow.config import StreamConfig

Protocol = Literal["served", "full", "paper"]
PROTOCOLS: tuple[Protocol, ...] = ("served", "full", "paper")
"""docs/architecture.md, "Evaluation"."""
Metric = Literal["ndcg@10", "mrr", "hr@1", "hr@5", "hr@10", "hr@20"]
Targets = Literal["all", "kept"]
Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam over the encoder and the schedule of every learning rate."""

    learning_rate: float = 1e-3
    """Adam's, for the dense parameters; the table has its own."""
    weight_decay: float = 0.0
    clip_norm: float = 5.0
    """Largest norm of the dense gradient; 0 does not clip."""
    warmup_steps: int = 0
    """Steps over which both learning rates rise linearly from a tenth."""
    decay_to: float = 1.0
    """Share of both learning rates that is left at the last step of the last epoch, reached linearly."""
    average: float = 0.0
    """Decay a step of a running mean of the dense weights, which validation, test and export then use; 0 is without."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"--optimizer.learning-rate {self.learning_rate} must be positive")
        if self.weight_decay < 0 or self.clip_norm < 0 or self.warmup_steps < 0:
            raise ValueError("--optimizer.weight-decay, .clip-norm and .warmup-steps must not be negative")
        if not 0 <= self.decay_to <= 1:
            raise ValueError(f"--optimizer.decay-to {self.decay_to} must lie in [0, 1]")
        if not 0 <= self.average < 1:
            raise ValueError(f"--optimizer.average {self.average} must lie in [0, 1)")


@dataclass(frozen=True)
class EvaluateConfig:
    """How a model is measured (docs/architecture.md, "Evaluation")."""

    candidates: int = 1000
    """Uniform unseen tracks a target is ranked among in the `paper` protocol; fewer where a session leaves fewer."""
    seed: int = 0
    """Candidates follow from it, the split and the session alone, so that all models compared meet the same."""
    sessions: int = 0
    """Sessions measured, a fixed random choice; 0 is all of them."""
    positions: Literal["all", "last"] = "all"
    """Targets of a session that was held out whole: every track but its first, or its last one."""
    dial: float = 0.0
    """What the logit of P(kept) weighs beside the next-track score in a ranking; needs --loss.keep."""
    batch_size: int = 512
    """Targets of one batch, over all ranks; it changes the time and the memory, and no figure."""

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.batch_size < 1:
            raise ValueError("--evaluate.candidates and --evaluate.batch-size must be at least 1")
        if self.batch_size > 1 << 20:
            raise ValueError(f"--evaluate.batch-size {self.batch_size} must be at most {1 << 20}")
        if not 0 <= self.dial <= MAX_DIAL:
            raise ValueError(f"--evaluate.dial {self.dial} must lie in 0..{MAX_DIAL:g}")
        if self.sessions < 0 or self.seed < 0:
            raise ValueError("--evaluate.sessions and --evaluate.seed must not be negative")


@dataclass(frozen=True)
class SelectionConfig:
    """The validation figure that picks the best epoch, ends training, and ranks the trials of a sweep."""

    metric: Metric = "ndcg@10"
    protocol: Protocol = "served"
    targets: Targets = "all"
    """`kept`: targets that the listener did not skip."""
    sessions: int = 50_000
    """Sessions of the validation after each epoch, a fixed random choice; 0 is all of them."""

    def __post_init__(self) -> None:
        if self.sessions < 0:
            raise ValueError("--selection.sessions must not be negative")

    @property
    def name(self) -> str:
        """What is reported, such as `full NDCG@10`."""
        kept = " of kept targets" if self.targets == "kept" else ""
        return f"{self.protocol} {self.metric.upper()}{kept}"

    def value(self, metrics: dict[str, Any]) -> float:
        """The figure among a split's metrics; raises `UserError` where there is no such target."""
        value = metrics[self.metric if self.targets == "all" else f"kept_{self.metric}"]
        if value is None and self.protocol == "paper" and not metrics["targets"]:
            raise UserError("every validated session holds the whole catalogue: choose --selection.protocol served")
        if value is None:
            raise UserError("no validation target was kept: choose --selection.targets all")
        return float(value)


@dataclass(frozen=True)
class TrainConfig:
    """The loop's own settings."""

    epochs: int = 200
    patience: int = 6
    """Epochs without a better validation (see --selection.metric) after which training stops; 0 never stops early."""
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the dense layers' matrix products in bfloat16 (autocast); the table stays float32."""
    matmul: Literal["highest", "high", "medium"] = "medium"
    """`torch.set_float32_matmul_precision` of training: "medium" may take bfloat16 products, as CPUs with AMX do."""
    compile: bool = False
    """On a GPU: `torch.compile` fuses the encoder's blocks and the softmax into few kernels, some 20 s at the start."""
    refit: bool = False
    """Once the best epoch is known, train afresh for as many epochs with the validation targets among the training
    data, and test that: twice the time for weights that know what came last."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    hang_s: float = 600.0
    """Seconds without a step after which a rank counts as hung: it is named, and all ranks end; 0 sets no limit."""
    tracker: Literal["none", "mlflow", "torchx"] = "none"
    """Where config, metrics and files are reported too (docs/training.md, "Trackers")."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.log_every < 1:
            raise ValueError("--train.epochs and --train.log-every must be at least 1")
        if self.patience < 0 or self.seed < 0:
            raise ValueError("--train.patience and --train.seed must not be negative")
        if not self.hang_s >= 0:
            raise ValueError(f"--train.hang-s {self.hang_s} must not be negative")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is written, beside the end of every epoch that is the best so far. It changes no figure."""

    minutes: float = 10.0
    """Minutes of training after which a checkpoint is due; 0 leaves it to --checkpoint.every."""
    every: int = 0
    """Steps after which a checkpoint is due; 0 leaves it to --checkpoint.minutes."""
    keep: int = 2
    """Checkpoints kept, the newest ones, beside the best."""

    def __post_init__(self) -> None:
        if not self.minutes >= 0 or self.every < 0:
            raise ValueError("--checkpoint.minutes and --checkpoint.every must not be negative")
        if self.keep < 1:
            raise ValueError(f"--checkpoint.keep {self.keep} must be at least 1")


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is a function of."""

    run_dir: str = ""
    """Where checkpoints, metrics and logs go; empty picks runs/RECIPE-NNN."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` goes on from the newest whole checkpoint where --run-dir holds an unfinished run of this config."""
    init_from: str = ""
    """Run directory whose best weights and optimizer state this run starts from, on other data; empty starts afresh."""
    vanished: Literal["keep", "drop"] = "keep"
    """With --init-from: rows of tracks that the new data lack stay in the table and its export, or go."""
    follow: str = ""
    """Folder, also in an object store, whose dataset directories are trained on as they land, after the run of
    --init-from and for ever (docs/follow.md); --data.path is the data that its vocabulary comes from."""
    data: DataConfig = field(default_factory=DataConfig)
    table: TableConfig = field(default_factory=TableConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if self.follow and not self.init_from:
            raise ValueError("--follow goes on from a trained run: name it with --init-from")
        if self.follow and self.table.sharding != "row_wise":
            raise ValueError(f"--follow needs --table.sharding row_wise, not {self.table.sharding}")
        if self.follow and (self.data.features or self.data.hold_out_tracks):
            raise ValueError(
                "--follow reads no --data.features and holds out no tracks: name a run without these by --init-from, "
                "and leave them out"
            )
        if self.follow and self.data.profile:
            raise ValueError(
                "--follow reads no --data.profile, as a part does not say what its listeners kept in the parts before: "
                "name a run without it by --init-from, and leave it out"
            )
        if self.encoder.attends and self.table.dim % self.encoder.heads:
            raise ValueError(f"--table.dim {self.table.dim} must be a multiple of --encoder.heads {self.encoder.heads}")
        if self.data.negatives == 0 and not self.loss.in_batch:
            raise ValueError("--data.negatives 0 leaves the softmax none: ask for some, or set --loss.in-batch")
        if self.train.compile and (remedy := self._to_compile):
            raise ValueError(f"--train.compile, which is for a GPU, {remedy}, or leave --train.compile out")
        if self.loss.in_batch and self.data.sampling != "shared":
            raise ValueError("--loss.in-batch shares its negatives: it needs --data.sampling shared")
        if self.loss.hardest and not self.loss.in_batch and self.loss.hardest >= self.data.negatives:
            raise ValueError(
                f"--loss.hardest {self.loss.hardest} must be below --data.negatives {self.data.negatives}, of which it "
                "takes the hardest"
            )
        for name in ("heard_negatives", "skipped_negatives"):
            if not getattr(self.data, name):
                continue
            flag = f"--data.{name.replace('_', '-')}"
            if self.loss.head != "softmax":
                raise ValueError(f"{flag} needs --loss.head softmax: leave --loss.head {self.loss.head} out, or it")
            if self.loss.in_batch and self.loss.log_q == "all":
                raise ValueError(
                    f"{flag} stands beside in-batch negatives where no logit of a track that is always there is "
                    "corrected: set --loss.log-q negatives, or leave --loss.in-batch out"
                )
        if self.data.skipped_tracks == "filter" and (self.loss.keep or self.data.inputs or self.data.skipped_negatives):
            wants = "--loss.keep, --data.inputs or --data.skipped-negatives"
            raise ValueError(f"--data.skipped-tracks filter leaves no skips to {wants}: read them")
        if self.encoder.times and PAUSE not in self.data.inputs:
            raise ValueError(
                f"--encoder.times reads the pauses between plays: add {PAUSE} to --data.inputs, of data that "
                "`prepare --pause` wrote"
            )
        if self.evaluate.dial and not self.loss.keep:
            raise ValueError("--evaluate.dial turns the ranking by the keep head: set --loss.keep above 0")
        if self.encoder.direction == "bidirectional" and self.data.targets != "next":
            raise ValueError("--data.targets next-kept needs --encoder.direction unidirectional")
        if self.encoder.direction == "bidirectional" and self.encoder.max_length < 2:
            raise ValueError("--encoder.max-length must be at least 2 where the mask token takes one position")

    def check_device(self, device: str) -> None:
        """Raises `ValueError` for what a device of this type lacks."""
        self.table.check_device(device)
        if self.train.compile and device == "cpu":
            raise ValueError("--train.compile makes kernels for a GPU, and torch sees none here: leave it out")

    @property
    def _to_compile(self) -> str:
        """What keeps attention from being one kernel on a GPU, which a compiled graph can call
        (`skipwise.models.fused`), and what to do about it; empty where nothing does."""
        encoder, dim = self.encoder, self.table.dim
        if encoder.kind not in ("transformer", "ligr"):
            return f"compiles no --encoder.kind {encoder.kind}: take transformer or ligr"
        if self.train.precision != "bf16":
            return f"computes in bfloat16: set --train.precision bf16 in place of {self.train.precision}"
        if encoder.positions == "relative":
            return "takes no bias of attention: set --encoder.positions learned or none in place of relative"
        if encoder.times:
            return "takes no bias of attention: add --encoder.no-times"
        if encoder.heads == 1 or dim // encoder.heads % 8:
            return (
                f"needs several heads whose width is a multiple of 8, not {encoder.heads} of {dim // encoder.heads}: "
                "change --encoder.heads or --table.dim"
            )
        return ""

    @property
    def row_table(self) -> TableConfig:
        """The table as it is stored: a track's row is its embedding, and then its columns of the keep head."""
        return replace(self.table, dim=self.table.dim + self.loss.keep_width)

    @property
    def cloze(self) -> float | None:
        """The mask probability of a bidirectional encoder, None for a unidirectional one."""
        return self.encoder.mask_probability if self.encoder.direction == "bidirectional" else None
