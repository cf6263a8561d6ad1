"""How a failing rank is heard under torchrun and TorchX, whose own last words are otherwise an exit code."""

import os
import time

from training.failure import record

__all__ = ["GRACE_S", "let_rank_0_speak", "record"]

GRACE_S = 3.0


def let_rank_0_speak() -> None:
    """Holds every other rank for `GRACE_S` seconds.

    torchrun ends all ranks once it has seen one fail, rank 0 perhaps before it has said why.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE_S)
