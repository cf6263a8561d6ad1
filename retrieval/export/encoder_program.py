"""The encoder as files: weights, which skipwise serves from, and programs of `torch.export` and ONNX for others."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.export import ExportedProgram

from skipwise.common.errors import UserError
from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import QueryEncoder

QueryFunction = Callable[[Tensor, Tensor], Tensor]
"""Track rows [B, T, D] and lengths [B] in, queries [B, D] out, on the CPU."""


def write_checked(file: Path, content: bytes) -> None:
    """Raises `UserError` where `file` read back differs from `content`."""
    file.write_bytes(content)
    if file.read_bytes() != content:
        raise UserError(f"{file.name} read back differs from what was written: check the disk, then export again")


def write_weights(file: Path, encoder: Encoder) -> None:
    """Writes the encoder's `state_dict` as safetensors."""
    state = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    write_checked(file, safetensors.torch.save(state))


def write_program(file: Path, encoder: Encoder, dim: int) -> ExportedProgram:
    """Traces and saves the program, for any number of sessions of 1 to `max_tracks` tracks."""
    query = QueryEncoder(encoder)
    example = torch.zeros(3, query.max_tracks, dim), torch.full((3,), query.max_tracks)
    sessions, tracks = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=query.max_tracks)
    shapes = {"items_BTD": {0: sessions, 1: tracks}, "lengths_B": {0: sessions}}
    with torch.no_grad():
        program = torch.export.export(query, example, dynamic_shapes=shapes)
    # Through memory, because torch's own writer raises an error that does not say that the disk is full.
    whole = io.BytesIO()
    torch.export.save(program, whole)
    write_checked(file, whole.getvalue())
    return program


def write_onnx(file: Path, program: ExportedProgram) -> int:
    """Writes the program for ONNX, with the same inputs and any shape; returns the opset. Needs the extra `onnx`."""
    # It would log that it goes on without the operators of each library that is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    onnx = torch.onnx.export(
        program, input_names=["items_BTD", "lengths_B"], output_names=["queries_BD"], dynamo=True, verbose=False
    )
    assert onnx is not None  # it is only for the old exporter
    write_checked(file, onnx.model_proto.SerializeToString())
    return int(onnx.model.opset_imports[""])


def load_onnx(file: Path) -> QueryFunction:
    """The program as a function of tensors, run by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        (queries_BD,) = session.run(["queries_BD"], {"items_BTD": items_BTD.numpy(), "lengths_B": lengths_B.numpy()})
        return torch.from_numpy(queries_BD)

    return run


def input_contract(config: EncoderConfig, dim: int) -> dict[str, Any]:
    """What a server must know to call the program, for the manifest."""
    appended, max_tracks = config.appended_positions, config.max_tracks
    return {
        "direction": config.direction,
        "max_length": config.max_length,
        "max_tracks": max_tracks,
        "inputs": {
            "items_BTD": {
                "dtype": "float32",
                "shape": ["B", "T", dim],
                "meaning": f"embedding rows of each session's last tracks in play order, oldest first, padded on the "
                f"right with zeros; B is any number, T lies in 1..{max_tracks}",
            },
            "lengths_B": {"dtype": "int64", "shape": ["B"], "meaning": "tracks of each session, in 1..T"},
        },
        "output": {
            "queries_BD": {
                "dtype": "float32",
                "shape": ["B", dim],
                "meaning": "one query a session; a track's score is the inner product of query and embedding",
            }
        },
        "note": "the mask token is appended inside the program" if appended else "nothing is appended to a session",
    }
