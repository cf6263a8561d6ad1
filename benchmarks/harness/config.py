"""The options of every benchmark, apart from the code that measures: `--help` loads neither torch nor TorchRec."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from skipwise.datapipes.config import DataConfig
from skipwise.retrieval.formats import DType, Format

LANES = DataConfig().lanes
SHORTEST = 10
"""Tracks of the shortest session that `step`, `scale` and `peers` train on."""
LONGEST = 12
"""Tracks of the longest session of the run that `export` and `checkpoint` make."""
HISTORY = 10
"""Rows of each user's history in `evaluate`, which `full` leaves out."""
SEED = 0
Precision = Literal["fp32", "bf16"]
Negatives = Literal["shared", "per-session"]
TableOptimizer = Literal["recipe", "rowwise_adagrad", "adagrad", "sgd", "adam", "partial_rowwise_adam"]


@dataclass(frozen=True)
class ReportConfig:
    """Where a report is written."""

    output: str = "benchmarks/results"
    """Directory for DATE-NAME.md, .json and .png."""
    json: str = ""
    """File for one more copy of the JSON."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Options that all benchmarks have."""

    rounds: int = 5
    """Times that each side is measured; the sides run in turn."""
    warmup: int = 1
    """Rounds before them that are not counted."""
    report: Annotated[ReportConfig, tyro.conf.arg(name="")] = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("warmup", "threads") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"--{name} {value} must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class TableBenchmarkConfig(BenchmarkConfig):
    """Options of the benchmarks that work on one table."""

    tracks: int = 1_000_000
    """Rows of the table."""
    dim: int = 128
    """Width of a row; a multiple of 4."""
    threads: int = 0
    """Threads of each rank; 0 for torch's default. Baselines on rank 0 alone run with the threads of all ranks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"--dim {self.dim} must be a positive multiple of 4")


@dataclass(frozen=True, kw_only=True)
class StepConfig(TableBenchmarkConfig):
    """Time one training step and its parts, beside the same step in plain PyTorch and the machine's floor.

    Example: python -m skipwise.benchmarks step --precision bf16 --negatives per-session
    """

    recipe: str = "unidir-skip-track"
    """A recipe or an ablation; the other options replace its settings."""
    precision: Precision = "fp32"
    """Matrix products of both sides in float32 or bfloat16."""
    negatives: Negatives = "shared"
    """One pool of negatives a batch, or one a session."""
    optimizer: TableOptimizer = "recipe"
    """The table's, fused into backward; plain keeps SparseAdam. The two Adams need a GPU."""
    compile: bool = False
    """On a GPU, in bf16: ours with `train --train.compile`."""
    batch: int = 256
    """Sessions of the global batch, over all ranks."""
    length: int = 20
    """Tracks of the longest session; the shortest has 10, and all lengths between are as frequent."""
    rounds: int = 10
    """Turns of 5 steps that are timed, of each side."""
    baseline: Literal["plain", "none"] = "plain"
    """`plain`: the same step in plain PyTorch runs in turn, in one process with the threads of all ranks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch % LANES:
            raise ValueError(f"--batch {self.batch} must be a multiple of {LANES}")
        if self.length < SHORTEST:
            raise ValueError(f"--length {self.length} must be at least {SHORTEST}")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(BenchmarkConfig):
    """Time the batches from Parquet beside a plain DataLoader, and how long a training step waits for them.

    Example: python -m skipwise.benchmarks pipeline --sessions 5000 --tracks 20000 --steps 10
    """

    data: str = ""
    """Dataset directory to read; empty for a synthetic one in a temporary folder."""
    sessions: int = 20_000
    """Sessions of the synthetic dataset."""
    tracks: int = 1_000_000
    """Tracks of the synthetic dataset (Zipf, exponent 1); tracks that nobody plays get no row."""
    batch: int = 256
    """Sessions of one global batch."""
    steps: int = 40
    """Training steps timed in each round, after 10 that are not."""


IndexKind = Literal["faiss flat", "ivfpq", "hnsw"]
PeerName = Literal["replay-shared", "replay-per-session", "rectools-bce", "rectools-sampled"]


@dataclass(frozen=True, kw_only=True)
class PeersConfig(BenchmarkConfig):
    """Time training steps of RePlay and RecTools, each in turn with ours; the first run installs them.

    Example: python -m skipwise.benchmarks peers --peers replay-shared
    """

    peers: tuple[PeerName, ...] = get_args(PeerName)
    """Which ones."""
    tracks: int = 1_000_000
    """Rows of the table; RePlay and RecTools keep four times it in memory, and their gradients."""
    batch: int = 256
    """Sessions of a batch, of 10 to 20 tracks."""
    rounds: int = 3
    """Processes of each side, in turn."""
    steps: int = 10
    """Steps timed in each process."""
    warmup: int = 2
    """Steps of each process before them."""
    threads: int = 0
    """Threads of each process; 0 for torch's default."""
    environments: str = "benchmarks/.environments"
    """Directory of the peers' virtual environments, about 1.5 GB each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.peers:
            raise ValueError(f"--peers names none: choose from {', '.join(get_args(PeerName))}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(TableBenchmarkConfig):
    """Time the ranking of held-out tracks on a random table, beside plain PyTorch.

    Example: python -m skipwise.benchmarks evaluate --tracks 100000 --users 128
    """

    users: int = 512
    """Queries of one call, of all ranks together."""
    top: int = 20
    """Best rows that `served` lists for each user."""
    candidates: int = 1000
    """Rows that `paper` compares each target with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top + HISTORY > self.tracks:
            raise ValueError(f"--top {self.top} and {HISTORY} of a user's history are more than --tracks {self.tracks}")


