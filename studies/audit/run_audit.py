"""The audit of a dataset: what its skips say before any model is trained."""

from pathlib import Path
from typing import Any

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError
from skipwise.common.outputs import require_directory
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit.audit_files import write_audit
from skipwise.studies.audit.audit_text import sentences
from skipwise.studies.audit.power import power
from skipwise.studies.audit.predictors import measure
from skipwise.studies.audit.repetition import repetition
from skipwise.studies.audit.skip_rates import SkipRates, read_with_contexts
from skipwise.studies.audit.skip_samples import Samples, read_samples
from skipwise.studies.audit.skip_tables import SkipTables


def run_audit(data: str, output: str | None) -> None:
    """Prints three sentences on a dataset, and writes the audit's files into `output` where there is one."""
    if output is not None:
        require_directory(Path(output))
    store = SessionStore(data)
    figures = audit(store)
    print("\n".join(sentences(figures)))
    if output is None:
        note("add --output DIR to keep the tables and pictures behind these sentences")
    else:
        write_audit(Path(output), figures)
        note(f"wrote {Path(output) / 'audit.md'}, audit.json and audit.png")


def audit(store: SessionStore) -> dict[str, Any]:
    """Returns all figures. Raises `UserError` for data in which there is nothing to measure."""
    tables, rates = SkipTables(store.num_tracks), SkipRates(store.manifest.context_columns)
    with stage("counting", len(store.part("train")), "sessions") as advance:
        for plays, contexts in read_with_contexts(store):
            tables.add(plays)
            rates.add(plays, contexts)
            advance(len(set(plays.number_P.tolist())))
    _refuse_constant(store, tables.skips, tables.plays, "training")
    samples = read_samples(store, tables)
    _refuse_unmeasurable(store, samples)
    predictors, auc_M = measure(samples)
    held_out = len(store.part("test"))
    targets = len(samples.test.skipped_P) / len(auc_M)
    return {
        "data": {
            "name": store.path.name,
            "counts": dict(store.manifest.counts),
            "split": "session" if store.unseen else "position",
            "vocabulary_hash": store.manifest.vocabulary_hash,
        },
        "rates": rates.figures(),
        "predictors": predictors,
        "repetition": repetition(store),
        "power": power(targets, auc_M, held_out),
    }


def _refuse_unmeasurable(store: SessionStore, samples: Samples) -> None:
    test = samples.test
    if len(set(test.session_P.tolist())) < 2:
        raise UserError(
            f"{store.path} holds out plays of one session: expected at least 2, to resample them; prepare more sessions"
        )
    _refuse_constant(store, int(test.skipped_P.sum()), len(test.skipped_P), "held-out")


def _refuse_constant(store: SessionStore, skips: int, plays: int, which: str) -> None:
    if not 0 < skips < plays:
        every = "skipped (strength 1 or 2)" if skips else "kept"
        raise UserError(
            f"{store.path}: all {plays:,} {which} plays are {every}: expected both kinds; prepare the log with its "
            "skips (--skip, --skip-strength or --rating), or more sessions of it"
        )
