"""Say whether a dataset's skips tell what will be skipped next, and which gains the data could show; trains nothing.

Example:
  skipwise audit --data data/mine --output audits/mine
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class AuditConfig:
    """What is audited."""

    data: str
    """Dataset directory, as `prepare` writes it."""
    output: str | None = None
    """Directory of `audit.md`, `audit.json` and `audit.png`; without it the sentences are printed alone."""


def audit(config: AuditConfig) -> None:
    """Prints the sentences and writes the files."""
    from skipwise.studies.audit.run_audit import run_audit

    run_audit(config.data, config.output)
