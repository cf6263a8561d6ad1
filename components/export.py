"""Write a run's best weights as files for retrieval, on any number of ranks.

Example:
  skipwise export --run runs/best-001 --output exports/best
"""

from skipwise.retrieval.export.config import ExportConfig


def export(config: ExportConfig) -> None:
    """Writes the export and compares it with the live model; after a failure of any rank nothing is left behind."""
    from skipwise.common.distributed import process_group
    from skipwise.retrieval.export.exporter import write_export

    with process_group():
        write_export(config)
