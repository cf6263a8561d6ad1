"""A place for one served export, where a newer one takes over while requests are answered."""

import gc
import os
from pathlib import Path

from skipwise.common.distributed import logger
from skipwise.common.errors import UserError
from skipwise.retrieval.search.opened_search import Which
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import Loaded

Mark = tuple[tuple[str, int, int, int], ...] | None
"""By which a newer export is known: each file's path, inode, time and size; None where there is nothing to see."""


class Slot:
    """`current` is what answers; a batch takes it once, and keeps it until it is done."""

    def __init__(self, name: str, path: Path, which: Which, metrics: Metrics):
        """Opens the export; raises `UserError` where it cannot be served."""
        self.name, self.error = name, None
        """`error`: why the newest export is not the one in service, or None."""
        self._path, self._which, self._metrics = path, which, metrics
        self._tried = self._seen = mark(path)
        self.current = Loaded.open(path, which, generation=1)
        metrics.generation.labels(name).set(1)
        metrics.reload_failures.labels(name)

    def look(self) -> bool:
        """Whether there is something new that has stood since the last look: a copy on its way keeps changing."""
        before, self._seen = self._seen, mark(self._path)
        return self._seen == before != self._tried

    def reload(self) -> None:
        """Puts what stands at the path into service. If it cannot be, says why and leaves the old one there."""
        self._tried = mark(self._path)
        try:
            loaded = Loaded.open(self._path, self._which, self.current.generation + 1)
        except UserError as error:
            self.error = str(error)
            self._metrics.reload_failures.labels(self.name).inc()
            logger.error(f"skipwise: still serving the older export, as the newer is refused: {error}")
            return
        self.current, self.error = loaded, None
        self._metrics.generation.labels(self.name).set(loaded.generation)
        logger.info(f"serving a newer export at {self._path}: {loaded.opened.manifest.rows:,} tracks")
        gc.collect()  # an encoder program is full of cycles, and would keep the old table in memory


def mark(path: Path) -> Mark:
    """See `Mark`."""
    marks = []
    try:
        root = path.resolve(strict=True)
        for folder, _, names in os.walk(root):
            for name in names:
                found = os.stat(os.path.join(folder, name))
                marks.append((os.path.join(folder, name), found.st_ino, found.st_mtime_ns, found.st_size))
    except OSError:  # on its way in or out
        return None
    return tuple(sorted(marks))
