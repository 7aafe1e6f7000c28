"""The ImageFolder layout, `train/CLASS/*.jpg` and `val/CLASS/*.jpg`.

The classes are the sorted names of the folders in train/, as in torchvision's ImageFolder. For a
val/ without class folders, a file gives the labels. Class folders without train/ and val/ above
them are read, too.
"""
import os
from array import array

import numpy as np

from common.core.errors import InputError, complain_once, first_few
from common.data.image_names import EXPECTED, EXTENSIONS, PassedOver, is_hidden, is_image
from common.data.lists import ImageList
from common.data.tables import read_table

MAX_DEPTH = 8  # folders in a class folder; more is a link that leads back


class FolderImages(ImageList):
    """An ImageList that no file lists; what is said about an entry names its path."""

    def where(self, index):
        """The path of an entry."""
        return self.path(index)


def read_folder(data_path: str, is_train: bool = True, classes: list[str] | None = None):
    """One split of a data set in the ImageFolder layout.

    Every file with an image's extension counts, in folders below the class folder too, in the
    order of the class, then of the name. Hidden files and folders do not count; links do.

    Args:
        data_path: folder with train/ and val/.
        is_train: train/ or val/. Where there is no train/, the classes are those of val/.
        classes: their names, where train/ is in an archive.

    Returns:
        (FolderImages, list of class names); the paths are relative to data_path.

    Raises:
        InputError: a folder is missing or without a class folder, a class of val/ is not in
            train/, a class of train/ has no image, or a name is not UTF-8.
    """
    train, folder = os.path.join(data_path, 'train'), os.path.join(data_path, 'val')
    if is_train:
        folder = train
    classes = classes or class_folders(train if os.path.isdir(train) else folder)
    numbers = {name: number for number, name in enumerate(classes)}
    present = class_folders(folder)
    unknown = [name for name in present if name not in numbers]
    if unknown:
        raise InputError(f'{os.path.join(folder, unknown[0])}: a class that is not in {train}; '
                         f'{len(unknown)} of {len(present)} classes are not')
    split = os.path.basename(folder)
    passed_over = PassedOver()
    images = make_images(data_path, folder, (
        (name, numbers[class_name]) for class_name in present
        for name in image_names(data_path, f'{split}/{class_name}', passed_over)))
    passed_over.say()
    if is_train:
        counts = np.bincount(images.labels, minlength=len(classes))
        if not counts.all():
            raise InputError(f'{os.path.join(folder, classes[int(counts.argmin())])}: got a class '
                             f'without an image, {EXPECTED}')
    return images, classes


def read_class_folders(data_path: str):
    """All images of a data set whose class folders lie in its folder itself, without train/ and
    val/.

    A folder without an image is passed over, and said to be.

    Args:
        data_path: folder with a folder for each class.

    Returns:
        (FolderImages, list of class names); the paths are relative to data_path.

    Raises:
        InputError: there is no class folder or no image, or a name is not UTF-8.
    """
    passed_over, found = PassedOver(), {}
    for name in class_folders(data_path):
        found[name] = list(image_names(data_path, name, passed_over))
    passed_over.say()
    empty = [name for name, images in found.items() if not images]
    if empty:
        complain_once(f'{data_path}: passed over {len(empty)} folders without an image: '
                      f'{first_few(empty)}')
    classes = [name for name, images in found.items() if images]
    return make_images(data_path, data_path, (
        (image, number) for number, name in enumerate(classes) for image in found[name])), classes


def make_images(data_path, folder, pairs):
    """FolderImages of (name as bytes, label) pairs."""
    names, ends, labels = bytearray(), array('q'), array('q')
    for name, label in pairs:
        names += name
        ends.append(len(names))
        labels.append(label)
    if not ends:
        raise InputError(f'{folder}: got no image, {EXPECTED}')
    return FolderImages(folder, data_path, np.frombuffer(names, np.uint8),
                        np.array(ends, np.int64), np.array(labels, np.int64), None)


def class_folders(folder):
    """The sorted names of the folders in a folder that are not hidden; at least one."""
    names = [name for name, is_folder in entries(folder) if is_folder]
    if not names:
        raise InputError(f'{folder}: got no folder in it, expected one for each class; for images '
                         f'with a file of labels: paddle-vitae verify -write -val_labels FILE')
    return names


def has_folders(folder):
    """Whether a folder is there and has folders in it."""
    return os.path.isdir(folder) and any(is_folder for _, is_folder in entries(folder))


