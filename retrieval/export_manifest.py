"""`manifest.json` of an export: what it holds, how to call its encoder, and where it came from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass

from skipwise.common.errors import UserError
from skipwise.common.files import FileRecord, read_json
from skipwise.common.schema import Count, PositiveCount, Sha256, StrictModel, matching, validate
from skipwise.datapipes.directory_kinds import refuse_other_kind
from skipwise.datapipes.manifest import MANIFEST
from skipwise.models.config import EncoderConfig
from skipwise.retrieval.formats import DType, Format, PartFormat
from skipwise.retrieval.row_delta import AppliedEntry
from skipwise.retrieval.search.config import IndexKind
from skipwise.retrieval.skip_entries import ExamplePlay, KeepEntry, SignalEntry

SCHEMA_VERSION = 2
INDEX_FILE = r"index-[0-9a-f]{12}\.faiss"
OTHER_COLUMNS = {
    *("track_id", "row", "embedding", "scale", "bias"),
    *("session_id", "track", "tracks", "score", "scores", "kept"),
}
"""Columns of parts, and of what is recommended: no name of a track is called so."""
_AGAIN = "export again"


class PartEntry(FileRecord):
    """A file of consecutive rows."""

    first_row: Count
    """Within the export."""
    rows: Count


class CountedEntry(FileRecord):
    """A file of `rows` rows."""

    rows: Count


class QueriesEntry(CountedEntry):
    """Queries to tune an index by."""

    dial: float | None = None
    """The setting of the dial that they are for; None, in older exports, for that of `KeepEntry.dial`."""

    @model_serializer(mode="wrap")
    def _without_dial(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class ProgramEntry(FileRecord):
    """The encoder as a `torch.export` program, and how to call it."""

    direction: Literal["unidirectional", "bidirectional"]
    max_length: PositiveCount
    """Positions of the encoder; a mask token takes one."""
    max_tracks: PositiveCount
    """The most tracks of a session that it reads."""
    inputs: dict[str, Any]
    output: dict[str, Any]
    note: str


class OnnxEntry(FileRecord):
    """The same program for ONNX."""

    opset: PositiveCount
    largest_difference: float
    """From the live model, of any number of a query."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ServedEncoderConfig(EncoderConfig):
    """An unknown field is refused: it could change what the encoder computes."""


class WeightsEntry(FileRecord):
    """The encoder's `state_dict` in safetensors, and the config to rebuild the encoder with."""

    config: ServedEncoderConfig


class Measurement(StrictModel):
    """How good and how fast one kind of index is at one setting."""

    kind: str
    search: dict[str, int]
    """See `retrieval.search.faiss_search.IndexSearch`."""
    recall_at_10: float
    recall_at_k: float
    queries_per_s: float


class DialRecall(StrictModel):
    """How much of the ten best tracks the chosen index finds at one setting of the dial."""

    dial: float
    recall_at_10: float


class IndexEntry(StrictModel):
    """The index chosen by `index`."""

    kind: IndexKind
    metric: str
    built: dict[str, int]
    """What it was built with."""
    search: dict[
        Annotated[str, matching("efSearch|nprobe|shortlist", "efSearch, nprobe or shortlist")],
        Annotated[int, Field(ge=1, lt=1 << 31)],
    ]
    """The setting it is searched at."""
    wanted: dict[str, int | float]
    """The `recall_at_10` to reach, and `k`."""
    measured: list[Measurement]
    """All that were tried."""
    dials: list[DialRecall] | None = None
    """The chosen one, at other settings of the dial than that of `KeepEntry.dial`."""
    queries: int
    queries_a_call: int
    threads: int
    versions: dict[str, str]
    file: Annotated[str, matching(INDEX_FILE, "the name of an index file")] | None = None
    """For all kinds but flat, with `bytes` and `sha256`."""
    bytes: Count | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if self.kind != "flat" and self.file_record is None:
            raise ValueError(f"a file with its bytes and sha256 for the kind {self.kind}")
        return self

    @property
    def file_record(self) -> FileRecord | None:
        """The index file, None for flat."""
        if self.kind == "flat" or self.file is None or self.bytes is None or self.sha256 is None:
            return None
        return FileRecord(file=self.file, bytes=self.bytes, sha256=self.sha256)

    @model_serializer(mode="wrap")
    def _without_missing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class DeltaEntry(StrictModel):
    """What a delta is counted from."""

    run: str
    rows_hash: str
    """The other run's `vocabulary_hash`."""
    table_rows: Count
    """Rows of this run's whole table."""
    changed: Count
    unchanged: Count
    new: Count
    gone: Count
    gone_tracks: CountedEntry
    """Ids of the tracks that only the other run has."""


Entry = TypeVar("Entry")


def _none_is_empty(value: Any, serialize: Callable[[Any], Any]) -> Any:
    return {} if value is None else serialize(value)


