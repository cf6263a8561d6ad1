"""Damaged run directories and export manifests: read as they stand, or refused with one sentence."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.components.show import ShowConfig, show
from skipwise.models.config import EncoderConfig
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.run.directory import RunDirectory
from tests.fuzz.cases import NUMBERS, cases, is_sound, outcome

RECORD = {
    "schema_version": 2,
    "recipe": "best",
    "ranks": 4,
    "vocabulary_hash": "0" * 64,
    "counts": {"sessions": 9, "plays": 90, "tracks": 30},
    "rows": 30,
    "rows_hash": "0" * 64,
    "versions": {"torch": "2"},
}
FIGURES = {name: 0.5 for name in ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")} | {"sessions": 9, "targets": 9}
METRICS = {
    **{protocol: {"validation": FIGURES, "test": FIGURES} for protocol in PROTOCOLS},
    "train": {"epochs": 3, "seconds": 2.5, "sessions_per_s": 9.0, "best_epoch": 2},
}
PROGRAM = {"file": "encoder.pt2", "bytes": 7, "sha256": "0" * 64}
PART = {"file": "embeddings/part-00000.parquet", "first_row": 0, "rows": 30, "bytes": 9, "sha256": "0" * 64}
TRACKS = PART | {"file": "tracks/part-00000.parquet"}
QUERIES = PROGRAM | {"file": "queries.npy", "rows": 4}
ENCODER = PROGRAM | {
    "direction": "unidirectional", "max_length": 20, "max_tracks": 20, "inputs": {}, "output": {}, "note": ""
}  # fmt: skip
WEIGHTS = PROGRAM | {"file": "encoder.safetensors", "config": asdict(EncoderConfig())}
ONNX = PROGRAM | {"file": "encoder.onnx", "opset": 20, "largest_difference": 1e-6}
INDEX = PROGRAM | {
    "kind": "hnsw", "metric": "inner product", "built": {"M": 32}, "search": {"efSearch": 64},
    "wanted": {"recall_at_10": 0.95, "k": 100}, "measured": [], "queries": 4, "queries_a_call": 64, "threads": 1,
    "versions": {"faiss-cpu": "1"}, "file": "index-0123456789ab.faiss",
}  # fmt: skip
SINCE = {
    "run": "runs/old", "rows_hash": "1" * 64, "table_rows": 50, "changed": 20, "new": 10, "unchanged": 20, "gone": 3,
    "gone_tracks": PROGRAM | {"file": "gone.parquet", "rows": 3},
}  # fmt: skip
POINT = {
    "dial": 0.0, "hr_at_10": 0.7, "kept_hr_at_10": 0.71, "skipped_hr_at_10": 0.69, "pairs_in_order": 0.4,
    "skip_rate": 0.5, "gain": None,
}  # fmt: skip
KEEP = {"dim": 3, "dial": 0.5, "curve": [POINT, POINT | {"dial": 0.5}], "targets": 90, "split": "validation"}
SKIPS = {"name": "skips", "values": ["kept", "skipped"], "first_row": 0}
EXPORT = {
    "rows": 30, "dim": 8, "format": "npy", "dtype": "int8", "vocabulary_hash": "0" * 64, "parts": [PART],
    "tracks": [TRACKS], "encoder": ENCODER, "weights": WEIGHTS, "onnx": ONNX, "queries": QUERIES, "index": INDEX,
    "since": SINCE, "keep": KEEP, "signals": [SKIPS],
    "compared": {}, "recipe": "best", "config": {}, "trained": RECORD, "versions": {}, "schema_version": 2,
}  # fmt: skip
BROKEN_EXPORTS = [
    {"schema_version": 1}, {"format": "faiss"}, {"format": "csv"}, {"dtype": "int4"}, {"format": "parquet"},
    {"tracks": []}, {"tracks": [TRACKS | {"rows": 29}]}, {"tracks": [TRACKS | {"file": "../ids"}]},
    {"queries": {}}, {"queries": QUERIES | {"rows": -1}}, {"queries": QUERIES | {"file": "/etc/passwd"}},
    {"onnx": ONNX | {"opset": "20"}}, {"onnx": ONNX | {"sha256": "0"}}, {"index": INDEX | {"file": "../index"}},
    {"index": []}, {"index": INDEX | {"file": None}}, {"weights": WEIGHTS | {"file": "../weights"}},
    {"weights": WEIGHTS | {"config": {"width": 20}}}, {"weights": WEIGHTS | {"config": {"heads": 0}}},
    {"keep": {"dim": 3}}, {"keep": KEEP | {"dim": 8}}, {"keep": KEEP | {"dim": 0}}, {"keep": KEEP | {"dial": 0.4}},
    {"keep": KEEP | {"curve": []}}, {"keep": KEEP | {"curve": [POINT | {"dial": 0.5}]}},
    {"keep": KEEP | {"split": "train"}},
    {"keep": KEEP | {"curve": [POINT, POINT | {"dial": 0.5}, POINT | {"dial": 0.5}]}},
    {"keep": KEEP | {"curve": [POINT, POINT | {"dial": 0.5, "hr_at_10": 1.5}]}},
    {"keep": KEEP | {"dial": 101.0, "curve": [POINT, POINT | {"dial": 101.0}]}},
    {"signals": {}}, {"signals": [SKIPS | {"first_row": -1}]}, {"signals": [SKIPS | {"values": "kept"}]},
    {"since": {"run": "runs/old"}}, {"since": SINCE | {"new": 11}}, {"since": SINCE | {"table_rows": 51}},
    {"since": SINCE | {"gone_tracks": {}}},
    {"since": SINCE | {"gone_tracks": PROGRAM | {"file": "../gone", "rows": 3}}},
    {"parts": [PART | {"first_row": False}]}, {"parts": [PART | {"rows": 31}]}, {"dtype": ["int8"]},
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, content: dict[str, Any]) -> tuple[bytes, dict[str, Any] | None]:
    """A file's bytes, and what they mean where they still are its own JSON: values and keys changed, bytes damaged."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(0, 2))):
        place: Any = content
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or draw(st.booleans()):
                break
            place = place[key]
        if not place:
            continue
        if draw(st.booleans()):
            json_values = st.none() | st.booleans() | NUMBERS | st.text(max_size=4) | st.just([]) | st.just({"a": 1})
            place[key] = draw(json_values)
        else:
            del place[key]
    text = json.dumps(content).encode()
    if draw(st.integers(0, 3)):
        return text, content
    first = draw(st.integers(0, len(text)))
    return text[:first] + draw(st.binary(max_size=3)) + text[first + draw(st.integers(0, len(text))) :], None


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    run = folder / "run"
    run.mkdir()
    return run


