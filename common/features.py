"""Writes a model's features of images into one .npz file.

python -m common.features -cfg vit_base_patch16_224 -pretrained vit.pdparams IMAGE|FOLDER ...
    [-output features.npz] [-type cls_token] [-stage -1] [-batch_size 32] [-workers 0]

    features = numpy.load('features.npz')
    features['names'], features['cls_token']        # N strings, float32 [N, 768]
"""
import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import zipfile
from functools import partial

import numpy as np
import paddle
from tqdm import tqdm

from common.apis import Preprocessing, add_model_flags, images_of_tool, model_of, pixel_batches
from common.core.errors import InputError, errors_of_a_tool, printable, say
from common.core.files import replace_atomically
from common.core.flags import add_flag, check_least, check_not_read, check_output
from common.core.processes import set_up_cpu
from common.data.batches import Normalize
from common.layers.classifier import FEATURE_TYPES


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')
    add_model_flags(parser)

    add = partial(add_flag, parser)
    add('output', 'default features.npz', default='features.npz', metavar='FILE')
    add('type', f'{", ".join(FEATURE_TYPES)}; several are possible; default what the classifier '
                f'gets: cls_token, or avg_featmap', action='append', choices=FEATURE_TYPES)
    add('stage', 'of a model of several stages, from 0, negative from the end; default -1',
        type=int, default=-1, metavar='N')
    add('batch_size', 'images at a time, default 32', type=int, default=32, metavar='N')
    add('workers', 'processes that read images, default 0', type=int, default=0, metavar='N')
    return parser


def extract(model, files, types, stage=-1, batch_size=32, workers=0):
    """Yields for each batch of images what could be read of it.

    Args:
        model: of init_model; it is put into evaluation mode.
        files: paths of images.
        types: of `model.extract_feat`.
        stage: index into what it returns.

    Yields:
        files; {type: float32 [B, ...]}, B of them; and a line for each other file.

    Raises:
        InputError: a type or stage that the model has not.
    """
    model.eval()
    preprocessing = Preprocessing.of(model.config)
    normalize = Normalize(preprocessing.mean, preprocessing.std)
    start = 0
    for pixels, errors in pixel_batches(preprocessing, files, batch_size, workers):
        good = [not error for error in errors]
        names = [file for file, fine in zip(files[start:], good, strict=False) if fine]
        start += len(errors)
        arrays = {}
        if names:
            image = normalize(paddle.to_tensor(pixels[good]))
            with paddle.no_grad():
                arrays = {kind: one_stage(model.extract_feat(image, kind), stage)
                          for kind in types}
        yield names, arrays, [error for error in errors if error]


def one_stage(features, stage):
    if not -len(features) <= stage < len(features):
        raise InputError(f'-stage: got {stage}, expected {-len(features)} to {len(features) - 1}')
    return features[stage].astype('float32').numpy()


class NpzWriter:
    """Writes arrays of any length into a .npz file, part by part; memory holds one part.

        with NpzWriter(file) as writer:
            writer.add({'featmap': array})    # [B, ...], as often as wanted
            writer.finish(names=names)        # now the file is there, as a whole
    """

    def __init__(self, file):
        self.file = file
        self.parts = {}   # name: (temporary file with the numbers, their type, shape of a row)
        self.rows = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for stream, _, _ in self.parts.values():
            stream.close()

    def add(self, arrays):
        """Adds {name: array [B, ...]} at the end; each time the same names, types and shapes."""
        for name, array in arrays.items():
            if name not in self.parts:
                # not into the archive: an array's header there comes first, and says its length
                stream = tempfile.TemporaryFile(  # noqa: SIM115 - __exit__ closes it
                    dir=os.path.dirname(os.path.abspath(self.file)))
                self.parts[name] = stream, array.dtype, array.shape[1:]
            self.parts[name][0].write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def finish(self, **arrays):
        """Writes the file, with further whole arrays."""
        with replace_atomically(self.file) as temporary, \
                zipfile.ZipFile(temporary, 'w') as archive:
            for name, array in arrays.items():
                with archive.open(f'{name}.npy', 'w') as target:
                    np.lib.format.write_array(target, array, allow_pickle=False)
            for name, (stream, dtype, shape) in self.parts.items():
                with archive.open(f'{name}.npy', 'w', force_zip64=True) as target:
                    np.lib.format.write_array_header_2_0(target, {
                        'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False,
                        'shape': (self.rows, *shape)})
                    stream.seek(0)
                    shutil.copyfileobj(stream, target, 1 << 20)


def write_features(model, files, output, types, stage, batch_size, workers):
    """Writes the features of images with a progress bar; returns how many could not be read."""
    names, failed = [], 0
    with NpzWriter(output) as writer, \
            tqdm(total=len(files), unit='img', disable=None, leave=False) as bar:
        for good, arrays, errors in extract(model, files, types, stage, batch_size, workers):
            with contextlib.suppress(OSError):  # nobody reads the line
                for error in errors:
                    tqdm.write(f'error: {error}', file=sys.stderr)
            if good:
                writer.add(arrays)
            names += map(printable, good)
            failed += len(errors)
            bar.update(len(good) + len(errors))
        if names:
            writer.finish(names=np.array(names))
    for name, (_, dtype, shape) in writer.parts.items():
        say(f'{printable(output)}: {name}, {dtype} {[len(names), *shape]}')
    return failed


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, batch_size=1, workers=0)
        check_output('output', args.output, ('.npz',))
        set_up_cpu()
        files = images_of_tool(args.images)
        check_not_read('output', args.output, [args.pretrained])
        model = model_of(args)
        types = list(dict.fromkeys(
            args.type or ['cls_token' if model.reads_class_token else 'avg_featmap']))
        failed = write_features(model, files, args.output, types, args.stage, args.batch_size,
                                args.workers)
    if failed:
        sys.exit(f'error: {failed} of {len(files)} images could not be read')


if __name__ == '__main__':
    main()
