"""The encoder program of an export, read back and tried."""

import logging
from pathlib import Path

import torch
from torch import nn

from skipwise.common.errors import UserError, brief


def load_program(file: Path, longest: int, dim: int) -> nn.Module:
    """Raises `UserError` unless it turns sessions of `longest` rows of `dim` numbers into queries of as many."""
    loader_log = logging.getLogger("torch.export")
    before, loader_log.disabled = loader_log.disabled, True  # it would print the traceback of what is told below
    try:
        program = torch.export.load(str(file)).module()
        with torch.no_grad():
            shape = tuple(program(torch.zeros(1, longest, dim), torch.tensor([longest])).shape)
    except Exception as error:  # the loader, and what it loads, may raise anything
        raise UserError(f"{file} is no encoder of rows of {dim} ({brief(error)}): export again") from error
    finally:
        loader_log.disabled = before
    if shape != (1, dim):
        raise UserError(f"{file} answers {shape} where {(1, dim)} was expected: export again")
    return program
