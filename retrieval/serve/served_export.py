"""An export in service, and its replacement by a newer one while requests are answered."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from skipwise.common.distributed import logger
from skipwise.common.errors import UserError, brief
from skipwise.common.mirrors import complete
from skipwise.datapipes.signals import SKIPS
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.track_columns import TrackColumns
from skipwise.retrieval.recommend.track_filter import TrackFilter
from skipwise.retrieval.search.config import SearchChoice
from skipwise.retrieval.search.exact import Search
from skipwise.retrieval.search.stored import open_search
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.shared_rows import remove_unused

Fingerprint = list[tuple[str, int, int, int]] | None


@dataclass(frozen=True, eq=False)
class ServedExport:
    """One opened export. Each batch of requests uses one of these from start to end."""

    opened: OpenExport
    search: Search
    recommender: Recommender
    name: str
    """Name of the export's directory or link, without its parents."""
    generation: int
    """1 for the first export under its name, one more for each newer one."""
    codes: dict[str, dict[str, int]]
    """Of each value of the context columns that the encoder reads."""
    delta: int = 0
    """The last delta that its rows have."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def open(
        cls,
        path: Path,
        search: SearchChoice,
        generation: int,
        tracks: Path | None = None,
        always: TrackFilter = (),
    ) -> "ServedExport":
        """Opens the export at `path` and recommends once. Raises `UserError` for anything that is wrong with it.

        `tracks`, `always`: those of `TrackColumns`.

        A link is resolved once, so that all files are of one export even if the link changes meanwhile.
        """
        try:
            opened = OpenExport.open(path.resolve(strict=False))
            opened_search = open_search(opened, search)
            recommender = Recommender(opened, opened_search, TrackColumns(opened.tracks, tracks, always))
            recommender.set_up()
            _ = opened.words  # is read here, not by the first who searches
            rows_BK, scores_BK, _ = recommender.recommend(SessionHistory.of([[(0, 0)]]), RecommendOptions())
        except UserError:
            raise
        except Exception as error:  # torch and FAISS may raise anything for a damaged file
            raise UserError(
                f"{path} cannot be served ({type(error).__name__}: {brief(error)}): export again"
            ) from error
        if not np.isfinite(scores_BK[rows_BK >= 0]).all():
            raise UserError(f"{path} cannot be served, as it gives scores that are not finite: train and export again")
        codes = {column.name: {value: at for at, value in enumerate(column.values, 1)} for column in opened.contexts}
        return cls(opened, opened_search, recommender, path.name, generation, codes)

    def about(self) -> dict[str, Any]:
        """The export's entry in /exports."""
        manifest = self.opened.manifest
        loss = manifest.config.get("loss", {})
        skips = loss.get("alpha", 0) > 0 and loss.get("context", "none") != "none"
        reads = [entry.name for entry in manifest.signals]
        skips = skips or bool(manifest.keep) or SKIPS in reads
        index, entry = None, manifest.index
        if entry:
            chosen = entry.kind, entry.search
            recalls = [one.recall_at_10 for one in entry.measured if (one.kind, one.search) == chosen]
            index = {"kind": entry.kind, "search": entry.search, "recall_at_10": next(iter(recalls), None)}
        return self.identity() | {
            "path": self.name,
            "rows": manifest.rows,
            "names": manifest.names,
            "columns": self.recommender.columns.names,
            "dim": manifest.dim,
            "dtype": manifest.dtype,
            "loss": loss,
            "trained_on_skips": skips,
            "reads": reads,
            "profile": self.opened.profile,
            "keep": manifest.keep.model_dump() if manifest.keep else None,
            "index": index,
            "search": type(self.search).__name__,
        }

    def examples(self) -> list[list[dict[str, Any]]]:
        """The plays of each session to start from, oldest first."""
        tracks, found = self.opened.tracks, []
        for plays in self.opened.manifest.examples:
            rows = [play.row for play in plays]
            named = zip(tracks.texts(rows), tracks.named_rows(rows), plays, strict=True)
            found.append([{"track": track} | names | {"skipped": play.skipped} for track, names, play in named])
        return found

    def identity(self) -> dict[str, Any]:
        """Which export gave an answer."""
        manifest = self.opened.manifest
        version = {"loaded": self.generation, "delta": self.delta}
        return {"recipe": manifest.recipe, "vocabulary_hash": manifest.vocabulary_hash} | version


class Broken(Exception):
    """The deltas are another sequence than the one that was applied: the export is to be opened again."""


