"""The one exception for what a user got wrong."""


class InputError(ValueError):
    """A wrong config, list, image, weight file or flag.

    The message is one line: where, what, what was got and what was expected. The programs print
    it without a traceback and exit with code 1; Python callers get an ordinary ValueError.
    """


def one_line(error):
    """What another library's exception says, on one line of at most 300 characters."""
    text = ' '.join(str(getattr(error, 'problem', None) or error).split())
    return text[:300] or type(error).__name__
