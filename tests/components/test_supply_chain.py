"""The bill of materials names what is installed, and the index for torch's CPU build is asked for nothing else."""

import json
import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest

from tests.components.test_makefile_setup import make  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]
SBOM = ROOT / "requirements" / "sbom.py"


def test_the_bill_is_what_is_installed():
    said = [subprocess.run([sys.executable, SBOM], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said[0] == said[1]
    bill = json.loads(said[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {one["name"]: one for one in bill["components"]}
    installed = {
        re.sub(r"[-_.]+", "-", one.name).lower() for one in distributions()
    }  # with those that setuptools hides
    assert [one["name"] for one in bill["components"]] == sorted(listed) and set(listed) <= installed
    for name in ("torch", "numpy", "pydantic", "uvicorn"):
        assert listed[name]["version"] == distribution(name).version
        assert listed[name]["purl"].startswith(f"pkg:pypi/{name}@") and listed[name]["licenses"]
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert set(needs) >= {one["bom-ref"] for one in bill["components"]}
    assert listed["h11"]["bom-ref"] in needs[listed["uvicorn"]["bom-ref"]]
    assert set().union(*needs.values()) <= set(needs)


class Made:
    """A distribution's metadata, as `importlib.metadata` gives it."""

    def __init__(self, name: str, version: str, requires: list[str]):
        self.version, self.requires = version, requires
        self.metadata = {"Name": name, "License-Expression": "MIT"}


def test_names_are_normalized():
    bill = runpy.run_path(str(SBOM))["bill"]
    made = [Made("Skipwise", "1.0", ["Some.Thing>=1; extra == 'x'", "absent"]), Made("some_thing", "2+cpu", [])]
    found = bill(made)
    assert found["metadata"]["component"]["name"] == "skipwise"
    assert [one["name"] for one in found["components"]] == ["some-thing"]
    assert found["dependencies"] == [
        {"ref": "pkg:pypi/skipwise@1.0", "dependsOn": ["pkg:pypi/some-thing@2%2Bcpu"]},
        {"ref": "pkg:pypi/some-thing@2%2Bcpu", "dependsOn": []},
    ]


def test_the_index_of_torch_is_asked_for_torch_alone(make, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    monkeypatch.setenv("PATH", os.environ["PATH"])
    code, asked = make("dev", options=["TORCH_INDEX=https://index.example.org"])
    assert code == 0
    named = [words for words in asked if "--index-url" in words]
    assert len(named) == 1 and named[0].endswith("--index-url https://index.example.org -r requirements/torch-cpu.txt")
    assert all("--require-hashes" in words for words in asked if " -r requirements/" in words)


def test_every_pin_is_checked_for_advisories(tmp_path: Path):
    fake = tmp_path / "pip-audit"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["make", "--no-print-directory", "advisories", "DEVICE=cpu", f"VENV={tmp_path}"]
    said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.split()
    files = {f"requirements/{file.name}" for file in (ROOT / "requirements").glob("*.txt")}
    options = {"--strict", "--require-hashes", "--disable-pip", "--requirement"}
    assert set(said) == files - {"requirements/torch-cpu.txt"} | options
