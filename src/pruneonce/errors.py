"""Errors that the command line shows as one line, without a traceback."""


class UserError(Exception):
    """Mistake in the user's input. Exit code 2.

    The message is one line that names the mistake and its remedy, even where a name in a recipe or file that it quotes
    holds line breaks.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))


class DivergedError(UserError):
    """Divergence of training to infinity, perhaps with the present settings alone."""


class MissingColumnError(UserError):
    """Lack of a column in data."""


class ToldByFirstError(UserError):
    """Mistake that the first of several processes found and reports."""


class LostProcessError(Exception):
    """Loss of another process of the same run. Exit code 70."""


class Interrupted(BaseException):
    """Orderly stop after a signal. Exit code 128 plus the signal's number."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class InUseError(UserError):
    """Another process works in the folder, so that nothing in it is ours to remove."""
