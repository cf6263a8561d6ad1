"""How a failing rank is heard under torchrun and TorchX, whose own last words are otherwise an exit code."""

import json
import os
import time

GRACE_S = 3.0


def record(message: str) -> None:
    """Leaves `message` where torchrun and TorchX read a rank's last words; does nothing outside of them."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    words = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
    try:
        with open(path, "w") as file:
            json.dump({"message": words}, file)
    except OSError:
        # The failure itself is what the user must see.
        return


def let_rank_0_speak() -> None:
    """Holds every other rank for `GRACE_S` seconds.

    torchrun ends all ranks once it has seen one fail, rank 0 perhaps before it has said why.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE_S)