@dataclass(frozen=True, kw_only=True)
class ExportBenchmarkConfig(TableBenchmarkConfig):
    """Time the export of an untrained run for retrieval, beside `numpy.save` of its table.

    Example: python -m skipwise.benchmarks export --tracks 100000 --format npy --dtype float16
    """

    format: Format = "parquet"
    """Of the parts."""
    dtype: DType = "float32"
    """Of their numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tracks <= LONGEST:
            raise ValueError(f"--tracks {self.tracks} must be more than {LONGEST}, the longest session's")


@dataclass(frozen=True, kw_only=True)
class CheckpointBenchmarkConfig(TableBenchmarkConfig):
    """Time the writing and reading of checkpoints, beside `torch.save` and `torch.load`.

    Example: python -m skipwise.benchmarks checkpoint --tracks 100000
    """


@dataclass(frozen=True, kw_only=True)
class IndexBenchmarkConfig(TableBenchmarkConfig):
    """Time searches of a clustered table by each kind of index, beside the exact search.

    Example: python -m skipwise.benchmarks index --tracks 100000 --kinds ivfpq
    """

    kinds: tuple[IndexKind, ...] = get_args(IndexKind)
    """Kinds to compare with the exact search. Building hnsw of a million rows takes minutes."""
    queries: int = 256
    """Queries of one round, 64 in one call."""
    k: int = 100
    """Best rows of each query."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k > self.tracks:
            raise ValueError(f"--k {self.k} must be at most --tracks {self.tracks}")


@dataclass(frozen=True, kw_only=True)
class ServeBenchmarkConfig(BenchmarkConfig):
    """Time recommendations over HTTP from a service of an export, under an open load.

    Example: python -m skipwise.benchmarks serve --export exports/demo
    """

    export: str
    """Export to serve."""
    rate: float = 100.0
    """Requests a second, on average."""
    seconds: float = 30.0
    """Of a round."""
    rounds: int = 3
    """Rounds that are timed."""
    k: int = 10
    """Tracks to recommend."""
    search: Literal["auto", "exact", "index"] = "auto"
    """As of the command `serve`."""
    workers: int = 1
    """As of the command `serve`."""
    tool: Literal["own", "wrk"] = "own"
    """What asks: our open loop, or wrk, whose connections each wait for their answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers} must be at least 1")
        if not (0 < self.rate <= 10_000 and 0 < self.seconds <= 600 and self.k <= 1000):
            raise ValueError("--rate must be in 0..10,000, --seconds in 0..600 and --k in 1..1000")


@dataclass(frozen=True)
class CompareConfig:
    """Compare two JSON reports of one benchmark; exit code 1 where the second is slower beyond the noise.

    Example: python -m skipwise.benchmarks compare before.json after.json
    """

    before: Annotated[str, tyro.conf.Positional]
    """JSON of the run to compare with."""
    after: Annotated[str, tyro.conf.Positional]
    """JSON of the run to judge."""
    tolerance: float = 0.02
    """A loss of up to this share is no regression: two starts of one program differ by as much."""
