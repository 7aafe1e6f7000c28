"""Flags of command lines, and checks of their values."""
import argparse
import os
import re

from common.core.errors import InputError

UNITS = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
SIZE = re.compile(r'(\d{1,12})([KMG]?)')


def tool_parser(name, text, example):
    """The parser of a tool's command line.

    It calls the tool as the command does that every installation has, whichever way it was started.

    Args:
        name: the tool's in `paddle-vitae NAME`.
        text: what -h says that it does.
        example: arguments that work, after `paddle-vitae digits digits` has written a data set and
            `paddle-vitae train -cfg vit_digits -data_path digits -output runs` has trained.
    """
    command = f'paddle-vitae {name}'
    return argparse.ArgumentParser(
        prog=command, description=text, epilog=f'example:\n  {command} {example}'.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def add_flag(parser, flag, help_text, **options):
    """Adds a flag that may be written with one dash or two.

    Args:
        parser: argparse's.
        flag: its name without dashes.
        help_text: a line for -h.
        options: what else add_argument takes.
    """
    parser.add_argument(f'-{flag}', f'--{flag}', dest=flag, help=help_text, **options)


def check_least(args, **least):
    """Raises InputError for a flag, or one of a list, that is below the least value it may have."""
    for flag, smallest in least.items():
        values = getattr(args, flag, None)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < smallest:
                raise InputError(f'-{flag}: got {value}, expected at least {smallest}')


def byte_size(flag, text, example):
    """The bytes of a flag's size: '1G' -> 1073741824. Raises InputError for another text.

    Args:
        flag: its name.
        text: a number, with K, M or G, each 1024 of the one before.
        example: of such texts, for the message.
    """
    match = SIZE.fullmatch(text.upper())
    if not match or not int(match[1]):
        raise InputError(f'-{flag}: got {text}, expected a number of bytes as {example}')
    return int(match[1]) * UNITS[match[2]]


def check_output(flag, path, suffixes=('',)):
    """Raises InputError if no file can be written at `path`: before the work that it is for.

    A file that is there is not touched; the folder must exist.

    Args:
        flag: the name of the flag that gave the path.
        path: the file's.
        suffixes: tuple of the endings that its name may have.
    """
    if not path:
        raise InputError(f'-{flag}: got nothing, expected the name of a file')
    if not path.endswith(suffixes):
        raise InputError(f'-{flag}: got {path}, expected a name that ends with '
                         f'{" or ".join(suffixes)}')
    if os.path.lexists(path) and not os.path.isfile(path):
        raise InputError(f'-{flag}: got {path}, which is there and no file')
    probe = f'{path}.tmp{os.getpid()}'  # as replace_atomically will: a name too long is found, too
    try:
        with open(probe, 'wb'):
            pass
        os.remove(probe)
    except OSError as error:
        raise InputError(f'-{flag}: got {path}, expected a file that can be written, in a folder '
                         f'that exists: {error.strerror}') from None


def check_not_read(flag, path, inputs):
    """Raises InputError if the file to be written is one that is read, whatever its name."""
    if os.path.exists(path) and any(os.path.exists(file) and os.path.samefile(file, path)
                                    for file in inputs):
        raise InputError(f'-{flag}: got {path}, which is read too; expected another file')


def check_output_folder(flag, path):
    """Raises InputError unless `path` is a folder in which files can be made, or can become one."""
    if not path:
        raise InputError(f'-{flag}: got nothing, expected the name of a folder')
    nearest = os.path.abspath(path)
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f'-{flag}: got {path}, expected a folder that can be written or made; '
                         f'{nearest} cannot be written or is no folder')
