"""The sample is made where it is asked for and missing, on rank 0, from a log that is kept; nowhere else."""

from pathlib import Path

import pytest

from skipwise.datapipes import sample
from skipwise.datapipes.manifest import Manifest


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A small sample, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "_SESSIONS", 300)
    monkeypatch.setattr(sample, "_TRACKS", 200)
    return tmp_path


def test_it_is_made_once(here: Path, monkeypatch):
    for path in ("data/another", "a", "z"):
        sample.ensure_sample(path)
    monkeypatch.setattr(sample, "rank", lambda: 1)
    monkeypatch.setattr(sample, "leads_machine", lambda: False)
    sample.ensure_sample(sample.SAMPLE)
    assert not any(here.iterdir())
    monkeypatch.setattr(sample, "rank", lambda: 0)
    sample.ensure_sample(sample.SAMPLE)
    assert Manifest.read(here / sample.SAMPLE).counts["sessions"] == 300
    monkeypatch.setattr(sample, "prepare", None)  # a second time nothing is made
    sample.ensure_sample(sample.SAMPLE)


def test_a_log_that_is_there_is_prepared(here: Path, monkeypatch):
    sample.ensure_sample(sample.SAMPLE)
    (here / sample.SAMPLE).rename(here / "first")
    monkeypatch.setattr(sample, "synthesize", None)
    sample.ensure_sample(sample.SAMPLE)
    assert Manifest.read(here / sample.SAMPLE).checksums == Manifest.read(here / "first").checksums
