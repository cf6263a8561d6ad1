"""`export --run RUN --output OUT`: a run's best weights as files for retrieval, on any number of ranks."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportConfig:
    """What to export and where to."""

    run: str
    """Run directory that train wrote."""
    output: Path
    """Directory to write: embeddings as Parquet, the encoder as a torch.export program, and a manifest."""
    overwrite: bool = False
    """Replace an export that stands at `output`."""


def export(config: ExportConfig) -> None:
    """Writes the export and compares it with the live model; after a failure of any rank nothing is left behind."""
    from retrieval.exporter import write_export
    from training.distributed import process_group

    with process_group():
        write_export(config.run, config.output, config.overwrite)
