"""The one error a user is meant to read."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


class UserError(Exception):
    """Something the user can mend: bad input, a bad option, a file of another version.

    Its message is one sentence that names the file, the row or the field, says what was expected and how to mend
    it. The command line prints it without a traceback and exits with code 2. What a name or a value brings along that
    cannot be printed, a line break or a terminal's control character, is written as its escape.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """The text with what a terminal might obey written as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def brief(error: BaseException) -> str:
    """What a library says of an error, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def shown(value: object) -> str:
    """A value of another's making as a message shows it: one line, and short, however large or deep it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a huge number"