def write_run(run: Path, record: bytes | None = None, metrics: bytes | None = None, config: bytes | None = None):
    (run / "run.json").write_bytes(json.dumps(RECORD).encode() if record is None else record)
    (run / "metrics.json").write_bytes(json.dumps(METRICS).encode() if metrics is None else metrics)
    (run / "config.yaml").write_bytes(yaml.safe_dump(asdict(RunConfig())).encode() if config is None else config)


@cases(500)
@given(mutated(RECORD))
@example((json.dumps(RECORD | {"schema_version": True}).encode(), None))
@example((b"[" * 100_000, None))
@example((json.dumps(RECORD | {"counts": 5}).encode(), None))
def test_run_records(run: Path, record: tuple[bytes, Any]):
    write_run(run, record=record[0])
    found = outcome("run.json", lambda: RunDirectory.open(str(run)), "run.json")
    if found is None:
        return
    assert found.record.schema_version == 2 and found.record.counts["tracks"] > 0
    if content := record[1]:
        expected = {
            "data_hash": None,
            "launch": None,
            "trained_before": [],
            "contexts": {},
            "context_hash": None,
            "features_hash": None,
            "profile_hash": None,
            "values": 0,
        } | content
        if content.keys().isdisjoint({"rows", "rows_hash"}):  # as runs from before init_from
            expected |= {"rows": content["counts"]["tracks"], "rows_hash": content["vocabulary_hash"]}
        assert json.dumps(found.record.model_dump(by_alias=True), sort_keys=True) == json.dumps(
            expected, sort_keys=True
        )


@cases(500)
@given(mutated(METRICS))
@example((b'{"full": 5}', None))
@example((b'{"full": {"test": {}}}', None))
@example((b'{"full": {"test": {"targets": 9}}}', None))
@example((b'{"uniform": {"test": {"hr@1": 1}}}', None))
def test_metrics(run: Path, metrics: tuple[bytes, Any]):
    write_run(run, metrics=metrics[0])
    with redirect_stdout(io.StringIO()):
        outcome("metrics.json", lambda: show(ShowConfig(((str(run),),))), "metrics.json")


CONFIG_LINES = yaml.safe_dump(asdict(RunConfig())).splitlines()


@cases(150)
@given(
    st.integers(0, len(CONFIG_LINES) - 1),
    st.one_of(st.just(""), st.sampled_from(CONFIG_LINES), st.text(max_size=9)),
    st.booleans(),
)
def test_run_configs(run: Path, place: int, line: str, cut: bool):
    found = [*CONFIG_LINES[:place], line, *([] if cut else CONFIG_LINES[place + 1 :])]
    write_run(run, config="\n".join(found).encode("utf-8", "replace"))
    opened = outcome("config.yaml", lambda: RunDirectory.open(str(run)), "config.yaml")
    if opened is not None:
        is_sound(opened.config)


def comparable(content: Any) -> Any:
    """A NaN is not equal to itself, and the manifest has 1 and 1.0 for the same number."""
    return json.loads(json.dumps(content), parse_constant=str, parse_int=float)


@cases(900)
@given(mutated(EXPORT))
@example((json.dumps(EXPORT | {"parts": [PART | {"file": "../../etc/passwd"}]}).encode(), None))
@example((json.dumps(EXPORT | {"encoder": ENCODER | {"file": "/etc/passwd"}}).encode(), None))
def test_export_manifests(folder: Path, manifest: tuple[bytes, Any]):
    (folder / "manifest.json").write_bytes(manifest[0])
    found = outcome("export manifest", lambda: ExportManifest.read(folder), "manifest.json")
    if found is not None:
        assert sum(part.rows for part in found.parts) == found.rows
        named = [found.encoder, found.weights, found.queries, found.onnx, found.index]
        named += [*found.parts, *found.tracks, found.since and found.since.gone_tracks]
        for entry in named:
            if entry and entry.file:
                assert (folder / entry.file).resolve().is_relative_to(folder.resolve())
        written = found.model_dump()
        for name in written.keys() - {"weights"} if manifest[1] else ():
            assert comparable(written[name] or None) == comparable(manifest[1].get(name) or None)


@pytest.mark.parametrize("change", BROKEN_EXPORTS, ids=lambda change: next(iter(change)))
def test_export_manifests_that_contradict_themselves(folder: Path, change: dict[str, Any]):
    (folder / "manifest.json").write_text(json.dumps(EXPORT))
    ExportManifest.read(folder)
    (folder / "manifest.json").write_text(json.dumps(EXPORT | change))
    with pytest.raises(UserError, match="manifest.json.*[:;] export again"):
        ExportManifest.read(folder)
