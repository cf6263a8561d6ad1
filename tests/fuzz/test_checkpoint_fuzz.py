"""Checkpoints that anything may have happened to: read as they were written, or refused in one sentence.

Some cases put the right hash onto a wrong index: nothing that such a file says may be executed, or read out of place.
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.training.checkpoint.checkpoint_index import write_index
from skipwise.training.checkpoint.checkpoints import (
    INDEX,
    Checkpoints,
    best_checkpoint,
    find_newest,
    load_tensors,
    open_checkpoint,
)
from skipwise.training.run.directory import CHECKPOINTS
from skipwise.training.run.position import Position
from tests.fuzz.dataset import check_sentence
from tests.fuzz.mutate import mutated
from tests.fuzz.tally import Tally, cases, patience

TALLY = Tally("checkpoints")
PART = "part-00000.safetensors"
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, 10**30, -1.5, float("nan"), float("inf")]),
    st.sampled_from(["", "../../../etc/passwd", "/etc/passwd", "part-00001.safetensors", "F64", "Q4", "x\ny"]),
    st.lists(st.integers(-1, 9), max_size=3),
    st.just({}),
    st.just([[]]),
)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    with process_group():
        yield
    print(f"\n{TALLY}")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"model.rows": torch.randn(7, 4), "model.bias": torch.randn(5), "optimizer.step": torch.tensor(3.0)}


@pytest.fixture(scope="module")
def made(tensors, tmp_path_factory) -> Path:
    """A run directory with one checkpoint."""
    run = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(run, 2, {"vocabulary_hash": "0" * 64})
    checkpoints.save(tensors, Position(step=2, best_checkpoint=Position(step=2).name))
    checkpoints.close()
    return run


def judge(run: Path, tensors: dict[str, torch.Tensor], what: str | None) -> None:
    """Reads the way `evaluate` and the way a resumed run does.

    Without `what` the index may be another than was written, under its own right hash, and so its position may be.
    """
    found = {name: torch.full_like(tensor, -7.0) for name, tensor in tensors.items()}
    with patience():
        try:
            path = best_checkpoint(run)
            load_tensors(found, path, open_checkpoint(path))
        except UserError as error:
            check_sentence(str(error), CHECKPOINTS)
            TALLY.counts["refused"] += 1
        else:
            for name, tensor in tensors.items():
                assert torch.equal(found[name], tensor), f"{what}: {name} was read as something else"
            TALLY.counts["harmless"] += 1
        newest = find_newest(run)
        if newest and what:
            assert newest[1].position == Position(step=2, best_checkpoint=Position(step=2).name), what


@pytest.mark.parametrize("name", [INDEX, PART])
def test_changed_bytes(name: str, made: Path, tensors, tmp_path: Path):
    run = tmp_path / "run"
    content = (made / CHECKPOINTS / Position(step=2).name / name).read_bytes()

    @given(mutated(content))
    @cases(800)
    def check(changed: bytes) -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(made, run)
        (run / CHECKPOINTS / Position(step=2).name / name).write_bytes(changed)
        judge(run, tensors, name)

    check()


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path to every value inside a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


def test_a_wrong_index_with_the_right_hash(made: Path, tensors, tmp_path: Path):
    run = tmp_path / "run"
    content = json.loads((made / CHECKPOINTS / Position(step=2).name / INDEX).read_text())["content"]

    @given(st.lists(st.tuples(st.sampled_from(places(content)), JUNK, st.booleans()), min_size=1, max_size=2))
    @cases(1200)
    def check(changes: list[tuple[tuple, Any, bool]]) -> None:
        forged = {"whole": copy.deepcopy(content)}
        for path, junk, remove in changes:
            place, *rest = ("whole", *path)
            parent: Any = forged
            try:
                for key in rest:
                    parent, place = parent[place], key
                if remove:
                    del parent[place]
                else:
                    parent[place] = copy.deepcopy(junk)
            except (KeyError, IndexError, TypeError):
                continue  # the first change took it away
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(made, run)
        write_index(run / CHECKPOINTS / Position(step=2).name / INDEX, forged.get("whole"))
        judge(run, tensors, None)

    check()


@pytest.mark.parametrize("name", ["best", "latest", INDEX, PART, "."])
@pytest.mark.parametrize("kind", ["gone", "empty", "folder", "pipe", "loop", "device"])
def test_what_is_no_file(name: str, kind: str, made: Path, tensors, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(made, run)
    folder = run / CHECKPOINTS / Position(step=2).name
    target = folder if name == "." else (run / CHECKPOINTS if name in ("best", "latest") else folder) / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if kind == "empty":
        target.touch()
    elif kind == "folder":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "loop":
        target.symlink_to(target)
    elif kind == "device":
        target.symlink_to("/dev/zero")
    judge(run, tensors, f"{name}: {kind}")


def test_other_shapes_and_names(made: Path, tensors):
    path = best_checkpoint(made)
    for name, tensor in (("model.rows", torch.zeros(8, 4)), ("model.rows", torch.zeros(7, 5)), ("new", torch.zeros(1))):
        with pytest.raises(UserError) as refused:
            load_tensors({name: tensor}, path, open_checkpoint(path))
        check_sentence(str(refused.value), CHECKPOINTS)
        TALLY.counts["refused"] += 1
