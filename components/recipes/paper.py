"""The six models of the paper (Seshadri & Knees, arXiv 2309.11623, table 1), at its settings.

2 blocks, 8 heads, d = hidden = 128, dense Adam at 0.005, 1000 negatives a session, cloze 0.2, alpha = beta = 0.5.
Its published code ends after 12 epochs, where some models still improve; here training ends by patience. Row-wise
Adagrad replaces its Adam on the table, which FBGEMM lacks on CPU.
"""

from dataclasses import replace

from skipwise.datapipes.config import DataConfig
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.training.config import OptimizerConfig, RunConfig, TrainConfig

SKIP_BLIND = LossConfig(context="none", alpha=0.0, beta=1.0)


def unidir() -> RunConfig:
    """SASRec-like, skip-blind: "Unidir S-" of the paper's table 1."""
    return RunConfig(
        data=DataConfig(sampling="per-session"),
        loss=SKIP_BLIND,
        optimizer=OptimizerConfig(learning_rate=0.005),
        train=TrainConfig(patience=4),
    )


def unidir_skip_context() -> RunConfig:
    """SASRec-like, skips pushed from the encoder's output: "Unidir S+, c = ŷ"."""
    return replace(unidir(), loss=LossConfig(context="output"))


def unidir_skip_track() -> RunConfig:
    """SASRec-like, skips pushed from each track's own embedding: "Unidir S+, c = e"."""
    return replace(unidir(), loss=LossConfig(context="track"))


def bidir() -> RunConfig:
    """BERT4Rec-like, skip-blind: "Bidir S-"."""
    return replace(unidir(), encoder=EncoderConfig(direction="bidirectional"))


def bidir_skip_context() -> RunConfig:
    """BERT4Rec-like, skips pushed from the encoder's output: "Bidir S+, c = ŷ"."""
    return replace(bidir(), loss=LossConfig(context="output"))


def bidir_skip_track() -> RunConfig:
    """BERT4Rec-like, skips pushed from each track's own embedding: "Bidir S+, c = e"."""
    return replace(bidir(), loss=LossConfig(context="track"))
