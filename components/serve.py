"""`serve --export OUT`: answers over HTTP from an export, and swaps to a newer one while it runs."""

import os

from skipwise.common.extras import need_extra
from skipwise.retrieval.serve.config import ServeConfig


def serve(config: ServeConfig) -> None:
    """Serves until SIGTERM or ctrl-C. Raises `UserError` for a port, an export or a missing package."""
    # Each OpenMP library (torch's, FAISS's) reads this when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    need_extra("serve", "serve")
    from skipwise.retrieval.serve.server import run

    run(config)
