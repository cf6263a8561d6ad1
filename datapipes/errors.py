"""The one error a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: bad input, a bad option, a file of another version.

    Its message is one sentence that names the file, the row or the field, says what was expected and how to mend
    it. The command line prints it without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        """On one line and printable anywhere, whatever a file's name or a value holds."""
        text = super().__str__()
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
