"""The install sets: every package pinned with hashes, one opinion on each version; what the wheel holds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import setuptools

from skipwise.common.versions import DISTRIBUTIONS, version_problems

ROOT = Path(__file__).parents[2]
ROOMS = {"common", "datapipes", "models", "training", "studies", "retrieval", "components", "benchmarks"}
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(
    r"([A-Za-z0-9._-]+)(?:\[[a-z]+\])?==([0-9][0-9.]*(?:[.]post[0-9])?)(?:\+cpu)?(?: ?; sys_platform == 'linux')?"
)
HASHES = re.compile(r"( --hash=sha256:[0-9a-f]{64})+")


def pins(lines: list[str]) -> dict[str, str]:
    """Name to version; fails on a line that is anything but `name==version`."""
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1].lower().replace("_", "-"): match[2] for match in matches}


def locked(path: Path) -> dict[str, str]:
    """The pins of a file of requirements/; fails on a package without hashes, or with anything else behind it."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [re.sub(r" +", " ", line) for line in text.replace("\\\n", "").splitlines()]
    heads = [line.split(" --hash=")[0] for line in lines]
    assert all(HASHES.fullmatch(line.removeprefix(head)) for line, head in zip(lines, heads, strict=True)), path
    found = pins(heads)
    assert len(found) == len(lines)
    return found


def required(*names: str) -> dict[str, str]:
    """The pins of several files of requirements/ together; none may name a package twice."""
    found: dict[str, str] = {}
    for name in names:
        pinned = locked(ROOT / "requirements" / f"{name}.txt")
        assert not found.keys() & pinned.keys()
        found |= pinned
    return found


@pytest.fixture(scope="module")
def package() -> dict:
    """What setup.py hands to setuptools."""
    handed = {}
    original, setuptools.setup = setuptools.setup, lambda **keywords: handed.update(keywords)
    here = os.getcwd()
    try:
        os.chdir(ROOT)
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {})
    finally:
        os.chdir(here)
        setuptools.setup = original
    return handed


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_line_is_an_exact_pin_with_hashes(path):
    assert locked(path)


def test_both_builds_of_torch_are_of_one_version():
    assert required("torch") == required("torch-cpu")


def test_setup_py_agrees_with_the_install_sets(package):
    common = pins(package["install_requires"])
    assert common.items() <= required("common").items()
    extras = {name: pins(lines) for name, lines in package["extras_require"].items()}
    assert extras["cpu"] == required("cpu", "torch")
    assert extras["gpu"].items() <= required("gpu", "torch", "cuda", "torchrec").items()
    assert extras["dev"].items() <= required("dev", "extras").items()
    assert extras["frames"].items() <= required("dev").items()
    for name in ("ann", "onnx", "pgvector", "qdrant", "serve"):
        assert extras[name].items() <= required("extras").items()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_each_install_set_belongs_together(device):
    versions = required("common", device, "torch", "torchrec", "extras", "dev")
    assert version_problems({name: versions.get(name) for name in DISTRIBUTIONS}) == []


def test_both_pairs_for_gpu_belong_together(package):
    for extra in ("gpu", "gpu-torch211"):
        versions = pins(package["install_requires"]) | pins(package["extras_require"][extra])
        assert version_problems({name: versions.get(name) for name in DISTRIBUTIONS}) == []


def test_no_entry_point_hides_torchx_builtins(package):
    assert list(package["entry_points"]) == ["console_scripts", "torchx.tracker"]


def test_tests_are_not_installed(package):
    rooms = {name.split(".")[1] for name in package["packages"] if "." in name}
    assert package["package_dir"] == {"skipwise": "."} and "skipwise" in package["packages"]
    assert rooms == ROOMS


def test_the_wheel_holds_the_package_and_nothing_beside_it(tmp_path):
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, "."], cwd=tmp_path / "source", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    product = {name for name in names if name.split("/")[0] in ROOMS and not name.startswith("benchmarks/results/")}
    assert held == {f"skipwise/{name}" for name in product | {"__init__.py", "__main__.py", "py.typed"}}


def test_this_environment_is_the_pinned_one():
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    here = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1].split("+")[0] for line in lines}
    wanted = required("common", "dev", "extras", "torchrec")
    assert wanted.items() <= here.items(), {name: here.get(name) for name in wanted if here.get(name) != wanted[name]}
