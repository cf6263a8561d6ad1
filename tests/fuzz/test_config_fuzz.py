"""Hostile configs: values of any type and YAML of any shape end as the config that was asked or as one sentence."""

import math
import os
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from skipwise.common.files import read_yaml
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping
from tests.fuzz.cases import VALUES, at, cases, is_sound, kinds_of, outcome, plausible

KINDS = kinds_of(RunConfig)
Changes = list[tuple[tuple[str, ...], Any]]
LINES = st.sampled_from(
    "data: {batch_size: 32}|data: &a [*a]|a: &a [x, x]\nb: [*a, *a]|train: {epochs: 2, epochs: 3}|"
    "? [1, 2]\n: 3|2020-01-01: 4|null: 5|loss: !!python/object/apply:os.abort []|loss: !!python/name:os.abort|"
    "loss: {alpha: !!float x}|train: {seed: !!int ''}|train: {seed: 0xHUGE}|loss: !!binary '%'|"
    "loss: !!bool maybe|loss: !!timestamp no|run_dir: 2020-13-45|<<: {run_dir: a}|run_dir: \"\\uD800\"|"
    "--- 1\n--- 2|%YAML 9.9\n---|loss: {alpha: .nan}|loss: !!set {a}|loss: !!omap [a: 1]|"
    "train: {seed: 1:99:99:99}|run_dir: !!str [a]".replace("HUGE", "f" * 5000).split("|")
)  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Changes:
    """A few fields with values that mostly fit their types, and sometimes anything at all."""
    chosen = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3))
    return [(path, draw(plausible(KINDS[path]) if draw(st.integers(0, 2)) else VALUES)) for path in chosen]


def nested(changes: Changes) -> dict[str, Any]:
    """The sections that set these fields."""
    mapping: dict[str, Any] = {}
    for path, value in changes:
        reduce(lambda place, name: place.setdefault(name, {}), path[:-1], mapping)[path[-1]] = value
    return mapping


@cases(2000)
@given(changes())
@example([(("data", "skip_up_to"), True)])
@example([(("data", "skip_up_to"), 2.0)])
@example([(("loss", "alpha"), 10**400)])
@example([(("loss", "alpha"), math.nan)])
@example([(("loss", "alpha"), b"1")])
@example([(("train", "epochs"), 1 << 20000)])
@example([(("data", "batch_size"), 10**12)])
@example([(("encoder", "max_length"), 2**31)])
@example([(("run_dir",), "a\0b")])
def test_values_of_any_type(changes: Changes):
    """Oracle: the config holds exactly the values asked, each of its field's own type."""
    config = outcome("values", lambda: from_mapping(RunConfig(), nested(changes), "my.yaml"), "my.yaml")
    if config is None:
        return
    is_sound(config)
    for path in KINDS:
        asked = dict(changes).get(path, at(RunConfig(), path))
        assert type(at(config, path)) is type(at(RunConfig(), path))
        assert at(config, path) == (float(asked) if isinstance(at(config, path), float) else asked), path


@cases(2000)
@given(
    st.one_of(
        st.lists(LINES | st.text(max_size=30), max_size=4).map("\n".join),
        st.binary(max_size=60),
        VALUES,
        changes().map(nested),
    )
)
@example("a: &a [x, x]\nb: &b [*a, *a]")
@example("train: {epochs: 2, epochs: 3}")
@example("run_dir: 2020-13-45")
@example("train: {seed: !!int ''}")
@example("[" * 20_000)
@example("{a: " * 20_000)
@example("- " * 20_000)
@example("a" * 300_000)
def test_documents(folder: Path, document: str | bytes | Any):
    """Oracle: what is no text of ours is one sentence that names the file; a valid document gives a sound config."""
    file = folder / "hostile.yaml"
    if isinstance(document, bytes):
        file.write_bytes(document)
    elif isinstance(document, str):
        file.write_text(document, encoding="utf-8", errors="surrogatepass")
    else:
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
    config = outcome("documents", lambda: from_mapping(RunConfig(), read_yaml(file), str(file)), str(file))
    if config is not None:
        is_sound(config)
        if isinstance(document, dict):
            assert config == from_mapping(RunConfig(), document, "what was asked")
        again = folder / "again.yaml"
        again.write_text(yaml.safe_dump(asdict(config)), encoding="utf-8")
        assert from_mapping(RunConfig(), read_yaml(again), str(again)) == config


def test_files_that_are_none_are_refused(folder: Path):
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", Path("/dev/zero"), folder, folder / "none", folder / ("x" * 300)):
        assert outcome("documents", lambda path=path: read_yaml(path), str(path)) is None
