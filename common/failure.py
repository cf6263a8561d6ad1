"""How a failing rank reports its error under torchrun and TorchX, which otherwise show only its exit code."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

_REFUSED = "refused"
"""Marks the report of a `UserError`: a restart would fail in the same way."""
GRACE_S = 3.0


def record(message: str, refused: bool = False) -> None:
    """Writes `message` where torchrun and TorchX read a rank's error; does nothing without them."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    extra = {"timestamp": str(int(time.time()))}
    if refused:
        extra[_REFUSED] = "yes"
    with suppress(OSError):  # the failure itself is what the user must see
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def refused_before() -> bool:
    """Returns whether torchrun has restarted this rank after a rank of its group ended with a `UserError`.

    Records that error again, as this attempt's.
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not (attempt and path):
        return False
    # .../attempt_N/LOCAL_RANK/error.json
    for file in (Path(path).parents[2] / f"attempt_{attempt - 1}").glob("*/error.json"):
        # Another program, or torchrun itself, may have written something else.
        with suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(file.read_text())["message"]
            if report["extraInfo"][_REFUSED]:
                record(report["message"], refused=True)
                return True
    return False


def wait_for_rank_0() -> None:
    """Holds every other rank for `GRACE_S` seconds, so that rank 0 prints its error.

    torchrun ends all ranks as soon as one has failed.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE_S)
