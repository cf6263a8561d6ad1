"""Packages that only some commands need: where one is missing, a sentence that says how to get it."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from skipwise.common.errors import UserError

EXTRAS = {
    "ann": ("faiss",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
}
"""For each extra of setup.py, what it brings along that is imported here."""


def need_extra(extra: str, what: str) -> None:
    """Raises `UserError` where a package of `extra`, which `what` needs, is not installed."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {missing[0]}, which is not installed: run make extras, or pip install -e '.[{extra}]'"
        )


def import_faiss() -> ModuleType:
    """FAISS, of the extra `ann`; raises `UserError` where it is missing."""
    need_extra("ann", "an index or a part of FAISS")
    return importlib.import_module("faiss")
