"""The encoder program for ONNX, for those who serve without torch. Needs the extra `onnx`."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from skipwise.retrieval.export.files import write_checked


def write_onnx(file: Path, program: ExportedProgram) -> int:
    """Writes the program with the same inputs and the same freedom of shapes; returns the opset it needs."""
    # Else it says of each operator of a library that is not installed that it will do without.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    made = torch.onnx.export(
        program, input_names=["items_BTD", "lengths_B"], output_names=["queries_BD"], dynamo=True, verbose=False
    )
    write_checked(file, made.model_proto.SerializeToString())
    return made.model.opset_imports[""]


def load_onnx(file: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """The program as a function of tensors, run by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        (queries_BD,) = session.run(["queries_BD"], {"items_BTD": items_BTD.numpy(), "lengths_B": lengths_B.numpy()})
        return torch.from_numpy(queries_BD)

    return run
