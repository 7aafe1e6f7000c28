"""The flags by which every tool takes a model, and the model that they name.

    -pretrained RUN|FILE          its best weights, or any weight file; what the file says about its
                                  model, classes and images holds
    -cfg NAME                     the model, where the file does not tell it, or for another one
    -class_names FILE, -device, -o KEY=VALUE
"""
import json
import os
from functools import partial

from common.apis import init_model
from common.core.errors import InputError, complain
from common.core.flags import add_flag
from common.hub.references import is_reference
from common.weights.load import weights_of_run


def add_model_flags(parser, needed=True, names=True):
    """Adds the flags by which the tools take a model, for `model_of`.

    Args:
        parser: argparse.ArgumentParser.
        needed: whether -pretrained must be given.
        names: whether the tool shows names of classes, which -class_names then gives.
    """
    add = partial(add_flag, parser)
    add('cfg', 'name of a model, or a yaml file; default: what the weights are of', metavar='NAME')
    add('pretrained', "weight file of any format, a run's folder, or hub, hub:TAG, https://..., "
        'hf:OWNER/NAME', required=needed, metavar='FILE')
    if names:
        add('class_names', 'file with the name of each class, one a line', metavar='FILE')
    add('device', 'cpu, gpu or gpu:N; default a GPU if there is one')
    add('o', 'a key of the config; several are possible', action='append', metavar='KEY=VALUE')


def check_pretrained(args):
    """Raises InputError for no -pretrained, in a tool that takes -exported in its place."""
    if not args.pretrained:
        raise InputError("-pretrained: got none, expected weights, a run's folder, or -exported")


def model_of(args):
    """The model that the flags of `add_model_flags` name, in evaluation mode.

    Where the weights say which model it is, a line on standard error tells its name.
    """
    options = args.o or []
    class_names = getattr(args, 'class_names', None)
    if class_names:
        options = [f'DATA.CLASS_NAMES={json.dumps(class_names)}', *options]
    model = init_model(args.cfg, args.pretrained, args.device, options)
    if args.cfg is None:
        told = next(note for note in model.notes if note.startswith('model '))
        complain(f'{args.pretrained}: {told}')
    return model


def weights_of_flags(args):
    """The files that `model_of` reads the weights from, which no tool may write."""
    file = args.pretrained
    if not file or is_reference(file):
        return []
    return [weights_of_run(file) if os.path.isdir(file) else file]
