"""The run directory: the config a run is a function of, what it was trained on, its metrics and its best weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from skipwise.common.errors import UserError, shown
from skipwise.common.files import read_json, read_yaml, write_json
from skipwise.common.mirrors import local
from skipwise.common.schema import Count, PositiveCount, Sha256, StrictModel, validate
from skipwise.common.stores import Place
from skipwise.datapipes.directory_kinds import refuse_other_kind
from skipwise.datapipes.manifest import RUN_RECORD, VOCABULARY, Counts, Manifest
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.models.config import LossConfig
from skipwise.training.config import RunConfig, SelectionConfig, Split
from skipwise.training.config_fields import from_mapping

CHECKPOINTS = "checkpoints"
MATCHES = "matches.parquet"
VALUES = "track_values.parquet"
METRICS_LINES = "the metrics of a run's steps"
"""What `metrics.jsonl` holds."""
LARGEST_METRICS = 1 << 28
"""Bytes of `metrics.jsonl`."""
_OLDER = replace(
    RunConfig(),
    loss=replace(LossConfig(), mask_repeats=False),
    selection=SelectionConfig(metric="hr@10", protocol="paper"),
)
"""What a run did whose config.yaml lacks a field."""


class DataRecord(StrictModel):
    """The data that weights were trained on."""

    vocabulary_hash: Sha256
    """The dataset's."""
    counts: Counts
    """The dataset's."""
    data_hash: Sha256 | None = None
    """The dataset's; None in the record of an older version."""

    def is_same(self, other: "DataRecord | Manifest") -> bool:
        """Whether `other` has the same sessions and splits them alike; by the counts alone where a hash is missing."""
        if self.data_hash and other.data_hash:
            return self.data_hash == other.data_hash
        return (self.vocabulary_hash, self.counts) == (other.vocabulary_hash, other.counts)


class Trained(DataRecord):
    """Data that weights were trained on, and what of them was held out."""

    held_out: list[Split]


class RunRecord(DataRecord):
    """`run.json`: what a run was trained on, and with which code."""

    schema_version: int = 2
    recipe: str
    world_size: PositiveCount = Field(alias="ranks")
    """Ranks of the launch that began the run."""
    num_rows: PositiveCount = Field(alias="rows")
    """Rows of the table: the dataset's tracks, and those kept from the run that this one started from."""
    rows_hash: Sha256
    """SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    contexts: dict[str, list[str]] = {}
    """The context columns that the run reads, each with the values that have a row, in their order."""
    context_hash: Sha256 | None = None
    """The dataset's, over these."""
    features_hash: Sha256 | None = None
    """`TrackFeatures.digest` of what is read of tracks; None where nothing is."""
    profile_hash: Sha256 | None = None
    """The dataset's `Manifest.profile_hash`, for a run that reads profiles."""
    num_values: Count = Field(alias="values", default=0)
    """Rows of the table of the tracks' values."""
    versions: dict[str, str]
    launch: str | None = None
    """torchrun's id of the launch that began the run."""
    trained_before: list[Trained] = []
    """What the weights had been trained on that the run started from (`init_from`)."""

    def reads_same(self, manifest: Manifest) -> bool:
        """Whether context columns and profiles that the run reads say the same in a dataset of the same sessions."""
        if self.profile_hash is not None and manifest.profile_hash != self.profile_hash:
            return False
        return not self.contexts or manifest.context_hash(self.contexts) == self.context_hash

    @classmethod
    def read(cls, run_path: Path) -> "RunRecord":
        """Reads a run directory's; raises `UserError` where it is missing, broken or of another version."""
        refuse_other_kind(run_path, "run")
        file = run_path / RUN_RECORD
        content = read_json(file, "a run directory that train wrote")
        if content.keys().isdisjoint({"rows", "rows_hash"}):
            # Runs from before `init_from` have neither: their rows are the dataset's tracks.
            counts = content.get("counts")
            rows = counts.get("tracks") if isinstance(counts, dict) else None
            content |= {"rows": rows, "rows_hash": content.get("vocabulary_hash")}
        return validate(cls, content, file, "restore the file, or train again")


