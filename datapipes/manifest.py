"""`manifest.json`: what a dataset directory holds and how it was made."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import TypedDict

from skipwise.common.errors import UserError
from skipwise.common.files import read_json
from skipwise.common.schema import Count, PositiveCount, Sha256, StrictModel, matching, validate
from skipwise.datapipes.directory_kinds import refuse_other_kind
from skipwise.datapipes.track_features import FeatureEntry

MANIFEST = "manifest.json"
HASH = "manifest_hash"
VOCABULARY = "vocabulary.parquet"
RUN_RECORD = "run.json"
"""In a run directory, which has a vocabulary too."""
SESSIONS = "sessions"
SESSIONS_PER_ROW_GROUP = 4096
PREPARE_AGAIN = "prepare the dataset again"
SPLITS = ("train", "validation", "test")
Split = Literal["train", "validation", "test"]
PartName = Annotated[str, matching(r"\w[\w.-]{0,200}", "a plain file name")]  # a path could lead out of the directory

Crc32 = Annotated[str, matching("[0-9a-f]{8}", "8 hexadecimal digits")]


class Counts(TypedDict):
    """How many of each the directory holds."""

    sessions: PositiveCount
    plays: PositiveCount
    tracks: Annotated[int, Field(ge=1, lt=2**31)]
    """Rows of the vocabulary are int32."""


class SplitCounts(TypedDict):
    """How many of each one of train, validation and test holds, in a dataset that is split by whole sessions."""

    sessions: PositiveCount
    plays: PositiveCount
    tracks_not_in_train: Count
    """Distinct tracks that no training session has."""


class SessionLengths(TypedDict):
    """The least and the greatest number of tracks of a session."""

    min: PositiveCount
    max: PositiveCount


def _ordered(lengths: SessionLengths) -> SessionLengths:
    if lengths["min"] > lengths["max"]:
        raise ValueError("min up to max")
    return lengths


class Manifest(StrictModel):
    """The description of a dataset directory; equal inputs and options give equal manifests."""

    counts: Counts
    session_lengths: Annotated[SessionLengths, AfterValidator(_ordered)]
    skip_share: Annotated[float, Field(ge=0, le=1)]
    """Share of the plays that count as skipped: strength 1 or 2."""
    unknown_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the plays of which it is not known whether they were skipped: strength -1."""
    context_columns: list[str]
    """Context columns of the session files, beside `session_id`, `tracks` and `skips`."""
    contexts: dict[str, list[str]] = {}
    """The values that training sees in each of them, sorted; empty in a directory older than these."""
    context_checksums: dict[PartName, dict[str, list[Crc32]]] = {}
    """For each session file and context column, `session_files.Words.checksum` of its row groups."""
    profile: Count = 0
    """The most tracks of a session's profile, those that its listener kept in the sessions before; 0 without."""
    profile_checksums: dict[PartName, list[Crc32]] = {}
    """For each session file, `session_files.checksum` of the profiles of its row groups."""
    parts: dict[PartName, Count]
    """Session files in reading order, each with its number of sessions."""
    vocabulary_hash: Sha256
    """SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    track_columns: dict[str, Count] = {}
    """Columns of the vocabulary that say what a track is called, each with the number of tracks that have it."""
    features: list[FeatureEntry] = []
    """What is known of each track for models to read, in the order of the files in `features/`."""
    sources: list[dict[str, Any]]
    """The files read: `file` (a name, not a whole path) and `bytes`."""
    options: dict[str, Any]
    """The options of `prepare` that decide the contents."""
    dropped_sessions: dict[str, Count]
    """Sessions left out, by reason."""
    dropped_rows: dict[str, Count]
    """Rows left out whose session is unknown, or stays without them, by reason."""
    versions: dict[str, str]
    """The tools that wrote the directory."""
    checksums: dict[str, list[Crc32]] = {}
    """For each session file, `session_files.checksum` of its row groups; empty in a directory older than these."""
    split_parts: dict[Split, list[PartName]] = {}
    """The session files of train, validation and test; empty where the split is by position: a session's last
    track is the test target, the one before it the validation target."""
    split_counts: dict[Split, SplitCounts] = {}
    """What each of them holds."""
    schema_version: int = 1
    """The version of this layout; a reader refuses any other."""

    @model_validator(mode="after")
    def _whole_split(self) -> "Manifest":
        files = sorted(name for names in self.split_parts.values() for name in names)
        filled = {split for split, names in self.split_parts.items() if names}
        if self.split_parts and (filled != set(SPLITS) or files != sorted(self.parts)):
            raise ValueError(f"has split_parts that do not divide its parts into {', '.join(SPLITS)}")
        if self.contexts and self.contexts.keys() != set(self.context_columns):
            raise ValueError("has contexts of other columns than context_columns")
        if self.split_counts.keys() != self.split_parts.keys():
            raise ValueError("has split_counts of other splits than split_parts")
        return self

    @property
    def data_hash(self) -> str:
        """SHA-256, in hex, over what identifies sessions and their split, whichever log and tools they came from."""
        names = ("vocabulary_hash", "counts", "parts", "split_parts", "checksums")
        return digest({name: getattr(self, name) for name in names})

    def context_hash(self, names: Collection[str]) -> str:
        """SHA-256, in hex, over what these context columns say of the plays."""
        checksums = {part: [of.get(name) for name in names] for part, of in self.context_checksums.items()}
        return digest({"values": [(name, self.contexts.get(name)) for name in names], "checksums": checksums})

    @property
    def profile_hash(self) -> str:
        """SHA-256, in hex, over the profiles."""
        return digest({"profile": self.profile, "checksums": self.profile_checksums})

    def skips(self) -> str:
        """Returns which share of the plays is skipped, and of which it is not known."""
        unknown = f", {100 * self.unknown_share:.1f} % not known" if self.unknown_share else ""
        return f"{100 * self.skip_share:.1f} % of them skipped{unknown}"

    def summary(self) -> str:
        """Returns what the directory holds, how it is split and what was left out, in one line."""
        of = self.counts
        return "; ".join(
            [f"{of['sessions']:,} sessions, {of['plays']:,} plays, {of['tracks']:,} tracks", *self._parts()]
        )

    def description(self) -> str:
        """Returns the same and more in lines, each indented."""
        of, lengths = self.counts, self.session_lengths
        split = "by position: of each session the last track is test, the one before it validation"
        if self.split_parts:
            how = self.options.get("split", "session")
            split = "whole sessions by " + ("time" if how == "time" else "a hash of seed and session id")
        lines = [
            f"{of['sessions']:,} sessions of {lengths['min']} to {lengths['max']} tracks",
            f"{of['plays']:,} plays, {self.skips()}",
            f"{of['tracks']:,} tracks",
            f"split: {split}",
        ]
        return "\n".join(f"  {line}" for line in [*lines, *self._parts()])

    def _parts(self) -> list[str]:
        """What each split holds, the context columns, and what was left out."""
        parts = []
        for split, held in sorted(self.split_counts.items(), key=lambda item: SPLITS.index(item[0])):
            new = f", {held['tracks_not_in_train']:,} tracks that no training session has" if split != "train" else ""
            parts.append(f"{split}: {held['sessions']:,} sessions, {held['plays']:,} plays{new}")
        if self.profile:
            parts.append(f"profiles of up to {self.profile:,} tracks")
        if self.contexts:
            sizes = (f"{name} {len(self.contexts[name]):,}" for name in self.context_columns)
            parts.append(f"context columns and their values: {', '.join(sizes)}")
        if self.track_columns:
            counts = (f"{name} {count:,}" for name, count in self.track_columns.items())
            parts.append(f"names of tracks: {', '.join(counts)}")
        if self.features:
            told = (
                f"{of.name} {of.tracks:,}" + (f" by {of.width:,} values" if of.kind == "values" else "")
                for of in self.features
            )
            parts.append(f"features of tracks: {', '.join(told)}")
        dropped = [f"{count:,} sessions {reason}" for reason, count in self.dropped_sessions.items()]
        dropped += [f"{count:,} rows {reason}" for reason, count in self.dropped_rows.items()]
        return parts + ([f"dropped {', '.join(dropped)}"] if dropped else [])

    def write(self, directory: Path) -> None:
        """Writes `manifest.json` into `directory`."""
        content = self.model_dump()
        content[HASH] = digest(content)
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Reads `manifest.json` of a dataset directory; raises `UserError` where it is missing, broken or too new."""
        refuse_other_kind(Path(directory), "dataset")
        path = Path(directory) / MANIFEST
        content = read_json(path, f"what prepare wrote; {PREPARE_AGAIN}")
        manifest = validate(cls, {name: value for name, value in content.items() if name != HASH}, path, PREPARE_AGAIN)
        if HASH in content and content[HASH] != digest(content):
            raise UserError(f"{path} is not as prepare wrote it, by its {HASH}: {PREPARE_AGAIN}")
        return manifest


def digest(content: dict[str, Any]) -> str:
    """Returns the SHA-256, in hex, of a manifest's fields without `manifest_hash`, however the file is laid out."""
    rest = {name: value for name, value in content.items() if name != HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
