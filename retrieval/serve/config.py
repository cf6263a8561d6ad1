"""The options of the service. Imports neither torch nor FastAPI."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from skipwise.retrieval.recommend.track_filter import Filter, read_filter
from skipwise.retrieval.search.config import SearchChoice


@dataclass(frozen=True)
class ServeConfig:
    """What to serve and where."""

    export: Path
    """Export that export wrote, or a symbolic link to one. An export that replaces it is served in its place."""
    compare: Path | None = None
    """A second export, which requests may choose and which the page compares with the first."""
    report: Path | None = None
    """HTML file that report wrote, shown at /report."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no TLS: use any other than the loopback's on trusted networks only."""
    api_keys: Path | None = None
    """File of keys, one a line; requests must then carry one (docs/serve.md, "Access"). Further keys may stand in the
    environment variable SKIPWISE_API_KEYS."""
    allowed_host: tuple[str, ...] = ()
    """Names under which the service is asked besides localhost and --host. Requests by any other name are refused; with
    --host beyond the loopback, those by an IP address are not."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    search: SearchChoice = "auto"
    """Score every track, or use the export's index; auto: the index where there is one."""
    deltas: str = ""
    """Folder, also in an object store, of the deltas of a run that follows (docs/follow.md), applied to --export."""
    drain_s: float = 0.0
    """Seconds after SIGTERM in which the service still answers, while /ready says 503 so that balancers turn away."""
    tracks: Path | None = None
    """Parquet file of `track_id` and columns to filter by, such as rights; one that replaces it takes its place."""
    filter: Filter = ()
    """What every recommended track must meet, beside the filter of a request; as in recommend --filter."""
    reload_s: float = 2.0
    """Seconds between two checks for a newer export, and for new deltas; 0 checks only on SIGHUP."""
    max_batch: int = 64
    """Maximum number of requests in a batch."""
    max_wait_ms: float = 2.0
    """Milliseconds that the first request of a batch waits for others."""
    max_queue: int = 512
    """Maximum number of waiting requests, about those of a second; further ones are refused with 503."""
    max_body: int = 1_000_000
    """Maximum size of a request body, in bytes."""
    workers: int = 1
    """Processes that answer. They share the memory of the table; each has its own queue, connections and threads."""
    threads: int = 1
    """Threads of each computation. One is fastest for a few sessions at a time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "filter", read_filter(self.filter))
        for name in self.allowed_host:
            if urlsplit(f"//{name}").netloc != name or ":" in name or not name:
                raise ValueError(f"--allowed-host {name} must be a name without scheme, port and path")
        try:
            is_file = Path(self.deltas).is_file()
        except OSError as error:
            raise ValueError(f"--deltas {self.deltas} cannot be a folder ({error.strerror}): name another") from error
        if is_file:
            raise ValueError(
                f"--deltas {self.deltas} is a file: name the folder that train --stream.deltas writes into"
            )
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port {self.port} must lie in 0..65535")
        for name in ("max_batch", "max_queue", "max_body", "workers", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("drain_s", "reload_s", "max_wait_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative")