def entries(folder):
    """(name, whether it is a folder) of what is in a folder and not hidden, sorted by name."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, entry.is_dir()) for entry in found
                          if not is_hidden(entry.name))
    except OSError as error:
        raise InputError(f'{folder}: cannot read the folder: {error.strerror}') from None


def image_names(root, name, passed_over, depth=0):
    """Yields the names of a folder's images, as bytes and relative to the root.

    Args:
        root, name: the folder is root/name.
        passed_over: PassedOver, which counts the other files.
    """
    if depth > MAX_DEPTH:
        raise InputError(f'{os.path.join(root, name)}: got more than {MAX_DEPTH} folders in a '
                         f'class folder, expected images; is it a link that leads back?')
    folders = []
    for file, is_folder in entries(os.path.join(root, name)):
        if is_folder:
            folders.append(file)
        elif not is_image(file, EXTENSIONS):
            passed_over.add(f'{name}/{file}')
        else:
            # A link that leads nowhere counts: loading it names it.
            try:
                yield f'{name}/{file}'.encode()
            except UnicodeEncodeError:
                raise InputError(f'{os.path.join(root, name)}: got the file name '
                                 f'{os.fsencode(file)!r}, expected UTF-8') from None
    for folder in folders:
        yield from image_names(root, f'{name}/{folder}', passed_over, depth + 1)


def read_flat_val(data_path, labels_file, ids_file=None):
    """The images that lie in val/ itself, with the labels of a file.

    Args:
        data_path: folder with train/CLASS/ and val/.
        labels_file: lines 'name,label', where the name may lack its extension and what follows
            the label's first word is ignored; or one label a line, for the sorted names. A label
            is the name of a class folder, or its number from 0 in their sorted order.
        ids_file: lines 'CLASS NUMBER ...', e.g. map_clsloc.txt of ImageNet's development kit: what
            the numbers in the file mean instead.

    Returns:
        (FolderImages, list of class names).

    Raises:
        InputError: 'FILE:LINE: ...'; or there are images without a label.
    """
    folder = os.path.join(data_path, 'val')
    classes = class_folders(os.path.join(data_path, 'train'))
    passed_over = PassedOver()
    names = [name for name in image_names(data_path, 'val', passed_over) if name.count(b'/') == 1]
    passed_over.say()
    labels = flat_labels(labels_file, ids_file, names, classes)
    return make_images(data_path, folder, zip(names, labels, strict=True)), classes


def flat_labels(labels_file, ids_file, names, classes):
    """The number of each image's class, by a file of labels.

    Args:
        labels_file, ids_file: see read_flat_val.
        names: of the images, bytes.
        classes: list of the names of the classes.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    words = {**{str(number): number for number in range(len(classes))}, **numbers}
    if ids_file:
        pairs = (row[0].split()[:2] for _, row in read_table(ids_file))
        ids = {pair[1]: numbers[pair[0]] for pair in pairs if len(pair) > 1 and pair[0] in numbers}
        words = {**ids, **numbers}
    labels = []
    for line, word in label_words(labels_file, names):
        if word not in words:
            raise InputError(
                f'{labels_file}:{line}: label: got {word!r}, expected a class folder of train/ or '
                f'its number from 0 to {len(classes) - 1}; for the numbers of '
                f'ILSVRC2012_validation_ground_truth.txt give -ids map_clsloc.txt')
        labels.append(words[word])
    return labels


def label_words(file, names):
    """(line number, first word of the label) of each name, of either form of a file of labels."""
    rows = read_table(file)
    if all(len(row) == 1 for _, row in rows):
        if len(rows) != len(names):
            raise InputError(f'{file}: got {len(rows)} labels, expected one for each of the '
                             f'{len(names)} images in val/')
        return [(line, row[0].split()[0]) for line, row in rows]
    indices = {}  # of the names with and without their extension
    for index, name in enumerate(os.path.basename(name.decode()) for name in names):
        indices[os.path.splitext(name)[0]] = indices[name] = index
    found = {}
    for line, row in rows:
        index = indices.get(os.path.basename(row[0]))
        if index is None and line == rows[0][0]:
            continue  # the header
        if index is None or index in found or len(row) < 2 or not row[1]:
            raise InputError(f'{file}:{line}: got {",".join(row)[:120]!r}, expected the name of an '
                             f'image in val/ that is not labelled yet, and its label')
        found[index] = line, row[1].split()[0]
    unlabelled = [name.decode() for index, name in enumerate(names) if index not in found]
    if unlabelled:
        raise InputError(f'{file}: got no label for {len(unlabelled)} of {len(names)} images, '
                         f'first {unlabelled[0]}')
    return [found[index] for index in range(len(names))]


def folder_labels(images):
    """{name of a folder: the label of the images in it, or None if they have several}."""
    labels = {}
    for index, label in enumerate(images.labels.tolist()):
        folder = images.name(index).rpartition('/')[0].rpartition('/')[2]
        if labels.setdefault(folder, label) != label:
            labels[folder] = None
    return labels
