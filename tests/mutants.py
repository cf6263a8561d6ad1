"""Mutation testing: small changes to the product that no test notices are missing tests. `make mutants` runs it.

    python tests/mutants.py 12 0 models datapipes ...

tries 12 mutants a module, drawn with seed 0, in these folders or files, on a copy of the repository. A mutant is one
change to one place in the source (cosmic-ray's operators; types and messages are left alone). It is killed if a test of
its module's room fails or takes too long; those that name the module run first. `equivalent_mutants.txt` names those
that change no behaviour. Torch is loaded once: each mutant is tried in a fork.
"""

import ast
import importlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "duckdb",
    "fbgemm_gpu",
    "hypothesis",
    "pandas",
    "pyarrow.csv",
    "pyarrow.parquet",
    "scipy.stats",
    "torch.export",
    "torch.utils.tensorboard",
    "torchmetrics",
    "torchrec.distributed.model_parallel",
)
LEFT_OUT = ("Variable", "RemoveDecorator", "ExceptionReplacer")
"""Operators of which nearly all mutants change nothing, or fail at import."""
EQUIVALENT = "equivalent_mutants.txt"
NO_TESTS = 5
"""Exit status of pytest where none is selected."""

Place = tuple[tuple[int, int], tuple[int, int]]
"""First and last (line, column) in a source."""


def mutants(source: str) -> dict[Place, list[tuple[Operator, int]]]:
    """By place, the operators that change it, each with the number of the place among its own."""
    tree = ast.parse(source)
    spared = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Raise)]
    for node in ast.walk(tree):
        spared += [getattr(node, name) for name in ("annotation", "returns") if getattr(node, name, None)]
    ranges = [((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in spared]
    found: dict[Place, list[tuple[Operator, int]]] = {}
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments() or any(part in name for part in LEFT_OUT):
            continue
        operator = operator_class()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if not any(first <= start and end <= last for first, last in ranges):
                found.setdefault((start, end), []).append((operator, occurrence))
    return found


def tests_of(module: Path) -> list[str]:
    """The test files of the module's room: those that name it, then the others, the slow ones of `prepare` last."""
    room = Path("tests") / module.parent
    while not any(room.glob("test_*.py")):
        room = room.parent
    if module.parts[0] == "studies" and (own := room / f"test_{module.stem}.py").exists():
        return [str(own)]
    dotted = "skipwise." + ".".join(module.with_suffix("").parts)
    files = sorted(room.glob("test_*.py"), key=lambda file: (dotted not in file.read_text(), "prepare" in file.stem))
    return [str(file) for file in files]


def lives(arguments: list[str]) -> bool:
    """Whether a mutant passes these tests, by pytest in a fork; a test that hangs fails by pytest's own limit."""
    child = os.fork()
    if not child:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, NO_TESTS)


def changed_line(before: str, after: str) -> tuple[int, str, str]:
    """The number of the first line that differs, and both versions of it."""
    pairs = enumerate(zip(before.splitlines(), after.splitlines(), strict=False), 1)
    return next((number, old.strip(), new.strip()) for number, (old, new) in pairs if old != new)


def copy_repository(home: Path) -> None:
    """A copy as the package `skipwise` in `home`, which this process and those that it starts import from now on."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        (home / "skipwise" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, home / "skipwise" / name)
    os.chdir(home / "skipwise")
    sys.path[0:1] = [str(home), str(home / "skipwise")]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])


def forget_compiled(module: Path) -> None:
    """A file written twice in a second would be taken for the one compiled before."""
    for compiled in module.parent.glob(f"__pycache__/{module.stem}.*"):
        compiled.unlink()


def try_module(module: Path, count: int, seed: int, equivalent: set[tuple[str, str]]) -> Counter[str]:
    """How many of `count` mutants, or of all, met each end; prints those that lived."""
    source, draw, ends = module.read_text(), random.Random(f"{seed} {module}"), Counter[str]()
    places = sorted(mutants(source).items())
    for _, choices in draw.sample(places, min(count, len(places))):
        mutated = mutate_code(source, *draw.choice(choices))
        number, old, new = changed_line(source, mutated)
        if (str(module), new) in equivalent:
            ends["equivalent"] += 1
            continue
        module.write_text(mutated)
        forget_compiled(module)
        # Tests that start several processes are slow: only what passes all others meets them.
        marks = "not ranks and not soak", "ranks and not soak"
        if all(lives(["-m", mark, *tests_of(module)]) for mark in marks):
            ends["lived"] += 1
            print(f"lived: {module}:{number}\n    {old}\n    {new}", flush=True)
        else:
            ends["killed"] += 1
        module.write_text(source)
    forget_compiled(module)
    print(f"{module}: {dict(ends)}", flush=True)
    return ends


def main(count: int, seed: int, rooms: list[str]) -> None:
    """Tries `count` mutants of each module of the rooms, and prints the counts of each room."""
    for name in PRELOADED:
        importlib.import_module(name)
    lines = (ROOT / "tests" / EQUIVALENT).read_text().splitlines()
    equivalent = {(module, line) for module, line, _ in (entry.split(" | ") for entry in lines if " | " in entry)}
    with tempfile.TemporaryDirectory(prefix="mutants-") as home:
        copy_repository(Path(home))
        for room in rooms:
            ends = Counter[str]()
            for module in sorted(Path(room).glob("*.py")) or [Path(room)]:
                ends += try_module(module, count, seed, equivalent)
            tried = ends["killed"] + ends["lived"]
            print(f"{room}: {ends['killed']} of {tried} killed, {ends['equivalent']} equivalent", flush=True)
        os.chdir(ROOT)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
