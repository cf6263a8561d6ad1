"""The encoder as a `torch.export` program, which a server runs without this package."""

import io
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import QueryEncoder
from skipwise.retrieval.export.files import write_checked


def write_program(file: Path, encoder: Encoder, dim: int) -> ExportedProgram:
    """Traces the program, for any number of sessions of 1 to `max_tracks` tracks; saves it and reads it back."""
    query = QueryEncoder(encoder)
    example = torch.zeros(3, query.max_tracks, dim), torch.full((3,), query.max_tracks)
    sessions, tracks = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=query.max_tracks)
    shapes = {"items_BTD": {0: sessions, 1: tracks}, "lengths_B": {0: sessions}}
    with torch.no_grad():
        program = torch.export.export(query, example, dynamic_shapes=shapes)
    # Through memory, for torch's own writer turns a full disk into an error of its own that does not say so.
    whole = io.BytesIO()
    torch.export.save(program, whole)
    write_checked(file, whole.getvalue())
    return program


def input_contract(encoder: Encoder, dim: int) -> dict[str, Any]:
    """What a server must know to call the program, for the manifest."""
    max_tracks = encoder.config.max_tracks
    return {
        "direction": encoder.config.direction,
        "max_length": encoder.config.max_length,
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
        "note": "the mask token is appended inside the program"
        if encoder.config.appended_positions
        else "nothing is appended to a session",
    }
