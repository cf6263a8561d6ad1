"""A rank's last words, left where its launcher looks for them."""

import json
import os
import time

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
