"""What the command lines of the programs and tools share."""
from common.errors import InputError


def add_flag(parser, flag, help_text, **options):
    """A flag that may be written with one dash or two."""
    parser.add_argument(f'-{flag}', f'--{flag}', dest=flag, help=help_text, **options)


def check_least(args, **least):
    """Raises InputError for a flag, or one of a list, that is below the least value it may have."""
    for flag, smallest in least.items():
        values = getattr(args, flag, None)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < smallest:
                raise InputError(f'-{flag}: got {value}, expected at least {smallest}')
