"""RePlay's SasRec under its CESampled loss and its default optimizer; runs in RePlay's environment."""

from typing import Any

import torch
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import CESampled
from replay.nn.sequential import SasRec
from work import Work, padded, read_work, report

ITEM = "item_id"


def make_model(work: Work) -> SasRec:
    """The model that `SasRec.from_params` makes, with the sampled loss in place of the full one."""
    schema = TensorSchema(
        [
            TensorFeatureInfo(
                ITEM,
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                embedding_dim=work.dim,
                padding_value=work.tracks,
                cardinality=work.tracks,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
            )
        ]
    )
    model = SasRec.from_params(
        schema,
        embedding_dim=work.dim,
        num_heads=work.heads,
        num_blocks=work.blocks,
        max_sequence_length=work.length,
        dropout=work.dropout,
        hidden_dim=work.hidden,
    )
    return SasRec(model.body, CESampled(ignore_index=work.tracks))


def make_batches(work: Work) -> list[dict[str, Any]]:
    """Arguments of the model's `forward`."""
    batches = []
    for inputs_BT, targets_BT in padded(work):
        shape = (work.count,) if work.negatives == "shared" else (work.batch, work.count)
        real_BT = inputs_BT >= 0
        batches.append(
            {
                "feature_tensors": {ITEM: inputs_BT.where(real_BT, work.tracks)},
                "padding_mask": real_BT,
                "positive_labels": targets_BT.where(real_BT, work.tracks)[:, :, None],
                "negative_labels": torch.randint(0, work.tracks, shape),
                "target_padding_mask": real_BT[:, :, None],
            }
        )
    return batches


if __name__ == "__main__":
    work = read_work()
    model = make_model(work).train()
    optimizer = OptimizerFactory().create(model.parameters())
    report(work, make_batches(work), lambda batch: model(**batch)["loss"], optimizer, "replay-rec")
