"""The one error type for mistakes a user can mend; the command line shows it as one line and exits with 2."""


class UserError(Exception):
    """A mistake in what the user gave: the message is one line that says what is wrong and what to do."""
