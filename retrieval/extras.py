"""Packages that only some commands need: where one is missing, a sentence that says how to get it."""

import importlib
from types import ModuleType

from datapipes.errors import UserError


def need(module: str, extra: str) -> ModuleType:
    """The module, or `UserError` that names the extra of setup.py which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs the package {module}: pip install 'skipwise[{extra}]'") from error


def import_faiss() -> ModuleType:
    """FAISS, of the extra `ann`."""
    return need("faiss", "ann")
