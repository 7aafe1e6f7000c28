"""Converts weight files of every known format to .pdparams or .safetensors.

python -m common.convert -cfg vit_base_patch16_224 -src ViT-B_16-224.npz -dst vit.pdparams [-check]
python -m common.convert -src RUN -dst best.safetensors

A run's own file brings its model and its number of classes; -o MODEL.NUM_CLASSES=10 says it for
other files, whose model needs no name if no other one has their names and shapes.
The model decides what fits: the file must hold all of its weights, under the names of any code
that it understands. `-check` loads the result into a new model, runs both, and prints a hash.
"""
import hashlib
import os
from collections.abc import Sequence

import numpy as np
import paddle
from safetensors.numpy import save_file

from common.core.errors import InputError, errors_of_a_tool, printable, say
from common.core.files import replace_atomically
from common.core.flags import check_output, tool_parser
from common.hub.references import is_reference
from common.train.checkpoint import write_atomically
from common.weights.load import load_pretrained, read_weights, weights_of_run
from common.zoo import build_model, create_model, list_models, model_config

SUFFIXES = ('.pdparams', '.safetensors')


def convert(name_or_file: str | None, source: str | os.PathLike, target: str, check: bool = False,
            options: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """Writes the weights of a file, for a model and under its names, to another file.

    The result holds weights only; what a checkpoint says about its classes and images stays
    behind.

    Args:
        name_or_file: name of a model, or the path of a yaml; None takes the model that the source
            is of, and the first of the sentences names it.
        source: weight file of any known format, a run's folder, or what fetch_weights takes.
        target: .pdparams or .safetensors file to write.
        check: whether to load the result again and compare the logits of a random image, which
            must be equal in each bit.
        options: 'KEY=VALUE' strings for the config; they win over what a checkpoint says.

    Returns:
        (sentences about what was replaced, the hash of the logits or None without `check`).

    Raises:
        InputError: the source does not fit, or is a checkpoint and the target too; or the result
            differs.

    Source: this project; PaddleViT has a load_pytorch_weights.py for each family instead.

    Examples:
        >>> import paddle
        >>> from common.convert import convert
        >>> from common.zoo import create_model
        >>> paddle.save(create_model('vit_digits').state_dict(), 'digits.pdparams')
        >>> notes, digest = convert('vit_digits', 'digits.pdparams', 'digits.safetensors', True)
        >>> notes, len(digest)
        ([], 16)
    """
    check_output('dst', target, SUFFIXES)
    model = create_model(name_or_file, source, options=options)
    origin = weights_of_run(source) if os.path.isdir(source) else source
    in_place = not is_reference(source) and os.path.exists(target) \
        and os.path.samefile(origin, target)
    if in_place and read_weights(origin).metadata:
        raise InputError(f'-dst: got {target}, the source itself, which holds more than weights; '
                         f'expected another file')
    notes = [*model.notes, *what_is_left_behind(model, name_or_file)]
    save(model, target)
    if not check:
        return notes, None
    copy = build_model(model.config)
    load_pretrained(copy, target)
    expected, got = logits(model), logits(copy)
    if not np.array_equal(expected, got):
        raise InputError(f'{target}: the logits differ from the source by '
                         f'{np.abs(expected - got).max():.3g}, expected none')
    return notes, hashlib.sha256(expected.tobytes()).hexdigest()[:16]


def what_is_left_behind(model, name_or_file):
    """Sentences about what a file with a model's weights alone does not say.

    Args:
        model: what is converted.
        name_or_file: what the user has called it, or None.
    """
    name, classes = name_or_file or model.config.MODEL.NAME, model.config.MODEL.NUM_CLASSES
    if name_or_file is None and name not in list_models():
        return [f"the result holds weights only; load it with a yaml of {name} as -cfg, such as "
                f"the run's config.yaml"]
    if classes == model_config(name).MODEL.NUM_CLASSES:
        return []
    return [f'the result holds weights only; load it with -o MODEL.NUM_CLASSES={classes}']


def save(model, target):
    """Writes a model's flat state dict; a .safetensors file is marked as having Paddle's layout."""
    if target.endswith('.pdparams'):
        write_atomically(model.state_dict(), target)
        return
    arrays = {name: np.ascontiguousarray(value.numpy())
              for name, value in model.state_dict().items()}
    with replace_atomically(target) as temporary:
        save_file(arrays, temporary, metadata={'format': 'paddle'})


def logits(model):
    """The logits of one fixed random image, [1, K]."""
    height, width = np.broadcast_to(model.config.DATA.IMAGE_SIZE, 2)
    image = np.random.RandomState(0).standard_normal((1, 3, height, width)).astype(np.float32)
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(image)).numpy()


def main(argv=None):
    """The command line; a family's load_pytorch_weights.py calls it too."""
    parser = tool_parser('convert', __doc__.splitlines()[0],
                         '-cfg vit_digits -src runs/* -dst digits.safetensors -check')
    parser.add_argument('-cfg', metavar='NAME', help='name of a model, or a yaml file; default: '
                        'what the weights are of')
    parser.add_argument('-src', required=True, metavar='FILE',
                        help="weights of any known format, a run's folder, or hub, hub:TAG, "
                             'https://..., hf:OWNER/NAME')
    parser.add_argument('-dst', required=True, metavar='FILE', help='.pdparams or .safetensors')
    parser.add_argument('-check', action='store_true', help='load the result and compare logits')
    parser.add_argument('-o', action='append', metavar='KEY=VALUE',
                        help='a key of the config; several are possible')
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        notes, digest = convert(args.cfg, args.src, args.dst, args.check, args.o or ())
        for note in notes:
            say(printable(note))
        say(f'{printable(args.src)} -> {printable(args.dst)}')
        if digest:
            say(f'check: the logits are equal, hash {digest}')


if __name__ == '__main__':
    main()
