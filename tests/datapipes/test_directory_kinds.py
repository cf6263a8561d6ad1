"""A directory of the wrong kind is named for what it is."""

from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.directory_kinds import refuse_other_kind
from skipwise.datapipes.manifest import Manifest
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.training.run.directory import RunDirectory

READERS = {"dataset": Manifest.read, "run": lambda path: RunDirectory.open(str(path)), "export": ExportManifest.read}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    marks = {"run": ["run.json"], "dataset": ["manifest.json", "sessions"], "export": ["manifest.json", "embeddings"]}
    for kind, names in marks.items():
        for name in names:
            (tmp_path / kind / name).mkdir(parents=True)
    return {kind: tmp_path / kind for kind in marks}


@pytest.mark.parametrize(
    ("wanted", "given", "says"),
    [
        ("dataset", "run", "is a run directory, which train writes: name a dataset directory, which prepare writes"),
        ("dataset", "export", "is an export, which export writes: name a dataset directory"),
        ("run", "dataset", "is a dataset directory, which prepare writes: name a run directory, which train writes"),
        ("run", "export", "is an export, which export writes: name a run directory"),
        ("export", "run", "is a run directory, which train writes: name an export, which export writes"),
        ("export", "dataset", "is a dataset directory, which prepare writes: name an export"),
    ],
)
def test_each_reader_names_what_it_was_given(wanted: str, given: str, says: str, folders: dict[str, Path]):
    with pytest.raises(UserError, match=f"{given} {says}"):
        READERS[wanted](folders[given])


@pytest.mark.parametrize("wanted", READERS)
def test_a_file_is_none(wanted: str, tmp_path: Path):
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(UserError, match="log.csv is a file: name an? "):
        READERS[wanted](tmp_path / "log.csv")


def test_a_folder_of_no_kind_or_of_the_right_one_passes(folders: dict[str, Path], tmp_path: Path):
    for kind, folder in folders.items():
        refuse_other_kind(folder, kind)
        refuse_other_kind(tmp_path / "missing", kind)
        refuse_other_kind(tmp_path, kind)
