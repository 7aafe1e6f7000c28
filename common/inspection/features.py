"""Features of images, and the .npz file that takes them part by part."""
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

from common.apis import Preprocessing, pixel_batches
from common.core.errors import InputError, printable, say
from common.core.files import replace_atomically
from common.core.parts import in_parts
from common.data.batches import Normalize

COPY_BYTES = 1 << 20  # of a part at a time, into the file


def write_features(model, files, output, types, stage, batch_size, workers):
    """Writes features of images, with a progress bar and a line for each type.

    Args:
        output: path of the .npz file.
        model, files, types, stage, batch_size, workers: as for `extract`.

    Returns:
        How many images could not be read. If none could, there is no file.
    """
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


def extract(model, files, types, stage=-1, batch_size=32, workers=0):
    """Yields for each batch of images what could be read of it.

    Args:
        model: of init_model; it is put into evaluation mode.
        files: paths of images.
        types: the types of features, see `model.extract_feat`.
        stage: index into what `model.extract_feat` returns.
        batch_size: images in a forward pass.
        workers: processes that read the files.

    Yields:
        The files that could be read, B of them; {type: float32 [B, ...]}; and a line for each
        other file.

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
            image = normalize(paddle.to_tensor(pixels[good]))              # [B, 3, H, W]
            arrays = {kind: one_stage(in_parts(
                model, partial(model.extract_feat, out_type=kind), image), stage)
                for kind in types}
        yield names, arrays, [error for error in errors if error]


def one_stage(features, stage):
    """One of a model's features, a list of tensors [B, ...], as a float32 array."""
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
        for numbers, _, _ in self.parts.values():
            numbers.close()

    def add(self, arrays):
        """Adds {name: array [B, ...]} at the end; each time the same names, types and shapes."""
        for name, array in arrays.items():
            if name not in self.parts:
                # not into the archive: an array's header there comes first, and says its length
                numbers = tempfile.TemporaryFile(  # noqa: SIM115 - __exit__ closes it
                    dir=os.path.dirname(os.path.abspath(self.file)))
                self.parts[name] = numbers, array.dtype, array.shape[1:]
            self.parts[name][0].write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def finish(self, **arrays):
        """Writes the file, with further whole arrays."""
        with replace_atomically(self.file) as temporary, \
                zipfile.ZipFile(temporary, 'w') as archive:
            for name, array in arrays.items():
                with archive.open(f'{name}.npy', 'w') as target:
                    np.lib.format.write_array(target, array, allow_pickle=False)
            for name, (numbers, dtype, shape) in self.parts.items():
                with archive.open(f'{name}.npy', 'w', force_zip64=True) as target:
                    np.lib.format.write_array_header_2_0(target, {
                        'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False,
                        'shape': (self.rows, *shape)})
                    numbers.seek(0)
                    shutil.copyfileobj(numbers, target, COPY_BYTES)
