"""What results were made with, and which packages are installed, belong together and load."""

import ctypes
import importlib
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from skipwise.common.errors import UserError

DISTRIBUTIONS = ("torch", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchrec", "torchmetrics", "torchx", "pyarrow")
FBGEMM_WHEELS = ("fbgemm-gpu", "fbgemm-gpu-cpu")
TORCHMETRICS = "1.0.3"
OLDEST_TORCH = (2, 11)
EXTRAS = {
    "ann": ("faiss",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "pgvector": ("psycopg",),
    "qdrant": ("qdrant_client",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
}
"""For each extra of setup.py, the modules of it that are imported here."""


def commit() -> str:
    """Returns the code's commit where it is a git checkout, marked where files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def processor() -> str:
    """Returns the processor's name, where the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> dict[str, str | int]:
    """Returns the system, the processor and the number of cores."""
    return {"system": platform.system(), "processor": processor(), "cores": os.cpu_count() or 1}


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that decide a run's figures."""
    found = installed(("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "torchmetrics"))
    return {name: number for name, number in found.items() if number}


def installed(names: tuple[str, ...] = DISTRIBUTIONS) -> dict[str, str | None]:
    """Returns the version of each distribution, None where it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def version_problems(installed_versions: Mapping[str, str | None]) -> list[str]:
    """One sentence, with its remedy, for each package that is missing or of a wrong version.

    The rule: fbgemm 1.X goes with torch 2.(X+5) and torchrec 1.X, and torchrec asks for one torchmetrics exactly.
    """
    problems = [
        f"{name} is not installed: run `make setup`"
        for name in DISTRIBUTIONS
        if name not in FBGEMM_WHEELS and not installed_versions.get(name)
    ]
    wheels = [name for name in FBGEMM_WHEELS if installed_versions.get(name)]
    if not wheels:
        problems.append("fbgemm is not installed: run `make setup`")
    if len(wheels) == 2:
        problems.append(
            "fbgemm-gpu and fbgemm-gpu-cpu are both installed and overwrite each other's files: "
            "run `pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu`, then `make -B setup`"
        )
    if wheels == ["fbgemm-gpu"] and (installed_versions.get("torch") or "").endswith("+cpu"):
        problems.append(
            "fbgemm-gpu needs a CUDA build of torch and this one is for CPU: run `make -B setup DEVICE=cpu`"
        )
    problems += _rule_problems(installed_versions, wheels)
    metrics = installed_versions.get("torchmetrics")
    if metrics and metrics != TORCHMETRICS:
        problems.append(
            f"torchmetrics is {metrics} and torchrec needs {TORCHMETRICS}: "
            f"run `pip install torchmetrics=={TORCHMETRICS}`"
        )
    return problems


def load_problems(installed_versions: Mapping[str, str | None]) -> list[str]:
    """One sentence for each of torch and fbgemm that is installed and does not load, and each package torchrec lacks.

    Imports torch and loads fbgemm's libraries. The Python of fbgemm and torchrec is left out: it takes 2 s of CPU, and
    fails for a library or a package that is reported here.
    """
    loads: dict[str, Callable[[], object]] = {}
    if installed_versions.get("torch"):
        loads["torch"] = lambda: importlib.import_module("torch")
    if any(installed_versions.get(wheel) for wheel in FBGEMM_WHEELS):
        loads["fbgemm_gpu"] = _load_fbgemm
    problems = []
    for name, load in loads.items():
        try:
            load()
        except Exception as error:  # a module raises anything
            cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            problems.append(f"{name} does not load ({cause}): remove the virtual environment, then run `make setup`")
    if installed_versions.get("torchrec"):
        lines = [line for line in requires("torchrec") or [] if "extra ==" not in line]
        needed = installed(tuple(re.split(r"[^\w.-]", line)[0] for line in lines))
        problems += [
            f"{name} is not installed, and torchrec needs it: run `make setup`"
            for name, found in needed.items()
            if not found and name not in DISTRIBUTIONS
        ]
    return problems


def _load_fbgemm() -> None:
    spec = find_spec("fbgemm_gpu")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'fbgemm_gpu'")
    for library in sorted(Path(spec.submodule_search_locations[0]).glob("*.so")):
        ctypes.CDLL(str(library))


def _rule_problems(installed_versions: Mapping[str, str | None], wheels: list[str]) -> list[str]:
    torch = installed_versions.get("torch")
    if not torch:
        return []
    major, minor = _release(torch)
    if (major, minor) < OLDEST_TORCH:
        return [f"torch is {torch} and the oldest supported is 2.{OLDEST_TORCH[1]}: run `make setup`"]
    return [
        f"{name} is {found} and torch {torch} goes with {name} 1.{minor - 5}: "
        "run `make -B setup`, or install the pair that matches"
        for name in [*wheels, "torchrec"]
        if (found := installed_versions.get(name)) and (major != 2 or _release(found) != (1, minor - 5))
    ]


def _release(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def need_extra(extra: str, what: str) -> None:
    """Raises `UserError` where a package of `extra`, which `what` needs, is not installed."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {missing[0]}, which is not installed: run make extras, or pip install -e '.[{extra}]'"
        )


def import_extra(extra: str, what: str, module: str = "") -> ModuleType:
    """Imports the first module of `extra`, or another one of its package; raises `UserError` where it is missing."""
    need_extra(extra, what)
    return importlib.import_module(module or EXTRAS[extra][0])


def import_faiss() -> ModuleType:
    """Imports FAISS, of the extra `ann`; raises `UserError` where it is missing."""
    return import_extra("ann", "an index or a part of FAISS")
