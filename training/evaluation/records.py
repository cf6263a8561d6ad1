"""The rank of every held-out track on disk: from it come intervals, tests and breakdowns.

`RUN/ranks/{protocol}-{split}/part-RRRRR.parquet`, one part a rank, in no order.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from skipwise.common.distributed import barrier, rank
from skipwise.common.errors import UserError
from skipwise.common.node_disks import hand_to_rank_0, is_apart, leads_machine
from skipwise.common.tables import open_table, read_table, table_writer
from skipwise.datapipes.view import counts_as_kept, counts_as_skipped, is_known
from skipwise.training.evaluation.metrics import METRICS, percentile_rank

RANKS = "ranks"
_SCHEMA = pa.schema(
    {
        "session": pa.int64(),
        "rank": pa.int32(),
        "ties": pa.int32(),
        "candidates": pa.int32(),
        "skips": pa.int8(),
        "repeated": pa.bool_(),
        "position": pa.int32(),
        "target": pa.int32(),
        "kept_probability": pa.float32(),
        "halved_probability": pa.float32(),
        "pairs": pa.int16(),
        "pairs_won": pa.float32(),
        "keep_pairs_won": pa.float32(),
        "listed_skips": pa.float32(),
    }
)
SKIP_COLUMNS = ("kept_probability", "halved_probability", "pairs", "pairs_won", "keep_pairs_won", "listed_skips")
"""Columns that baselines and older versions lack; they read as NaN, and as no pairs."""


@dataclass(frozen=True)
class TargetRanks:
    """Arrays of N targets, in ascending order of session and position."""

    session: np.ndarray
    """int64: the session's number in the dataset."""
    rank: np.ndarray
    """int32: one more than the tracks that score above the target; 0 where the protocol cannot rank it."""
    ties: np.ndarray
    """int32: other tracks that score as much as the target."""
    candidates: np.ndarray
    """int32: tracks the target was ranked among, itself left out."""
    skips: np.ndarray
    """int8: skip strength of the held-out play; 1 and 2 are skipped, -1 is not known."""
    repeated: np.ndarray
    """bool: the session had played the target before."""
    position: np.ndarray
    """int32: tracks of the session before the target."""
    target: np.ndarray
    """int32: the target's row."""
    kept_probability: np.ndarray
    """float32: P(kept) of the target by the keep head, NaN without one."""
    halved_probability: np.ndarray
    """float32: the same of a target in its session's second half, where nothing is known of what happened to the plays
    of that half, as in MSSD's challenge; NaN for other targets, and where not all plays of a session are targets."""
    pairs: np.ndarray
    """int16: the skipped plays from the target on up to the next kept one, each a pair with that."""
    pairs_won: np.ndarray
    """float32: how many of these the ranking's scores have in order; a tie is half."""
    keep_pairs_won: np.ndarray
    """float32: how many P(kept) has in order."""
    listed_skips: np.ndarray
    """float32: the share of the first 10 tracks recommended that the keep head expects to be skipped, in records at a
    setting of the dial; NaN elsewhere."""

    @property
    def skipped(self) -> np.ndarray:
        """bool [N]: the listener skipped the target."""
        return counts_as_skipped(self.skips)

    @property
    def kept(self) -> np.ndarray:
        """bool [N]: the listener kept it; where it is not known, neither holds."""
        return counts_as_kept(self.skips)

    @property
    def known(self) -> np.ndarray:
        """bool [N]: it is known whether they skipped it."""
        return is_known(self.skips)

    def values(self, metric: str) -> np.ndarray:
        """float64 [N]: each target's value of one of `METRICS`, or of "percentile_rank"."""
        if metric == "percentile_rank":
            return percentile_rank(self.rank, self.ties, self.candidates)
        return METRICS[metric](self.rank, self.ties)


class TargetRankWriter:
    """Writes this rank's part, batch by batch, and publishes all parts by one rename when every rank has left."""

    def __init__(self, run: Path, protocol: str, split: str):
        name = f"{protocol}-{split}"
        self._target, self._partial = run / RANKS / name, run / RANKS / f".{name}.partial"

    def __enter__(self) -> "TargetRankWriter":
        self._apart = is_apart(self._target.parent)
        if rank() == 0 or (self._apart and leads_machine()):
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
        barrier()
        self._open = ExitStack()
        self._file = self._open.enter_context(table_writer(self._part(rank()), _SCHEMA))
        return self

    def _part(self, number: int) -> Path:
        return self._partial / f"part-{number:05}.parquet"

    def write(self, **columns: Tensor) -> None:
        """One batch: a tensor [B] for each column, `SKIP_COLUMNS` only where there are any."""
        count = len(columns["session"])
        arrays = [
            pa.nulls(count, field.type)
            if field.name in SKIP_COLUMNS and field.name not in columns
            else pa.array(columns[field.name].cpu().numpy(), field.type)
            for field in _SCHEMA
        ]
        self._file.write_batch(pa.record_batch(arrays, schema=_SCHEMA))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._open.close()
        if kind:
            return
        hand_to_rank_0(self._part, self._apart)
        barrier()
        if rank() == 0:
            shutil.rmtree(self._target, ignore_errors=True)
            os.replace(self._partial, self._target)
        elif self._apart and leads_machine():
            shutil.rmtree(self._partial)
        barrier()


def at_dial(dial: float) -> str:
    """The name of records at a setting of the dial, by the rules of `served`, in the place of the protocol's."""
    return f"dial-{dial:g}"


def target_ranks(columns: Mapping[str, np.ndarray]) -> TargetRanks:
    """Columns of N targets in any order, but for those of `SKIP_COLUMNS` that there are none of."""
    order = np.lexsort((columns["position"], columns["session"]))
    unknown = np.full(len(order), np.nan)
    found = {field.name: columns.get(field.name, unknown) for field in _SCHEMA}
    found["pairs"] = np.nan_to_num(found["pairs"])
    return TargetRanks(
        **{field.name: found[field.name].astype(field.type.to_pandas_dtype(), copy=False)[order] for field in _SCHEMA}
    )


def has_target_ranks(run: Path, protocol: str, split: str) -> bool:
    """Whether the run keeps these records."""
    return (run / RANKS / f"{protocol}-{split}").is_dir()


def read_target_ranks(run: Path, protocol: str, split: str) -> TargetRanks:
    """The records of a run; raises `UserError` where they are missing or damaged."""
    folder = run / RANKS / f"{protocol}-{split}"
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        option = f"--dial {protocol[5:]}" if protocol.startswith("dial-") else f"--protocol {protocol}"
        raise UserError(f"{folder} holds no ranks: measure the run with evaluate --run {run} {option}")
    try:
        for part in parts:
            with open_table(part) as opened:
                if missing := set(_SCHEMA.names) - {*opened.schema.names, *SKIP_COLUMNS}:
                    raise ValueError(f"{part.name} lacks {', '.join(sorted(missing))}")
        table = pa.concat_tables([read_table(part, schema=_SCHEMA) for part in parts])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{folder} cannot be read ({error}): measure the run again with evaluate --run {run}"
        ) from error
    return target_ranks({name: table[name].to_numpy() for name in table.column_names})