OrEmpty = Annotated[
    Entry | None, BeforeValidator(lambda content: None if content == {} else content), WrapSerializer(_none_is_empty)
]
"""An entry that may be missing: None here, an empty object in the file."""


class ExportManifest(StrictModel):
    """The description of an export directory."""

    rows: Count
    """Tracks, over all parts; of a delta, only those that it holds."""
    dim: PositiveCount
    """Width of an embedding and of a query, the columns of a keep head included."""
    format: Format
    """Of the parts."""
    dtype: DType
    """Type of the numbers of an embedding; int8 has a scale and a bias for each row."""
    vocabulary_hash: Sha256
    """The dataset's: SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    parts: list[PartEntry]
    """In row order."""
    tracks: list[PartEntry]
    """Like `parts`, the track ids of each, where the parts cannot hold them; none for Parquet."""
    names: list[str] = Field(default_factory=list)
    """Columns beside the track ids that say what a track is called."""
    words: OrEmpty[CountedEntry] = None
    """The index of words of titles and artists (`retrieval/word_index.py`), of this many; empty without."""
    encoder: ProgramEntry
    weights: OrEmpty[WeightsEntry] = None
    """What skipwise itself builds the encoder from; missing in exports of older versions, which are not opened."""
    keep: OrEmpty[KeepEntry] = None
    """Of a run with a keep head."""
    signals: list[SignalEntry] = Field(default_factory=list)
    """In the order of the encoder's input; empty where it reads tracks alone."""
    examples: list[list[ExamplePlay]] = Field(default_factory=list)
    """Sessions of the test, oldest play first."""
    onnx: OrEmpty[OnnxEntry] = None
    queries: QueriesEntry
    """The live model's queries of sessions, to tune an index by."""
    index: OrEmpty[IndexEntry] = None
    """The index built over the parts (`retrieval/search/stored.py`); empty without."""
    since: OrEmpty[DeltaEntry] = None
    """Of a delta; empty for a whole table."""
    delta: OrEmpty[AppliedEntry] = None
    """Of a run that follows; empty for any other."""
    compared: dict[str, Any]
    """How many sessions the program was compared with the live model on, and the largest difference."""
    recipe: str
    """The recipe that was trained."""
    config: dict[str, Any]
    """The run's whole config."""
    trained: dict[str, Any]
    """The run's own record: ranks, counts of the data, versions."""
    versions: dict[str, str]
    """The tools that wrote the export."""
    schema_version: int = SCHEMA_VERSION
    """The version of this layout; a reader refuses any other."""

    def write(self, directory: Path) -> None:
        """Writes `manifest.json` into `directory`."""
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> "ExportManifest":
        """Reads an export's manifest; raises `UserError` where it is missing, broken or another version's."""
        refuse_other_kind(Path(directory), "export")
        path = Path(directory) / MANIFEST
        return validate(cls, read_json(path, "an export that export wrote"), path, _AGAIN)

    @property
    def part_format(self) -> PartFormat:
        """Format and type of the parts."""
        return PartFormat(self.format, self.dtype)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.part_format.supported:
            raise ValueError(f"has format {self.format} and dtype {self.dtype}, which no export has together")
        for name, entries in (("parts", self.parts), ("tracks", self.tracks)):
            row = 0
            for number, entry in enumerate(entries):
                if entry.first_row != row:
                    raise ValueError(f"has {name}[{number}] begin with row {entry.first_row}, not {row}")
                row += entry.rows
        rows, of_tracks = [part.rows for part in self.parts], [entry.rows for entry in self.tracks]
        if sum(rows) != self.rows:
            raise ValueError(f"has {sum(rows)} rows in its parts and {self.rows} in all")
        if of_tracks != ([] if self.part_format.holds_tracks else rows):
            raise ValueError("has other rows in its parts than in the files of their tracks")
        if len({*self.names} - OTHER_COLUMNS) < len(self.names):
            raise ValueError("has names that are not columns of their own")
        if any(play.row >= self.rows for plays in self.examples for play in plays):
            raise ValueError(f"has examples with other rows than its {self.rows}")
        if self.keep and self.keep.dim >= self.dim:
            raise ValueError(f"has {self.keep.dim} columns of a keep head in embeddings of {self.dim}")
        if since := self.since:
            exported = since.changed + since.new
            if (exported, exported + since.unchanged) != (self.rows, since.table_rows):
                raise ValueError(f"has {self.rows} rows and other numbers of changed and new ones in since")
        return self


Record = TypeVar("Record", bound=FileRecord)


def record_of(model: type[Record], folder: Path, name: str, **more: Any) -> Record:
    """The record of a file, as `model`, whose other fields are `more`."""
    return model(**FileRecord.of(folder, name).model_dump(), **more)


def is_export(directory: Path) -> bool:
    """Whether `directory` holds an export of this version."""
    try:
        ExportManifest.read(directory)
    except UserError:
        return False
    return True
