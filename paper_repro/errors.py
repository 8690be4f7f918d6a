"""The one exception for anything a user can put right."""


class UserError(Exception):
    """Bad input or a missing resource.

    The message is one sentence that says what is wrong and what to do. The command line prints it without a
    traceback and exits with code 2.
    """
