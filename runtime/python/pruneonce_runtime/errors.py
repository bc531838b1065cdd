"""The error that a user sees: one line, without a traceback where a program shows it."""


class PruneonceError(ValueError):
    """A file, a model or an argument is wrong: the message is one line that says what is wrong and what to do.

    It is one line whatever it quotes: names in files, and what libraries say, may hold the ends of lines.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))
