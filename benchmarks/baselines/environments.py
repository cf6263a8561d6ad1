"""Virtual environments of the systems that `peers` compares with, created when first needed, with pinned packages."""

import shutil
import subprocess
import sys
from pathlib import Path

from skipwise.common.distributed import logger
from skipwise.common.errors import UserError

SCRIPTS = Path(__file__).parent / "peer_scripts"
"""NAME.txt with the packages of an environment, and run_NAME.py that runs in it."""
INSTALLED = "installed.txt"


def python_of(name: str, folder: Path) -> Path:
    """The Python of the environment `name` in `folder`, which is created if it is missing or has other packages.

    Raises `UserError` where pip cannot install it, and removes what it installed.
    """
    environment, wanted = folder / name, (SCRIPTS / f"{name}.txt").read_text(encoding="utf-8")
    python = (environment / "bin" / "python").absolute()
    marker = environment / INSTALLED  # written last: an incomplete environment has none
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return python
    if environment.exists() and not (environment / "pyvenv.cfg").is_file():
        raise UserError(f"{environment} exists and is no virtual environment: choose another --environments")
    shutil.rmtree(environment, ignore_errors=True)
    logger.info(f"installing {name} into {environment}: some minutes and 2 GB")
    try:
        _run(name, sys.executable, "-m", "venv", str(environment))
        requirements = str(SCRIPTS / f"{name}.txt")
        _run(name, str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    except BaseException:
        shutil.rmtree(environment, ignore_errors=True)
        raise
    marker.write_text(wanted, encoding="utf-8")
    return python


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it printed no error"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise UserError(f"the environment of {name} cannot be installed ({reason.strip()}): leave it out with --peers")
