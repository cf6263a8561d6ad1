"""The rules of the house (CONTRIBUTING.md): who imports whom, how files are named and how long they are."""

import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "datapipes", "models", "training", "studies", "retrieval", "components", "benchmarks")
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = [
    Path(name)
    for name in subprocess.run(LISTED, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    if (ROOT / name).is_file()
]
PRODUCT = [path for path in FILES if path.parts[0] in ROOMS and "results" not in path.parts]
SOURCES = [path for path in PRODUCT if path.suffix == ".py"]
NAMED_ALIKE = {"config.py", "__init__.py", "__main__.py"}
# Modules that `--help` may reach: they load neither torch nor what loads it.
LIGHT = [
    path
    for path in SOURCES
    if path.name == "config.py" or (path.parts[0] in ("common", "components") and path.name != "__main__.py")
]
MAY_LOAD_TORCH = {"common/distributed.py", "common/machine.py"}
HEAVY = ("torch", "torchrec", "fbgemm_gpu")


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def module_of(path: Path) -> str:
    return ".".join(["skipwise", *path.with_suffix("").parts]).removesuffix(".__init__")


def test_each_room_imports_only_those_below_it():
    """The contracts stand in pyproject.toml; `make imports` runs the same."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_circle_of_imports():
    graph = grimp.build_graph("skipwise", cache_dir=None)
    edges = [(module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)]
    groups = networkx.strongly_connected_components(networkx.DiGraph(edges))
    assert [sorted(group) for group in groups if len(group) > 1] == []


def test_nothing_of_the_product_imports_its_public_api():
    graph = grimp.build_graph("skipwise", cache_dir=None)
    assert graph.find_modules_that_directly_import("skipwise") <= {"skipwise.__main__"}


def test_configs_and_commands_load_no_torch():
    modules = [module_of(path) for path in LIGHT if str(path) not in MAY_LOAD_TORCH]
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, (module, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_name_stands_for_one_file():
    """A command file is named by its command, so it may share its name with what it calls."""
    commands = {path for path in SOURCES if path.parent == Path("components")}
    names = Counter(path.name for path in PRODUCT if path not in commands and path.name not in NAMED_ALIKE)
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short():
    lengths = {path: text_of(path).count("\n") for path in PRODUCT if path.suffix not in (".png", ".svg")}
    assert {str(path): lines for path, lines in lengths.items() if lines > 300} == {}
    assert 60 <= statistics.median(lengths[path] for path in SOURCES if path.name != "__init__.py") <= 130


def test_the_loop_is_visible_at_once():
    assert text_of(Path("training/loop.py")).count("\n") <= 150


@pytest.mark.parametrize("suffix", [".py", ".md", ".ipynb"])
def test_nothing_imports_a_room_by_its_old_name(suffix):
    old = re.compile(rf"^\s*(?:\"\s*)?(?:from|import) (?:{'|'.join(ROOMS)})\b", re.MULTILINE)
    found = {str(path): old.findall(text_of(path)) for path in FILES if path.suffix == suffix}
    assert {path: lines for path, lines in found.items() if lines} == {}


# What takes a path for a pattern, a URL or a partition, or reads a whole file, and who may hand it one.
PATH_READERS = {
    r"pyarrow\.(?:parquet|dataset|fs)|from_uri": {
        "common/tables.py",
        "common/parquet_pages.py",
        "common/stores.py",  # of URLs alone
        "datapipes/synthesize.py",  # writes to an open file
    },
    r"(?s)import duckdb.+(?:(?:read|write|scan|from)_(?:parquet|csv|json)|parquet_scan|\bCOPY\b|\bATTACH\b|FROM ')": {
        "datapipes/exact_files.py"
    },
    r"(?m)^(?!.*\"/proc).*(?:\.read_(?:text|bytes)\(|json\.load\(|\byaml\.(?:safe_)?load\()": {
        "common/failure.py",  # torchrun's
        "common/files.py",
        "common/machine.py",
        "benchmarks/peers.py",
        "retrieval/export/encoder_program.py",  # what was just written
        "studies/sweep_study.py",  # once its size is known
    },
}
PATTERN = re.compile(r"\.r?glob\((.*?)\)(?!\.)|glob\.i?glob\(")
CONSTANTS = re.compile(r"[A-Z_]+|glob\.escape\(.+\)|'\?' \* len\(me\.token\)")


@pytest.mark.parametrize("reader", PATH_READERS)
def test_files_are_named_to_readers_in_one_place(reader: str):
    found = {str(path) for path in SOURCES if "peer_scripts" not in path.parts and re.search(reader, text_of(path))}
    assert found == PATH_READERS[reader]


def test_no_name_becomes_a_pattern():
    for path in SOURCES:
        for call in PATTERN.findall(text_of(path)):
            inserted = re.findall(r"\{(.*?)\}", call)
            assert call.startswith(('"', 'f"')) and all(map(CONSTANTS.fullmatch, inserted)), (path, call)


def test_common_names_nothing_of_the_domain():
    """But for the names of packages whose versions or log lines it handles."""
    packages = {"common/distributed.py", "common/provenance.py", "common/versions.py"}
    for path in SOURCES:
        if path.parts[0] == "common" and path.name != "__init__.py":
            nouns = r"session|track|listener" if str(path) in packages else r"session|track|listener|torchrec"
            assert not re.search(nouns, text_of(path), re.IGNORECASE), path


def test_every_document_that_is_cited_exists():
    cited = re.compile(r"\bdocs/[\w/-]+\.md")
    documents = {str(path) for path in FILES}
    missing = {
        (str(path), name)
        for path in FILES
        if path.suffix in (".py", ".yml", ".toml", ".md", ".bash") or path.name == "Makefile"
        for name in cited.findall(text_of(path))
        if name not in documents
    }
    assert missing == set()


def test_every_section_that_is_cited_exists():
    """A citation names the document and, in quotes behind a comma, the section."""
    cited = re.compile(r"\b(docs/[\w/-]+\.md)(?:,|:)?\s+(?:#\s+)?(?:section\s+)?\"([^\"]+)\"")
    for path in FILES:
        if path.suffix == ".py":
            for name, section in cited.findall(text_of(path)):
                assert re.search(rf"^#+ {re.escape(section)}$", text_of(Path(name)), re.MULTILINE), (
                    path,
                    name,
                    section,
                )


def test_no_file_cites_the_former_design_notes():
    former = re.compile(r"\bDESIGN\b")
    assert [str(path) for path in SOURCES if former.search(text_of(path))] == []
