"""RecTools' SASRec under BCE or sampled softmax and its own optimizer; runs in RecTools' environment."""

from typing import Any

import numpy as np
import torch
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet, SumOfEmbeddingsConstructor
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from work import Work, padded, read_work, report


def make_module(work: Work) -> TransformerLightningModule:
    """The module that `fit` makes, over as many items as asked for in place of those that a dataset has.

    Its tables' row 0 is padding.
    """
    model = SASRecModel(
        n_blocks=work.blocks,
        n_heads=work.heads,
        n_factors=work.dim,
        dropout_rate=work.dropout,
        session_max_len=work.length - 1,
        loss="BCE" if work.negatives == "one" else "sampled_softmax",
        n_negatives=work.count,
        batch_size=work.batch,
        item_net_block_types=(IdEmbeddingsItemNet,),
    )
    items = work.tracks + 1
    table = IdEmbeddingsItemNet(n_factors=work.dim, n_items=items, dropout_rate=work.dropout)
    backbone = model._init_torch_model(SumOfEmbeddingsConstructor(n_items=items, item_net_blocks=[table]))
    model._init_data_preparator()
    model._init_lightning_model(backbone, dataset_schema={}, item_external_ids=np.arange(items), model_config={})
    return model.lightning_model


def make_batches(work: Work) -> list[dict[str, Any]]:
    """Batches as RecTools' own collate function makes them."""
    batches = []
    for inputs_BT, targets_BT in padded(work):
        batches.append(
            {
                "x": inputs_BT + 1,
                "y": targets_BT + 1,
                "yw": (targets_BT >= 0).float(),
                "negatives": torch.randint(1, work.tracks + 1, (*inputs_BT.shape, work.count)),
            }
        )
    return batches


if __name__ == "__main__":
    work = read_work()
    module = make_module(work).train()
    module.on_train_start()

    def loss_of(batch: dict[str, Any]) -> torch.Tensor:
        return module.loss_calculator(module.get_batch_logits(batch), batch["y"], batch["yw"])

    report(work, make_batches(work), loss_of, module.configure_optimizers(), "rectools")