class Live(Protocol):
    """What applies deltas to the export in service: `LiveRows`."""

    error: str | None

    def begin(self, served: ServedExport) -> ServedExport: ...

    def newer(self, served: ServedExport) -> Iterator[ServedExport]: ...

    def failed(self, error: UserError) -> None: ...


class HotSwap:
    """Holds the export in service, `current`, and replaces it with a newer one at the same path."""

    def __init__(
        self,
        name: str,
        path: Path,
        search: SearchChoice,
        metrics: Metrics,
        tracks: Path | None = None,
        always: TrackFilter = (),
        live: Live | None = None,
    ):
        """Opens the export; raises `UserError` where it cannot be served.

        `tracks`, `always`: of `TrackColumns`; `live` applies deltas to it.
        """
        self.name = name
        self.error: str | None = None
        """Why the newest export is not in service, or None."""
        self.check_error: str | None = None
        """Why it is not known whether there is a newer one, or None."""
        self.failures = 0
        """Checks that failed, one after the other."""
        self._path, self._search, self._metrics, self._tracks, self._always = path, search, metrics, tracks, always
        self._live = live
        self._tried = self._seen = self._fingerprint()
        self.current = self._open(generation=1)
        metrics.generation.labels(name).set(1)
        metrics.reload_failures.labels(name)

    def health(self) -> dict[str, Any]:
        """The entry in /health."""
        since = self.current.since.isoformat(timespec="seconds")
        errors = {"reload_error": self.error, "check_error": self.check_error}
        errors |= {"delta_error": self._live.error} if self._live else {}
        return self.current.identity() | {"path": self.current.name, "since": since} | errors

    def checked(self, error: Exception | None = None) -> None:
        """Notes whether the last check for a newer export failed; logs the first failure of a row."""
        self.failures = self.failures + 1 if error else 0
        self.check_error = f"{type(error).__name__}: {brief(error)}" if error else None
        if self.failures == 1:
            self._metrics.reload_failures.labels(self.name).inc()
            logger.error(f"skipwise: cannot check for a newer export ({self.check_error}), and will try again")

    def refresh(self) -> None:
        """Applies the deltas that have come; opens the export again where they are another sequence now."""
        if self._live is None:
            return
        try:
            for newer in self._live.newer(self.current):
                self.current = newer
        except Broken as error:
            logger.warning(f"skipwise: {error}: the export is opened again")
            self.reload()
        except UserError as error:
            self._live.failed(error)

    def changed(self) -> bool:
        """Whether there is a newer export, unchanged since the last call: a copy in progress keeps changing.

        What an object store has is fetched first; raises `UserError` where that fails.
        """
        before, self._seen = self._seen, self._fingerprint()
        return self._seen == before != self._tried

    def reload(self) -> None:
        """Puts the export at the path into service. If it cannot be served, logs why and keeps the older one.

        Raises what is no fault of the export, such as `MemoryError`: it is still to be tried.
        """
        tried = self._fingerprint()
        try:
            newer = self._open(generation=self.current.generation + 1)
        except UserError as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from None
            self._tried, self.error = tried, str(error)
            self._metrics.reload_failures.labels(self.name).inc()
            logger.error(f"skipwise: still serving the older export, because the newer one is refused: {error}")
            return
        self._tried, self.current, self.error = tried, newer, None
        self._metrics.generation.labels(self.name).set(newer.generation)
        logger.info(f"serving a newer export at {self._path}: {newer.opened.manifest.rows:,} tracks")
        gc.collect()  # modules refer to themselves, and would keep the older table in memory
        remove_unused()

    def _open(self, generation: int) -> ServedExport:
        served = ServedExport.open(self._path, self._search, generation, self._tracks, self._always)
        return self._live.begin(served) if self._live else served

    def _fingerprint(self) -> Fingerprint:
        """Of the export, and of the table beside it."""
        paths = [self._path] if self._tracks is None else [self._path, self._tracks]
        found = [fingerprint(complete(path)) for path in paths]
        return None if None in found else [file for files in found for file in files or ()]


def fingerprint(path: Path) -> Fingerprint:
    """Path, inode, modification time and size of a file, or of each one of a directory; None while it is not there."""
    try:
        place = path.resolve(strict=True)
        files = [(file, file.stat()) for file in ([place] if place.is_file() else place.rglob("*"))]
    except (OSError, RuntimeError):  # being replaced at this moment; RuntimeError: a loop of links, in Python 3.12
        return None
    return sorted((str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size) for file, stat in files)
