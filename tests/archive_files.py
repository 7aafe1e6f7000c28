"""Small data sets as files, and the same in archives."""
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.config import base_config
from common.data.layouts import find_layout, read_layout

CLASSES = ('n02', 'n01', 'n10')


def write_folders(folder, train=5, val=2):
    """train/ and val/ with three classes of random JPEG files, one more in a folder of a class."""
    random = np.random.default_rng(0)
    for split, count in (('train', train), ('val', val)):
        for name in CLASSES:
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(place / f'{index}.JPEG')
        (folder / split / 'n01' / 'more').mkdir()
        Image.new('RGB', (9, 9), (len(split), 0, 0)).save(folder / split / 'n01' / 'more' / 'a.png')
    return folder


def write_lists(folder):
    """train_list.txt and val_list.txt of write_folders, in an order that is no folder's."""
    for split in ('train', 'val'):
        files = sorted((folder / split).rglob('*.*'), key=lambda file: file.name)
        (folder / f'{split}_list.txt').write_text(''.join(
            f'{file.relative_to(folder)} {sorted(CLASSES).index(file.relative_to(folder).parts[1])}'
            '\n' for file in files))
    return folder


def as_tar(file, folder, inside='.'):
    """A .tar of a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, 'w') as archive:
        archive.add(folder, inside)
    return file


def as_zip(file, folder, inside='.', compression=zipfile.ZIP_STORED):
    """A .zip of a folder."""
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for path in sorted(Path(folder).rglob('*'), reverse=True):
            archive.write(path, Path(inside) / path.relative_to(folder))
    return file


def tar_of_tars(file, folder):
    """A .tar with a .tar for each folder in a folder, as ILSVRC2012_img_train.tar is."""
    with tarfile.open(file, 'w') as archive:
        for inner in sorted(folder.iterdir(), reverse=True):
            archive.add(as_tar(file.with_suffix('.part'), inner), f'{inner.name}.tar')
    file.with_suffix('.part').unlink()
    return file


def tar_of(file, members):
    """A .tar of (name, bytes) or TarInfo."""
    with tarfile.open(file, 'w') as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file


def read(path, dataset=None, is_train=True, **data):
    """(ImageSource, names of classes) of a data set, recognised unless it is said."""
    node = base_config().DATA
    node.DATA_PATH = str(path)
    for key, value in data.items():
        node[key] = value
    node.DATASET = dataset or find_layout(str(path), is_train)
    return read_layout(node, is_train)


def everything(source):
    """[(label, pixels as bytes)] of all images of a source."""
    return [(label, source.load(index).tobytes())
            for index, label in enumerate(source.labels.tolist())]
