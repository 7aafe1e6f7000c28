"""Files that keep features, each under a name that tells all that the features depend on.

The name is a digest of the weights, the network, the preprocessing, the code that computes, and the
images: names, labels and, of each file, the size and the times of its last changes. When any of it
is another one, so is the name, and features are computed anew; nothing has to be deleted by hand.
"""
import glob
import hashlib
import json
import os
import sys
import zipfile

import numpy as np
import paddle
import PIL

from common.apis import Preprocessing
from common.config import plain_config
from common.core.errors import complain
from common.core.files import replace_atomically
from common.data.lists import ImageList

# What computes features: a change of it may change them.
CODE = ('layers/**/*.py', 'data/*.py', 'probing/features.py')
DIGITS = 24  # of the key, in a file's name; the file has all of them
BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def cached(folder, key, compute):
    """The features of a file in the cache, or new ones, which are kept there.

    Args:
        folder: of the cache; it is made if it is not there.
        key: of `key_of`.
        compute: function that gives the features, float32 [N, C].

    Returns:
        (features, path of the file or None if it could not be written, whether they are the
        file's).
    """
    file = os.path.join(folder, f'{key[:DIGITS]}.npz')
    features = read(file, key) if os.path.exists(file) else None
    if features is not None:
        return features, file, True
    features = compute()
    try:
        os.makedirs(folder, exist_ok=True)
        with replace_atomically(file) as temporary, open(temporary, 'wb') as stream:
            np.savez(stream, features=features, key=np.array(key))
    except OSError as error:  # a full disk: the features are here all the same
        complain(f'{file}: the features cannot be kept: {error.strerror or error}')
        return features, None, False
    return features, file, False


def read(file, key):
    """The features in a file of the cache; None, and a line, for a file that is damaged."""
    try:
        with np.load(file, allow_pickle=False) as content:
            features = content['features']  # the archive's checksum is compared
            if content['key'].item() != key or features.dtype != np.float32 or features.ndim != 2:
                raise ValueError('got features of something else')
        return features
    except BROKEN as error:
        complain(f'{file}: is damaged, and made anew: {error}')
        return None


def key_of(model, dataset, kind):
    """The name of a data set's features: a digest of all that they depend on, hexadecimal.

    Args:
        model: with its attribute `config`.
        dataset: ImageDataset.
        kind: of the features.
    """
    preprocessing = Preprocessing.of(model.config)._asdict()
    preprocessing['exif_orientation'] = dataset.images.upright
    parts = {
        'model': plain_config(model.config.MODEL), 'kind': kind, 'preprocessing': preprocessing,
        'weights': digest_of_weights(model), 'images': digest_of_images(dataset.images),
        'code': digest_of_code(model), 'paddle': paddle.__version__, 'pillow': PIL.__version__,
        'device': paddle.device.get_device().partition(':')[0]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest_of_weights(model):
    """The sha256 of a model's weights, wherever they come from."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        array = np.ascontiguousarray(value.astype('float32').numpy())
        digest.update(f'{name} {value.dtype} {array.shape}\n'.encode())
        digest.update(array.data.cast('B') if array.size else b'')
    return digest.hexdigest()


def digest_of_images(images):
    """The sha256 of a source's names and labels, and of what its files, or its pixels, are.

    A file counts with its size, its number on the disk and the times when its content and its
    entry changed last: no program can set the latter back.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images.labels, np.int64).tobytes())
    for index in range(len(images)):
        digest.update(images.name(index).encode('utf-8', 'surrogateescape') + b'\n')
        if isinstance(images, ImageList):
            digest.update(state_of_file(images.path(index)))
        else:  # few and small, in memory
            pixels = np.asarray(images.load(index))
            digest.update(str(pixels.shape).encode() + pixels.tobytes())
    return digest.hexdigest()


def state_of_file(path):
    """What tells whether a file is the one that it was; b'missing' if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return b'missing\n'  # who reads the image says so
    return f'{found.st_size} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}\n'.encode()


def digest_of_code(model):
    """The sha256 of the sources that compute features."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # common/
    files = {file for pattern in CODE
             for file in glob.glob(os.path.join(root, pattern), recursive=True)}
    for one in type(model).__mro__:
        file = getattr(sys.modules.get(one.__module__), '__file__', None)
        if file and os.path.dirname(root) in os.path.abspath(file):
            files.add(os.path.abspath(file))
    digest = hashlib.sha256()
    for file in sorted(files):
        with open(file, 'rb') as stream:
            digest.update(hashlib.sha256(stream.read()).digest())
    return digest.hexdigest()
