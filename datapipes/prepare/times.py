"""Times and dates as options say them, exact to the last digit."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction

YEAR = r"^[1-9][0-9]{3}[^0-9]"
"""How a date begins, as a regular expression. Of 15-07-18 nobody knows which number is the year."""
DATES = "a date such as 2018-07-15, a date and time such as 2018-07-15T20:30, or a number"
MICROSECOND = Fraction(1, 1_000_000)
"""What the places of dates and times count, in seconds."""
UNITS = {
    **{"ns": Fraction(1, 1_000_000_000), "us": MICROSECOND, "ms": Fraction(1, 1_000)},
    **{"s": Fraction(1), "m": Fraction(60), "h": Fraction(3600), "d": Fraction(86400)},
}
"""Units of time in seconds."""


def seconds(text: str, unit: Fraction, flag: str) -> Fraction:
    """Returns a number of `unit`, or a date and time, as seconds since 1970; raises `ValueError` for anything else."""
    try:
        return Fraction(Decimal(text)) * unit
    except (InvalidOperation, ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text if re.match(YEAR, text) else "")
    except ValueError:
        raise ValueError(f"{flag} must be {DATES}, not {text[:40]!r}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    behind = re.search(r"[.,][0-9]{6}([0-9]+)", text)  # what `datetime` reads over
    parts = Fraction(int(behind[1]), 10 ** (6 + len(behind[1]))) if behind else 0
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * MICROSECOND + parts


def duration(text: str) -> Fraction:
    """Returns a time such as 30m or ms in seconds, 0 for anything else."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?)?({'|'.join(UNITS)})", text, re.ASCII)
    return Fraction(found[1] or 1) * UNITS[found[2]] if found else Fraction(0)
