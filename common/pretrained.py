"""Lists the published weights of the models, and checks those that were fetched.

paddle-vitae weights [PATTERN]             what there is, and what is in the cache
paddle-vitae weights -check MODEL[/TAG]    a file of the cache: hash, size, does it load

Nothing is downloaded: -pretrained=hub of the other commands does that.
"""
import fnmatch

from common.core.caches import cache_folder
from common.core.errors import InputError, errors_of_a_tool, printable, say
from common.core.flags import add_flag, tool_parser
from common.hub.listing import check_cached, table
from common.hub.registry import find_entry
from common.zoo import ALIASES, create_model, published_weights


def check(name):
    """Checks the cached file of MODEL or MODEL/TAG, and says what was seen.

    Raises:
        InputError: it is not there, not what is published, or does not fit the model.
    """
    model, _, tag = name.partition('/')
    entry = find_entry(published_weights(), ALIASES.get(model, model), tag or None)
    path, lines = check_cached(entry)
    for line in lines:
        say(line)
    options = [f'MODEL.{key}={value}' for key, value in (entry.config or {}).items()]
    notes = create_model(entry.model, path, options=options).notes
    with_options = f' with {" ".join(f"-o {option}" for option in options)}' if options else ''
    say(f'loads into {entry.model}{with_options}')
    for note in notes:
        say(f'  {printable(note)}')


def main(argv=None):
    parser = tool_parser('weights', __doc__.splitlines()[0], "'vit_base*'")
    parser.add_argument('pattern', nargs='?', default='*',
                        help="models, e.g. 'vit_base*'; default all")
    add_flag(parser, 'check', 'checks the file of these weights in the cache',
             metavar='MODEL[/TAG]')
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        if args.check:
            check(args.check)
            return
        models = {model: entries for model, entries in published_weights().items()
                  if fnmatch.fnmatch(model, args.pattern)}
        if not models:
            raise InputError(f'no published weights are known of a model {args.pattern!r}; there '
                             f'are some of {", ".join(published_weights())}')
        print(table(models))
        say(f'\nThe first tag of a model is its default. The cache: {cache_folder()}')


if __name__ == '__main__':
    main()
