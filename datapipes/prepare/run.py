"""`prepare`, from raw logs to a dataset directory."""

from pathlib import Path

import duckdb

from datapipes.aside import aside
from datapipes.errors import UserError
from datapipes.manifest import MANIFEST, Manifest
from datapipes.prepare.config import PrepareConfig
from datapipes.prepare.publish import publish
from datapipes.prepare.sessions import group_sessions
from datapipes.prepare.sources import find_sources
from datapipes.prepare.staging import connect, count_homeless, number, stage_rows

STOPPED = "stopped before the dataset was whole: nothing was written"


def prepare(config: PrepareConfig) -> Manifest:
    """Writes the dataset directory `config.output` and returns its manifest.

    Raises `UserError` for bad input, an output that exists, or a machine without the memory or disk it takes; nothing
    is left behind then.
    """
    try:
        with aside(config.output, config.overwrite, is_dataset) as scratch:
            sources = find_sources(config)
            with connect(config, scratch) as engine:
                stage_rows(engine, sources, config, scratch)
                dropped_rows = count_homeless(engine, sources, config, scratch)
                number(engine, scratch, sources[0].roles)
                dropped_sessions = group_sessions(engine, sources, config, scratch)
                return publish(engine, sources, config, scratch, dropped_sessions, dropped_rows)
    except duckdb.OutOfMemoryException:
        raise UserError(f"--memory {config.memory} GiB does not suffice for this log: raise it") from None
    except (KeyboardInterrupt, duckdb.InterruptException):
        raise UserError(STOPPED) from None
    except RuntimeError as error:
        # What DuckDB makes of ctrl-C while it waits for a result.
        raise (UserError(STOPPED) if "interrupted" in str(error) else error) from None
    except (duckdb.Error, OSError) as error:
        raise UserError(f"{config.output} could not be written ({first_line(error)}): check the disk") from None


def is_dataset(path: Path) -> bool:
    """Whether `prepare` wrote a directory, so that it may replace it."""
    return (path / MANIFEST).is_file()


def first_line(error: Exception) -> str:
    """The gist of an error of a library."""
    return str(error).strip().splitlines()[0][:200]
