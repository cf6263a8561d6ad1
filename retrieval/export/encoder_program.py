"""The encoder as files: weights, which skipwise serves from, and programs of `torch.export` and ONNX for others."""

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from skipwise.common.errors import UserError
from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import EncoderShape, QueryEncoder, weights_of

_INPUTS = ("items_BTD", "lengths_B", "signals_BTC")
PROFILE_INPUTS = ("profile_BKD", "profile_lengths_B")
_NAMES = {name.lower(): name for name in (*_INPUTS, *PROFILE_INPUTS)}  # torch.export writes them in small letters

QueryFunction = Callable[..., Tensor]
"""Track rows [B, T, X], lengths [B] and, for an encoder that reads signals, their rows [B, T, C] in, and by name, for
one that reads profiles, `PROFILE_INPUTS`; queries [B, D] out, or what else `QueryEncoder` returns, on the CPU."""


def write_checked(file: Path, content: bytes) -> None:
    """Raises `UserError` where `file` read back differs from `content`."""
    file.write_bytes(content)
    if file.read_bytes() != content:
        raise UserError(f"{file.name} read back differs from what was written: check the disk, then export again")


def write_weights(file: Path, encoder: Encoder, signals_MD: Tensor | None = None) -> None:
    """Writes `weights_of` the encoder as safetensors."""
    write_checked(file, safetensors.torch.save(weights_of(encoder, signals_MD)))


def write_program(
    file: Path, encoder: Encoder, shape: EncoderShape, signals_MD: Tensor | None = None
) -> ExportedProgram:
    """Traces and saves the program, for any number of sessions of 1 to `max_tracks` tracks."""
    query = QueryEncoder(encoder, signals_MD, shape.pauses)
    longest = query.max_tracks
    recurrent = any(isinstance(module, nn.GRU) for module in encoder.modules())
    traced = _PaddedQuery(query) if recurrent else query
    example: tuple[Tensor, ...] = torch.zeros(3, longest, shape.row_dim), torch.full((3,), longest)
    sessions, tracks = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=longest)
    shapes = {"items_BTD": {0: sessions, 1: tracks}, "lengths_B": {0: sessions}}
    if shape.columns:
        example = *example, torch.zeros(3, longest, shape.columns, dtype=torch.int64)
        shapes["signals_BTC"] = {0: sessions, 1: tracks}
    profiles: dict[str, Tensor] = {}
    if shape.profile:
        values = torch.zeros(3, shape.profile, shape.row_dim), torch.full((3,), shape.profile)
        profiles = dict(zip(PROFILE_INPUTS, values, strict=True))
        shapes |= dict.fromkeys(PROFILE_INPUTS, {0: sessions})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer's own ways with a recurrent state's weights
        program = torch.export.export(traced, example, profiles, dynamic_shapes=shapes)
    # Through memory, because torch's own writer raises an error that does not say that the disk is full.
    whole = io.BytesIO()
    torch.export.save(program, whole)
    write_checked(file, whole.getvalue())
    return program


class _PaddedQuery(nn.Module):
    """Pads to the longest session: a recurrent state is traced for one length alone."""

    def __init__(self, query: QueryEncoder):
        super().__init__()
        self.query = query

    def forward(
        self,
        items_BTD: Tensor,
        lengths_B: Tensor,
        signals_BTC: Tensor | None = None,
        profile_BKD: Tensor | None = None,
        profile_lengths_B: Tensor | None = None,
    ) -> Tensor:
        """As `QueryEncoder`."""
        missing = (0, 0, 0, self.query.max_tracks - items_BTD.shape[1])
        items_BTD = nn.functional.pad(items_BTD, missing)
        signals_BTC = None if signals_BTC is None else nn.functional.pad(signals_BTC, missing)
        queries_BX: Tensor = self.query(items_BTD, lengths_B, signals_BTC, profile_BKD, profile_lengths_B)
        return queries_BX


def write_onnx(file: Path, program: ExportedProgram) -> int:
    """Writes the program for ONNX, with the same inputs and any shape; returns the opset. Needs the extra `onnx`."""
    # It would log that it goes on without the operators of each library that is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    names = [_NAMES[name] for name in program.graph_signature.user_inputs]
    onnx = torch.onnx.export(program, input_names=names, output_names=["queries_BD"], dynamo=True, verbose=False)
    assert onnx is not None  # it is only for the old exporter
    write_checked(file, onnx.model_proto.SerializeToString())
    return int(onnx.model.opset_imports[""])


def load_onnx(file: Path) -> QueryFunction:
    """The program as a function of tensors, run by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor, **profiles: Tensor) -> Tensor:
        given = dict(zip(_INPUTS, inputs, strict=False)) | profiles
        named = {name: tensor.numpy() for name, tensor in given.items()}
        (queries_BD,) = session.run(["queries_BD"], named)
        return torch.from_numpy(queries_BD)

    return run


def input_contract(config: EncoderConfig, shape: EncoderShape) -> dict[str, Any]:
    """What a server must know to call the program, for the manifest."""
    appended, max_tracks, dim, keep_dim = config.appended_positions, config.max_tracks, shape.dim, shape.keep_dim
    meaning = "one query a session; a track's score is the inner product of query and embedding"
    if keep_dim:
        meaning = (
            f"one row a session: q ({dim}), r ({keep_dim}) and b (1); of an embedding, the first {dim} numbers are e, "
            f"the others f; a track's score is q . e + L (r . f) at dial L, and r . f + b the logit of P(kept)"
        )
    signals = {
        "signals_BTC": {
            "dtype": "int64",
            "shape": ["B", "T", shape.columns],
            "meaning": "for each track and each entry of the manifest's `signals`, its `first_row` where the value is "
            "not known, else that and 1 and the value's place in `values`; anything at padding",
        }
    }
    profiles = {
        "profile_BKD": {
            "dtype": "float32",
            "shape": ["B", shape.profile, shape.row_dim],
            "meaning": "embedding rows of the last tracks that the listener kept in earlier sessions, the last one "
            "first, padded behind them with zeros",
        },
        "profile_lengths_B": {"dtype": "int64", "shape": ["B"], "meaning": f"tracks of each, in 0..{shape.profile}"},
    }
    return {
        "direction": config.direction,
        "max_length": config.max_length,
        "max_tracks": max_tracks,
        "inputs": {
            "items_BTD": {
                "dtype": "float32",
                "shape": ["B", "T", shape.row_dim],
                "meaning": f"embedding rows of each session's last tracks in play order, oldest first, padded on the "
                f"right with zeros; B is any number, T lies in 1..{max_tracks}",
            },
            "lengths_B": {"dtype": "int64", "shape": ["B"], "meaning": "tracks of each session, in 1..T"},
        }
        | (signals if shape.columns else {})
        | (profiles if shape.profile else {}),
        "output": {
            "queries_BD": {
                "dtype": "float32",
                "shape": ["B", shape.output_dim],
                "meaning": meaning,
            }
        },
        "note": "the mask token is appended inside the program" if appended else "nothing is appended to a session",
    }
