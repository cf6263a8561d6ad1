"""Which rows of a table have been looked up in training, on one rank, whose model has no wrapper."""

from dataclasses import replace

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.common.distributed import device, process_group
from skipwise.datapipes.batch import FEATURE
from skipwise.models.config import EncoderConfig, TableConfig
from skipwise.training.build import build_model
from skipwise.training.config import RunConfig
from skipwise.training.follow.live_table import ChangedRows


def test_rows_that_were_looked_up_have_changed():
    config = replace(RunConfig(), table=TableConfig(dim=8), encoder=EncoderConfig(heads=2, hidden=8))
    with process_group():
        model = build_model(config, 20).train()
        changed = ChangedRows(model)
        for rows in ([3, 7, 7], [0, 19]):
            bags = KeyedJaggedTensor([FEATURE], torch.tensor(rows), lengths=torch.ones(len(rows), dtype=torch.int32))
            model.module.table(bags.to(device())).values().sum()
            changed.note()
        numbers, values = changed.take()
        assert numbers.tolist() == [0, 3, 7, 19] and values.shape == (4, 8)
        assert not len(changed.take()[0])
