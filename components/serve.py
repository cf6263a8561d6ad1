"""`serve --export OUT`: answers over HTTP from an export, and swaps to a newer one while it runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ServeConfig:
    """What to serve and where."""

    export: Path
    """Export that export wrote, or a symbolic link to one. When a newer one takes its place, that is served."""
    compare: Path | None = None
    """A second export, which requests may ask instead and which the page shows beside the first."""
    report: Path | None = None
    """HTML file that report wrote, shown at /report."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no authentication: any other than the loopback's is for networks you trust."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and says which."""
    search: Literal["auto", "exact", "index"] = "auto"
    """The export's index, or the exact search; auto: the index where there is one."""
    reload_s: float = 2.0
    """Seconds between two looks for a newer export; 0 looks only on SIGHUP."""
    max_batch: int = 64
    """Most requests that are answered together."""
    max_wait_ms: float = 2.0
    """Milliseconds that a request waits for others to be answered with it."""
    max_queue: int = 256
    """Most requests that wait; further ones are refused with 503."""
    max_body: int = 1_000_000
    """Bytes of the largest request body."""
    threads: int = 1
    """Of each computation. One is fastest for a few sessions at a time."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port {self.port} must lie in 0..65535")
        for name in ("max_batch", "max_queue", "max_body", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("reload_s", "max_wait_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative")


def serve(config: ServeConfig) -> None:
    """Serves until SIGTERM or ctrl-C. Raises `UserError` where the port, a package or an export stands in the way."""
    # Read by each OpenMP library (torch's, FAISS's) when it is loaded, and then by all of its threads.
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    from skipwise.common.extras import need_extra

    need_extra("serve", "serve")
    from skipwise.retrieval.serve.server import run

    run(config)
