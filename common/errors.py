"""`UserError`, the one error that users read, and the text of values and of other errors in its messages."""

import os
import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


class UserError(Exception):
    """Something the user can fix: bad input, a bad option, a file of another version.

    Its message is one sentence that names the file, the row or the field, says what was expected and how to fix it. The
    command line prints it without a traceback and exits with code 2. Unprintable characters of a name or a value (line
    breaks, a terminal's control characters) are escaped.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """Returns `text` with its unprintable characters escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def brief(error: BaseException) -> str:
    """Returns an error's message in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def reason(error: OSError) -> str:
    """Returns why the system refused, without the file's name: "No space left on device"."""
    return os.strerror(error.errno) if error.errno else brief(error)


def shown(value: object) -> str:
    """Returns the `repr` of a value as a message shows it: one short line, however large or deep the value is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a huge number"
