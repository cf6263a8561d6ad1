"""The Dockerfile, without Docker: what its steps install and copy, and which libraries the packages want."""

import re
import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.components.test_makefile_setup import installs, make

ROOT = Path(__file__).parents[2]
STEPS = re.findall(r"^([A-Z]+) (.*)$", (ROOT / "Dockerfile").read_text().replace("\\\n", ""), re.MULTILINE)
make = make  # the fixture


def words_of(name: str) -> list[str]:
    return [words for step, words in STEPS if step == name]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_image_holds_the_locked_packages(device: str, make):
    """The step itself, with a Python that writes down what it is asked for."""
    (line,) = [words for words in words_of("RUN") if words.startswith("make ")]
    _, target, *options = line.replace("$DEVICE", device).replace("$TORCH_INDEX", "https://t").split()
    assert all("=" in option and "$" not in option for option in options)
    code, asked = make(target, options=options)
    assert code == 0 and all("--no-cache-dir" in words for words in asked if "pip install" in words)
    torch = "requirements/cuda.txt" if device == "gpu" else "requirements/torch-cpu.txt"
    assert {"requirements/torchrec.txt", torch, "requirements/extras.txt"} <= set(installs(asked))
    (locked,) = [words for words in asked if f"requirements/{device}.txt" in words]
    assert "requirements/common.txt" in locked and "--require-hashes" in locked
    assert ("--index-url https://t" in " ".join(asked)) == (device == "cpu")


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_only_the_image_for_gpus_has_a_compiler(device: str):
    (line,) = [words for words in words_of("RUN") if words.startswith("apt-get ")]
    asked = re.findall(r"apt-get install (.*?) +&&", line)
    said = subprocess.run(["sh", "-c", f"echo {asked[0]}"], env={"DEVICE": device}, capture_output=True, text=True)
    packages = said.stdout.split()
    assert {"make", "python3.11-venv"} <= set(packages)
    assert ({"gcc", "libc6-dev", "python3.11-dev"} <= set(packages)) == ("gcc" in packages) == (device == "gpu")


def test_commands_find_the_environment():
    (environment,) = words_of("ENV")
    values = dict(word.split("=") for word in environment.split())
    assert values["PATH"].startswith(f"{values['VENV']}/bin:") and values["HOME"] == "/tmp"
    assert words_of("CMD") == ['["skipwise", "--help"]'] and words_of("COPY") == [". ."]


def test_what_is_not_copied_is_no_part_of_the_product():
    patterns = (ROOT / ".dockerignore").read_text().split()
    left_out = [pattern for pattern in patterns if not pattern.startswith("!")]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    missing = {name.split("/")[0] for name in listed if any(fnmatch(name.split("/")[0], one) for one in left_out)}
    kept = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert missing - kept <= {"docs", "tests", ".ci", ".gitignore", ".pre-commit-config.yaml", ".dockerignore"}
    assert {".torchxconfig"} <= kept


def test_packages_want_no_library_that_the_image_lacks():
    """Of debian:bookworm-slim and Python; a package that links another library needs a word in the Dockerfile."""
    files = [str(file) for file in Path(sysconfig.get_path("platlib")).rglob("*.so*") if file.stat().st_size > 20_000]
    said = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    libraries = set(re.findall(r"=> (?:/usr)?/lib/\S*?/?([^/\s]+)\.so", said))
    libc6 = {"libc", "libm", "libpthread", "libdl", "librt", "libutil", "libresolv"}
    base = libc6 | {"libgcc_s", "libstdc++", "libz"}
    assert "libc" in libraries and libraries <= base | {"libpython3"}, sys.version