class RunDirectory:
    """`config.yaml`, `run.json`, `vocabulary.parquet`, `checkpoints/`, `metrics.jsonl`, `metrics.json`, and more."""

    def __init__(self, path: Path, config: RunConfig, record: RunRecord):
        self.path, self.config, self.record = path, config, record

    @property
    def vocabulary(self) -> Vocabulary:
        """The tracks of the table's rows: the data's, and then those kept from the run that this one started from."""
        return Vocabulary(self.path / VOCABULARY, self.record.num_rows, self.record.rows_hash, "train again")

    @property
    def table_rows(self) -> int:
        """Rows of the table: the vocabulary's and, of a run that follows, the spare ones behind them."""
        return self.record.num_rows + (self.config.stream.spare_rows if self.config.follow else 0)

    @property
    def matches(self) -> Path:
        """`row` of this run's table and `source`, the row of the same track in the run that this one started from."""
        return self.path / MATCHES

    @property
    def value_rows(self) -> Path:
        """`column`, `value` and `row` of the table of the tracks' values, for a run that reads features."""
        return self.path / VALUES

    @property
    def finished(self) -> bool:
        """Whether training has ended and its metrics are written."""
        return "train" in self.metrics()

    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` holds so far."""
        file = self.path / "metrics.json"
        return read_metrics(file, "metrics of a run") if file.exists() else {}

    @classmethod
    def open(cls, path: str) -> "RunDirectory":
        """Reads a run back; raises `UserError` for a missing, broken or other version's directory.

        Of one in an object store, checkpoints are brought here as they are read (`best_checkpoint`).
        """
        folder = local(path, _is_small)
        record = RunRecord.read(folder)
        file = folder / "config.yaml"
        return cls(folder, from_mapping(_OLDER, _upgraded(read_yaml(file)), str(file)), record)

    @property
    def trained(self) -> list[Trained]:
        """All that the run's best weights have been trained on."""
        own = Trained(
            vocabulary_hash=self.record.vocabulary_hash,
            counts=self.record.counts,
            data_hash=self.record.data_hash,
            held_out=["test"] if self.config.train.refit else ["validation", "test"],
        )
        return [*self.record.trained_before, own]

    @property
    def starts_from_other_data(self) -> bool:
        """Whether its first weights were trained on data that may hold its validation and test targets."""
        return not all(before.is_same(self.record) for before in self.record.trained_before)

    def open_store(self) -> SessionStore:
        """The dataset the run was trained on; refuses one whose rows mean other tracks, or that says other things."""
        data = Path(self.config.data.path)
        if Place.of(self.config.data.path) is None and not data.is_absolute() and not data.exists():
            raise UserError(
                f"{self.path} was trained on {data}, a path from the folder where train ran, and there is no such one "
                f"from {Path.cwd()}: run this command in that folder"
            )
        store = SessionStore(self.config.data.path)
        if store.manifest.vocabulary_hash != self.record.vocabulary_hash:
            raise UserError(
                f"{store.path} has another vocabulary than the data {self.path} was trained on: "
                "use that data set, or train again"
            )
        store, features = store.reading(self.record.contexts), self.config.data.features
        store = store.profiling(self.config.data.profile)
        lacking = {*features} - {entry.name for entry in store.manifest.features}
        store = store if lacking else store.featuring(features)
        if lacking or (store.features and store.features.digest != self.record.features_hash):
            raise UserError(
                f"the features of tracks of {store.path} are not those that {self.path} was trained on: prepare that "
                "data set again as it was, or train again"
            )
        if not self.record.reads_same(store.manifest):
            raise UserError(
                f"the context columns or profiles of {store.path} are not those that {self.path} was trained on: "
                "prepare that data set again as it was, or train again"
            )
        return store

    def open_features(self) -> TrackFeatures:
        """What the run reads of tracks, from the dataset it was trained on."""
        features = self.open_store().features
        assert features is not None
        return features

    def update_metrics(self, changes: Mapping[Any, Mapping[Any, Any]]) -> None:
        """Merges `changes` into `metrics.json`, section by section, atomically; every rank returns once it is done."""
        from skipwise.common.distributed import barrier, rank  # torch, for which `show` does not wait

        if rank() == 0:
            metrics = self.metrics()
            merged = {name: metrics.get(name, {}) | dict(section) for name, section in changes.items()}
            write_json(self.path / "metrics.json", metrics | merged)
        barrier()


def _is_small(file: str) -> bool:
    """Whether a run's file is none of a checkpoint."""
    return file == f"{CHECKPOINTS}/best" or not file.startswith((f"{CHECKPOINTS}/", "tensorboard/"))


def _upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the fields of before `selection` in their present place."""
    train, evaluate = fields.get("train"), fields.get("evaluate")
    if "selection" not in fields and isinstance(train, dict) and "validation_sessions" in train:
        fields = fields | {"selection": {"sessions": train.pop("validation_sessions")}}
    if isinstance(evaluate, dict):
        evaluate.pop("filter_history", None)  # `served` and `full` rank with and without it
    return fields


def read_metrics(file: Path, expected: str) -> dict[str, dict[str, Any]]:
    """The sections of a run's `metrics.json`, or a `UserError`."""
    content = read_json(file, expected)
    for name, section in content.items():
        if not isinstance(section, dict):
            raise UserError(f"{file} holds no section at {shown(name)}: expected {expected}")
    return content
