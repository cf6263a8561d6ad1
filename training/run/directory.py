"""The run directory: the config a run is a function of, what it was trained on, its metrics and its best weights."""

from pathlib import Path
from typing import Any

from skipwise.common.errors import UserError, shown
from skipwise.common.files import read_json, read_yaml, write_json
from skipwise.datapipes.manifest import VOCABULARY
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping

SCHEMA_VERSION = 2
CHECKPOINTS = "checkpoints"


class RunDirectory:
    """`config.yaml`, `run.json`, `vocabulary.parquet`, `checkpoints/`, `metrics.jsonl`, `metrics.json`, and more."""

    def __init__(self, path: Path, config: RunConfig, record: dict[str, Any]):
        self.path, self.config, self.record = path, config, record

    @property
    def vocabulary(self) -> Vocabulary:
        """The tracks of the table's rows: the data's, and then those kept from the run that this one started from."""
        return Vocabulary(self.path / VOCABULARY, self.record["rows"], self.record["rows_hash"], "train again")

    @property
    def matches(self) -> Path:
        """Which rows of the run that this one started from went where."""
        return self.path / "matches.parquet"

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
        """Reads a run back; raises `UserError` for a missing, broken or other version's directory."""
        folder = Path(path)
        record = read_json(folder / "run.json", "a run directory that train wrote")
        version = record.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise UserError(
                f"{folder}/run.json has schema_version {shown(version)}, this version reads {SCHEMA_VERSION}: "
                "train again"
            )
        _check_record(folder / "run.json", record)
        file = folder / "config.yaml"
        return cls(folder, from_mapping(RunConfig(), read_yaml(file), str(file)), record)

    def open_store(self) -> SessionStore:
        """The dataset the run was trained on; refuses one whose rows mean other tracks."""
        store = SessionStore(self.config.data.path)
        if store.manifest.vocabulary_hash != self.record["vocabulary_hash"]:
            raise UserError(
                f"{store.path} has another vocabulary than the data {self.path} was trained on: "
                "use that data set, or train again"
            )
        return store

    def update_metrics(self, changes: dict[str, Any]) -> None:
        """Merges `changes` into `metrics.json`, section by section, at one blow; every rank returns once it is done."""
        from skipwise.common.distributed import barrier, rank  # torch, for which `show` does not wait

        if rank() == 0:
            metrics = self.metrics()
            merged = {name: metrics.get(name, {}) | section for name, section in changes.items()}
            write_json(self.path / "metrics.json", metrics | merged)
        barrier()


def read_metrics(file: Path, expected: str) -> dict[str, dict[str, Any]]:
    """The sections of a run's `metrics.json`, or a `UserError`."""
    content = read_json(file, expected)
    for name, section in content.items():
        if not isinstance(section, dict):
            raise UserError(f"{file} holds no section at {shown(name)}: expected {expected}")
    return content


def _check_record(file: Path, record: dict[str, Any]) -> None:
    counts = record.get("counts")
    counts = counts if isinstance(counts, dict) else {}
    for name, right in (
        ("recipe", isinstance(record.get("recipe"), str)),
        ("vocabulary_hash", isinstance(record.get("vocabulary_hash"), str)),
        ("rows", type(record.get("rows")) is int and record["rows"] > 0),
        ("rows_hash", isinstance(record.get("rows_hash"), str)),
        ("ranks", type(record.get("ranks")) is int),
        ("counts", "tracks" in counts and all(type(number) is int and number >= 0 for number in counts.values())),
        ("versions", isinstance(record.get("versions"), dict)),
    ):
        if not right:
            raise UserError(f"{file} has no '{name}' that train wrote: restore the file, or train again")
