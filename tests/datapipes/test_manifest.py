"""Reading a manifest that is not what this version wrote."""

import json

import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest

MANIFEST = Manifest(
    counts={"sessions": 1, "plays": 3, "tracks": 2},
    session_lengths={"min": 3, "max": 3},
    skip_share=0.5,
    context_columns=[],
    parts={"part-00000.parquet": 1},
    vocabulary_hash="0" * 64,
    sources=[{"file": "log.csv", "bytes": 9}],
    options={"seed": 0},
    dropped_sessions={},
    dropped_rows={},
    versions={"python": "3"},
)


def test_what_is_written_is_read(tmp_path):
    MANIFEST.write(tmp_path)
    assert Manifest.read(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "has schema_version 2, this version reads 1: prepare the dataset again"),
        ({"schema_version": None}, "has schema_version None"),
        ({"schema_version": True}, "has schema_version True"),
        ({"counts": ...}, "has no field 'counts': prepare the dataset again"),
        ({"counts": {"sessions": 1, "plays": 3}}, "has no field 'counts.tracks': prepare the dataset again"),
        ({"counts": {"sessions": 1, "plays": 3, "tracks": 2.0}}, "counts.tracks is 2.0: expected a valid integer"),
        ({"counts": {"sessions": 1, "plays": 3, "tracks": 2**31}}, "counts.tracks is .*: expected a number less than"),
        ({"session_lengths": {"min": 3, "max": 2}}, "session_lengths is .*: expected min up to max"),
        ({"vocabulary_hash": "0" * 63}, "vocabulary_hash is .*: expected 64 hexadecimal digits"),
        ({"manifest_hash": None}, "is not as prepare wrote it, by its manifest_hash"),
        ({"parts": {"../part.parquet": 1}}, "parts has the key '../part.parquet': expected a plain file name"),
        ({"skip_share": float("nan")}, "skip_share is nan: expected a finite number"),
        ({"skip_share": 0.25}, "is not as prepare wrote it, by its manifest_hash: prepare the dataset again"),
        ({"skip_shar": 0.5}, "has an unknown field 'skip_shar'"),
    ],
)
def test_another_version_is_refused(change, says, tmp_path):
    MANIFEST.write(tmp_path)
    content = {**json.loads((tmp_path / "manifest.json").read_text()), **change}
    kept = {name: value for name, value in content.items() if value is not ...}
    (tmp_path / "manifest.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=says):
        Manifest.read(tmp_path)


def test_a_manifest_that_is_missing_or_broken_is_refused(tmp_path):
    with pytest.raises(UserError, match="manifest.json cannot be read"):
        Manifest.read(tmp_path)
    for text in ("{", "[1]", "3", "\N{NULL}"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="prepare the dataset again"):
            Manifest.read(tmp_path)


def test_the_layout_of_the_text_is_of_no_account(tmp_path):
    MANIFEST.write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert Manifest.read(tmp_path) == MANIFEST


def test_a_manifest_older_than_its_hash_and_splits_is_read(tmp_path):
    MANIFEST.write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                name: content[name]
                for name in content.keys() - {"checksums", "manifest_hash", "split_parts", "split_counts"}
            }
        )
    )
    assert Manifest.read(tmp_path) == MANIFEST


@pytest.mark.parametrize("files", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "d"]])
def test_splits_that_do_not_divide_the_parts_are_refused(files: list[str]):
    """The parts are a, b and c."""
    names = {"train": files[:1], "validation": files[1:2], "test": files[2:]}
    counts = {split: {"sessions": 1, "plays": 3, "tracks_not_in_train": 0} for split in names}
    whole = {**MANIFEST.model_dump(), "parts": {"a": 1, "b": 1, "c": 1}, "split_counts": counts}
    Manifest(**whole | {"split_parts": {"train": ["a"], "validation": ["b"], "test": ["c"]}})
    with pytest.raises(ValueError, match="has split_parts that do not divide its parts into train, validation, test"):
        Manifest(**whole | {"split_parts": names})


def test_the_summary_tells_of_tracks_that_training_lacks():
    split_counts = {
        "test": {"sessions": 2, "plays": 8, "tracks_not_in_train": 1},
        "train": {"sessions": 5, "plays": 20, "tracks_not_in_train": 0},
        "validation": {"sessions": 1, "plays": 3, "tracks_not_in_train": 0},
    }
    parts = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    manifest = Manifest(
        **MANIFEST.model_dump() | {"parts": dict.fromkeys("abc", 1), "split_parts": parts, "split_counts": split_counts}
    )
    assert manifest.summary() == (
        "1 sessions, 3 plays, 2 tracks; train: 5 sessions, 20 plays; "
        "validation: 1 sessions, 3 plays, 0 tracks that no training session has; "
        "test: 2 sessions, 8 plays, 1 tracks that no training session has"
    )
