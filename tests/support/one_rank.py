"""Exports in the test's own process: a group of one rank, and the encoder traced once."""

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import build_model, table_weight
from skipwise.training.checkpoint.checkpoints import Checkpoints
from skipwise.training.checkpoint.state import model_tensors
from skipwise.training.config import RunConfig
from skipwise.training.run.position import Position
from skipwise.training.run.start import create_or_resume_run

TRACE = torch.export.export


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[None]:
    """So that a case takes no start of its own."""
    meeting = tmp_path_factory.mktemp("meeting") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    traced = []

    def trace_once(*arguments, **options):
        """Tracing takes seconds, and the program is the same in all cases."""
        if not traced:
            traced.append(TRACE(*arguments, **options))
        return traced[0]

    with patch.object(torch.export, "export", trace_once):
        yield
    dist.destroy_process_group()


def save_rows(config: RunConfig, rows: Tensor) -> None:
    """A run whose best weights are those it would start from, but for its table, which is `rows`."""
    store = SessionStore(config.data.path)
    checkpoints = Checkpoints(create_or_resume_run(config, "best", store).path, keep=1, facts={})
    model = build_model(config, store.num_tracks)
    for shard in table_weight(model).local_shards():
        first, count = shard.metadata.shard_offsets[0], shard.metadata.shard_sizes[0]
        shard.tensor.copy_(rows[first : first + count])
    checkpoints.save(model_tensors(model), Position(best_checkpoint=Position().name))
    checkpoints.close()
