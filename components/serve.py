"""Answer over HTTP from an export, with a web page; an export that replaces it is loaded while the service runs.

Example:
  skipwise serve --export exports/best --port 8000
"""

import os
from dataclasses import replace

from skipwise.common.versions import need_extra
from skipwise.retrieval.serve.config import ServeConfig


def serve(config: ServeConfig) -> None:
    """Serves until SIGTERM or ctrl-C. Raises `UserError` for a port, an export or a missing package."""
    # Each OpenMP library (torch's, FAISS's) reads this when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    # oneDNN keeps a compiled kernel for each size of a batch, up to 1,024: some hundred MiB that are hardly used again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
    need_extra("serve", "serve")
    from skipwise.retrieval.serve.workers import fork_workers

    worker = fork_workers(config) if config.workers > 1 else None  # before anything starts a thread
    from skipwise.common.mirrors import local
    from skipwise.retrieval.serve.server import run

    run(
        replace(
            config,
            export=local(config.export),
            tracks=local(config.tracks) if config.tracks else None,
            compare=local(config.compare) if config.compare else None,
            report=local(config.report) if config.report else None,
        ),
        worker,
    )
