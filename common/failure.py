"""How a failing rank is reported under torchrun and TorchX, which otherwise show only its exit code."""

import json
import os
import time
from pathlib import Path

REFUSED = "refused"
"""Marks a sentence for the user among last words: there is no use in a restart until something is mended."""


def record(message: str, refused: bool = False) -> None:
    """Leaves `message` where torchrun and TorchX read a rank's last words; does nothing outside of them."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    words = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
    if refused:
        words["extraInfo"][REFUSED] = "yes"
    try:
        with open(path, "w") as file:
            json.dump({"message": words}, file)
    except OSError:
        # The failure itself is what the user must see.
        return


GRACE_S = 3.0


def refused_before() -> bool:
    """Whether torchrun has restarted this rank after one of its group ended with a sentence for the user.

    Then leaves that sentence again, as the last words of this attempt.
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not (attempt and path):
        return False
    # .../attempt_N/LOCAL_RANK/error.json
    for file in (Path(path).parents[2] / f"attempt_{attempt - 1}").glob("*/error.json"):
        try:
            words = json.loads(file.read_text())["message"]
            refused, message = words["extraInfo"].get(REFUSED), words["message"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # what another program left, or torchrun itself
        if refused:
            record(message, refused=True)
            return True
    return False


def let_rank_0_speak() -> None:
    """Holds every other rank for `GRACE_S` seconds.

    torchrun ends all ranks once it has seen one fail, rank 0 perhaps before it has said why.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE_S)
