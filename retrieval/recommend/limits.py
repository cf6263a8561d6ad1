"""What a question for recommendations may be, wherever it comes from."""

MOST_K = 10_000
"""Tracks of one answer."""
MOST_PLAYS = 10_000
"""Tracks of one session."""
MOST_STEER = 10.0
"""Strength of steering; at 1 already little is left of what the model asked for."""
MOST_SESSIONS = 1 << 16
"""Sessions that are searched for at a time."""


def check_k(k: int) -> None:
    """Raises `ValueError`, a sentence that begins with the option."""
    if not 1 <= k <= MOST_K:
        raise ValueError(f"-k {k} must lie in 1..{MOST_K}")


def check_steer(steer: float) -> None:
    """Raises `ValueError`, a sentence that begins with the option; also for what is not a number."""
    if not 0 <= steer <= MOST_STEER:
        raise ValueError(f"--steer {steer} must lie in 0..{MOST_STEER:g}: 0 is off")
