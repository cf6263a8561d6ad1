"""The one error a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: bad input, a bad option, a file of another version.

    Its message is one sentence that names the file, the row or the field, says what was expected and how to mend
    it. The command line prints it without a traceback and exits with code 2.
    """


def brief(error: BaseException) -> str:
    """What a library says of an error, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def shown(value: object) -> str:
    """A value of another's making as a message shows it: one line, and short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}..."
