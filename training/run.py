"""The run directory: the config a run is a function of, what it was trained on, its metrics and its best weights."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from datapipes.errors import UserError
from datapipes.growth import match
from datapipes.manifest import VOCABULARY
from datapipes.sessions import SessionStore
from datapipes.vocabulary import Vocabulary
from training.config import RunConfig, from_mapping
from training.distributed import barrier, broadcast_object, logger, rank, ranks
from training.provenance import versions

SCHEMA_VERSION = 2
CHECKPOINTS = "checkpoints"
_FREE_TO_CHANGE = (
    "run_dir",
    "resume",
    "data.path",
    "data.workers",
    "data.prefetch",
    "table.sharding",
    "train.log_every",
    "train.hang_s",
    "evaluate.batch_size",
    "checkpoint.minutes",
    "checkpoint.every",
    "checkpoint.keep",
)
"""Fields that change no figure of a run; all others must stay as they were for it to go on."""
_BEGINNING = ("config.yaml", "run.json", VOCABULARY, "matches.parquet")
_OWN_FILES = {*_BEGINNING, *(f".{name}.partial" for name in _BEGINNING)}
"""What a directory may hold whose run was killed before it began."""


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

    @classmethod
    def begin(cls, config: RunConfig, recipe: str, store: SessionStore) -> "RunDirectory":
        """Makes the directory on rank 0, or opens the run of this config that is there.

        An empty name picks runs/RECIPE-NNN, and finds that one again when the launcher restarts its ranks. Raises
        `UserError` on every rank for a directory that holds anything else.
        """
        path, error = None, None
        if rank() == 0:
            try:
                path = _directory(config, recipe, store)
            except (UserError, OSError) as caught:
                error = str(caught)
        path, error = broadcast_object((path, error))
        if error:
            raise UserError(error)
        return cls(path, dataclasses.replace(config, run_dir=str(path)), read_json(path / "run.json", "a run"))

    @property
    def finished(self) -> bool:
        """Whether training has ended and its metrics are written."""
        return "train" in self.metrics()

    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` holds so far."""
        file = self.path / "metrics.json"
        return read_json(file, "metrics of a run") if file.exists() else {}

    @classmethod
    def open(cls, path: str) -> "RunDirectory":
        """Reads a run back; raises `UserError` for a missing, broken or other version's directory."""
        folder = Path(path)
        record = read_json(folder / "run.json", "a run directory that train wrote")
        if record.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{folder}/run.json has schema_version {record.get('schema_version')}, this version reads "
                f"{SCHEMA_VERSION}: train again"
            )
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
        if rank() == 0:
            metrics = self.metrics()
            merged = {name: metrics.get(name, {}) | section for name, section in changes.items()}
            write_json(self.path / "metrics.json", metrics | merged)
        barrier()


def write_text(file: Path, text: str) -> None:
    """Writes aside, then renames: a reader sees the old file or the new one."""
    aside = file.with_name(f".{file.name}.partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """`write_text` of a JSON object."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: Path, expected: str) -> dict[str, Any]:
    """A JSON object from `file`, or a `UserError` that says what was `expected`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected {expected}") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON: expected {expected}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: expected {expected}")
    return content


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping from `file`, or a `UserError`."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected a YAML config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a YAML mapping: expected sections such as 'data:' and 'train:'")
    return content


def _directory(config: RunConfig, recipe: str, store: SessionStore) -> Path:
    """The run's directory, with its config, its vocabulary and its record in it."""
    path = Path(config.run_dir) if config.run_dir else _own_directory(recipe) or _new_directory(recipe)
    if (path / "run.json").exists() and config.resume == "auto":
        _check_same(path, config, recipe, store)
        return path
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} <= _OWN_FILES):
        raise UserError(f"{path} exists and is not empty: choose another --run-dir")
    path.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, run_dir=str(path))
    write_text(path / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    rows, rows_hash = _take_vocabulary(config, store, path)
    write_json(
        path / "run.json",
        {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe,
            "ranks": ranks(),
            "vocabulary_hash": store.manifest.vocabulary_hash,
            "counts": store.manifest.counts,
            "rows": rows,
            "rows_hash": rows_hash,
            "versions": versions(),
            "launch": os.environ.get("TORCHELASTIC_RUN_ID"),
        },
    )
    return path


def _take_vocabulary(config: RunConfig, store: SessionStore, path: Path) -> tuple[int, str]:
    """A run's rows must keep their meaning when the dataset directory is replaced: it has a vocabulary of its own.

    Returns how many rows its table has, and the hash of their ids.
    """
    own = Vocabulary.of(store)
    own.check()
    if not config.init_from:
        aside = path / f".{VOCABULARY}.partial"
        shutil.copyfile(own.file, aside)
        os.replace(aside, path / VOCABULARY)
        return own.tracks, store.manifest.vocabulary_hash
    source = RunDirectory.open(config.init_from)
    check_start(source, config)
    source.vocabulary.check()
    run = RunDirectory(path, config, {})
    rows, kept, known = match(source.vocabulary, own, config.vanished == "keep", path / VOCABULARY, run.matches)
    logger.info(
        f"starts from {source.path}: {known:,} of the {store.tracks:,} tracks have rows there, "
        f"{source.vocabulary.tracks - known:,} of its tracks are not in {store.path} and {kept:,} of those are kept"
    )
    return rows, Vocabulary(path / VOCABULARY, rows, "", "train again").digest()


def check_start(source: RunDirectory, config: RunConfig) -> None:
    """Raises `UserError` where the rows of `source` are no rows of this config's table."""
    for field in ("dim", "optimizer"):
        before, now = (getattr(each.table, field) for each in (source.config, config))
        if before != now:
            raise UserError(
                f"{source.path} was trained with --table.{field} {before}, not {now}: start from it with the same, or "
                "leave --init-from out"
            )


def _check_same(path: Path, config: RunConfig, recipe: str, store: SessionStore) -> None:
    """Raises `UserError` unless the run there is this one."""
    run = RunDirectory.open(str(path))
    state = "a finished" if run.finished else "an unfinished"
    if run.record["recipe"] != recipe:
        raise UserError(f"{path} holds {state} run of {run.record['recipe']}, not {recipe}: choose another --run-dir")
    if difference := first_difference(run.config, config):
        raise UserError(f"{path} holds {state} run with {difference}: go on with that, or choose another --run-dir")
    if (store.manifest.vocabulary_hash, store.manifest.counts) != (
        run.record["vocabulary_hash"],
        run.record["counts"],
    ):
        raise UserError(
            f"{path} holds {state} run on other data than {store.path}: go on with those, or choose another "
            "--run-dir, which may start from this run with --init-from"
        )


def first_difference(before: RunConfig, now: RunConfig) -> str:
    """The first field, as a flag with both values, in which two configs make different runs; empty where none is."""
    values, others = (_flat(dataclasses.asdict(config)) for config in (before, now))
    for name, value in values.items():
        if value != others[name] and name not in _FREE_TO_CHANGE:
            return f"--{name.replace('_', '-')} {value}, not {others[name]}"
    return ""


def _flat(sections: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in sections.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _own_directory(recipe: str) -> Path | None:
    """The directory that this launch made before its ranks were restarted."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    if not launch or not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return None
    for file in Path("runs").glob(f"{recipe}-[0-9][0-9][0-9]*/run.json"):
        if read_json(file, "a run").get("launch") == launch:
            return file.parent
    return None


def _new_directory(recipe: str) -> Path:
    for number in range(1, 10_000):
        path = Path("runs") / f"{recipe}-{number:03}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise UserError("runs/ is full: name a directory with --run-dir")
