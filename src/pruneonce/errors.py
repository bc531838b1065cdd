"""Errors that the command line shows as one line, without a traceback."""


class UserError(Exception):
    """A mistake in what the user gave: the message is one line that says what is wrong and what to do. Exit code 2.

    It is one line whatever it quotes: names in recipes and files, and what libraries say, may hold the ends of lines.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))


class DivergedError(UserError):
    """Training went to infinity: with these settings, and perhaps with these alone."""


class ToldByFirstError(UserError):
    """A mistake that the first of several processes found, and says."""


class LostProcessError(Exception):
    """Another process of the same run is gone. Exit code 1."""


class Interrupted(BaseException):
    """A signal asked the process to stop, and it did so in order. Exit code 128 and the signal's number."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class InUseError(UserError):
    """Another process works in the folder: nothing in it is ours to remove."""
