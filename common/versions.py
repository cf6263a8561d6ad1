"""Which packages are installed, and whether they belong together. Imports none of them."""

import importlib
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTIONS = ("torch", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchrec", "torchmetrics", "torchx", "pyarrow")
FBGEMM_WHEELS = ("fbgemm-gpu", "fbgemm-gpu-cpu")
MODULES = {"torch": ("torch",), "fbgemm_gpu": FBGEMM_WHEELS, "torchrec": ("torchrec",)}
TORCHMETRICS = "1.0.3"
OLDEST_FBGEMM = 6
TORCH_AHEAD = 5


def installed(names: tuple[str, ...] = DISTRIBUTIONS) -> dict[str, str | None]:
    """The version of each distribution, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def version_problems(versions: Mapping[str, str | None]) -> list[str]:
    """One sentence, with its mend, for each thing that is missing or does not belong.

    The rule: fbgemm 1.X goes with torch 2.(X+5) and torchrec 1.X, and torchrec asks for one torchmetrics exactly.
    """
    problems = [
        f"{name} is not installed: run `make setup`"
        for name in DISTRIBUTIONS
        if name not in FBGEMM_WHEELS and not versions.get(name)
    ]
    wheels = [name for name in FBGEMM_WHEELS if versions.get(name)]
    if not wheels:
        problems.append("fbgemm is not installed: run `make setup`")
    if len(wheels) == 2:
        problems.append(
            "fbgemm-gpu and fbgemm-gpu-cpu are both installed and overwrite each other's files: "
            "run `pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu`, then `make -B setup`"
        )
    if wheels == ["fbgemm-gpu"] and (versions.get("torch") or "").endswith("+cpu"):
        problems.append(
            "fbgemm-gpu needs a CUDA build of torch and this one is for CPU: run `make -B setup DEVICE=cpu`"
        )
    problems += _rule_problems(versions, wheels)
    metrics = versions.get("torchmetrics")
    if metrics and metrics != TORCHMETRICS:
        problems.append(
            f"torchmetrics is {metrics} and torchrec needs {TORCHMETRICS}: "
            f"run `pip install torchmetrics=={TORCHMETRICS}`"
        )
    return problems


def import_problems(versions: Mapping[str, str | None], modules: Mapping[str, tuple[str, ...]] = MODULES) -> list[str]:
    """One sentence for each module whose distribution is installed and which does not import.

    A module that fails for want of another in `modules` is left out: that one has a sentence of its own.
    """
    problems = []
    for name, distributions in modules.items():
        if not any(versions.get(distribution) for distribution in distributions):
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # a shared library that does not load raises whatever it likes
            wanting = getattr(error, "name", None)
            if wanting == name or wanting not in modules:
                problems.append(_import_problem(name, error))
    return problems


def _import_problem(name: str, error: Exception) -> str:
    cause = (str(error).splitlines() or [""])[0]
    return f"`import {name}` fails ({type(error).__name__}: {cause}): remove the virtual environment, then `make setup`"


def _rule_problems(versions: Mapping[str, str | None], wheels: list[str]) -> list[str]:
    torch = versions.get("torch")
    if not torch:
        return []
    major, minor = _release(torch)
    if (major, minor) < (2, OLDEST_FBGEMM + TORCH_AHEAD):
        return [f"torch is {torch} and the oldest supported is 2.{OLDEST_FBGEMM + TORCH_AHEAD}: run `make setup`"]
    wanted = (1, minor - TORCH_AHEAD)
    problems = []
    for name in [*wheels, "torchrec"]:
        found = versions.get(name)
        if found and (major != 2 or _release(found) != wanted):
            problems.append(
                f"{name} is {found} and torch {torch} goes with {name} {wanted[0]}.{wanted[1]}: "
                "run `make -B setup`, or install the pair that matches"
            )
    return problems


def _release(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
