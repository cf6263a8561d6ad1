"""The install sets: every line pinned, one opinion on each version, never two fbgemm wheels."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from skipwise.common.versions import DISTRIBUTIONS, version_problems

ROOT = Path(__file__).parents[2]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9.]*)")


def pins(lines: list[str]) -> dict[str, str]:
    """Name to version; fails on a line that is anything but `name==version`."""
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1].lower().replace("_", "-"): match[2] for match in matches}


def required(*names: str) -> dict[str, str]:
    """The pins of several files of requirements/ together; none may name a package twice."""
    lines = [line for name in names for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()]
    found = pins(lines)
    assert len(found) == len(lines)
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
def test_every_line_is_an_exact_pin(path):
    assert pins(path.read_text().splitlines())


def test_setup_py_agrees_with_the_install_sets(package):
    common = pins(package["install_requires"])
    assert common.items() <= required("common").items()
    extras = {name: pins(lines) for name, lines in package["extras_require"].items()}
    assert extras["cpu"] == required("cpu")
    assert extras["gpu"].items() <= required("gpu", "torchrec").items()
    assert extras["dev"].items() <= required("dev").items()
    for name in ("ann", "onnx", "serve"):
        assert extras[name].items() <= required("extras").items()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_each_install_set_belongs_together(device):
    versions = required("common", device, "torchrec", "extras", "dev")
    assert version_problems({name: versions.get(name) for name in DISTRIBUTIONS}) == []


def test_both_pairs_for_gpu_belong_together(package):
    for extra in ("gpu", "gpu-torch211"):
        versions = pins(package["install_requires"]) | pins(package["extras_require"][extra])
        assert version_problems({name: versions.get(name) for name in DISTRIBUTIONS}) == []


def test_no_entry_point_hides_torchx_builtins(package):
    assert list(package["entry_points"]) == ["console_scripts"]


def test_tests_are_not_installed(package):
    rooms = {name.split(".")[1] for name in package["packages"] if "." in name}
    assert package["package_dir"] == {"skipwise": "."} and "skipwise" in package["packages"]
    assert rooms == {"common", "datapipes", "models", "training", "studies", "retrieval", "components", "benchmarks"}


def test_this_environment_is_the_pinned_one():
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    here = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1].split("+")[0] for line in lines}
    wanted = required("common", "dev", "extras", "torchrec")
    assert wanted.items() <= here.items(), {name: here.get(name) for name in wanted if here.get(name) != wanted[name]}
