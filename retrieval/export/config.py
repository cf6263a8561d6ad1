"""The settings of `export`."""

from dataclasses import dataclass
from pathlib import Path

from skipwise.retrieval.formats import DType, Format


@dataclass(frozen=True)
class ExportConfig:
    """What to export and where to."""

    run: str
    """Run directory that train wrote."""
    output: Path
    """Directory to write: embeddings, the encoder as a torch.export program, queries to tune by, and a manifest."""
    overwrite: bool = False
    """Replace an export that stands at --output."""
    format: Format = "parquet"
    """Of the embeddings: Parquet with track ids, NumPy's for memory maps, or a flat FAISS index (extra `ann`)."""
    dtype: DType = "float32"
    """Of the embeddings; int8 is FBGEMM's row-wise quantization, with a scale and a bias for each row."""
    only_new_since: str = ""
    """Another run's directory: export only rows that differ from its best table, bit for bit, and those of new
    tracks."""
    names: str = ""
    """A dataset directory that says what tracks are called (`prepare --title`), for those of which the run does not."""
    onnx: bool = False
    """Write the encoder for ONNX too (extra `onnx`)."""
    examples: int = 5
    """Sessions of the test that the export holds for the page to start from: the tracks and skips of their last 10
    plays, without anything of the listener. 0 for an export whose readers may not see any."""

    def __post_init__(self) -> None:
        if not 0 <= self.examples <= 100:
            raise ValueError(f"--examples {self.examples} must lie in 0..100")
