"""Files that others may have put there."""

import errno
import os
import stat
from pathlib import Path


def need_regular(path: Path) -> None:
    """Raises `OSError` unless `path` is a regular file: to open a named pipe would wait without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
