"""Which of a data set's folders are archives.

Where a path has a folder that is not there, an archive of its name may stand in its place: train/
may be train.tar or train.zip, and train/n01440764/ may be train/n01440764.tar. ImageNet's own
archives have names of their own (ALIASES).
"""
import os
from typing import NamedTuple

from common.core.errors import InputError, complain_once
from common.data.archives.members import ARCHIVES, is_archive, without_ending
from common.data.folders import has_folders
from common.data.image_names import EXTENSIONS, is_hidden, is_image
from common.data.lists import SPLITS

ALIASES = {'train': ('ILSVRC2012_img_train.tar',), 'val': ('ILSVRC2012_img_val.tar',)}


class Place(NamedTuple):
    """Where the images of some folder are in archives.

    Either an archive, or a folder with archives in it, one for each class.
    """
    path: str         # relative to the root
    inner: tuple = ()  # folders in the archive that lead there, without the endings of archives


def archive_for(folder, name, at_root):
    """The name of the archive in a folder that stands for another folder in it, or None."""
    names = [name] if is_archive(name) else []
    names += [name + ending for ending in ARCHIVES]
    names += ALIASES.get(name, ()) if at_root else ()
    return next((name for name in names if os.path.isfile(os.path.join(folder, name))), None)


def archives_in(folder):
    """The sorted names of the archives in a folder that are not hidden."""
    if not os.path.isdir(folder):
        return []
    try:
        names = [name for name in os.listdir(folder) if is_archive(name) and not is_hidden(name)]
    except OSError as error:
        raise InputError(f'{folder}: cannot read the folder: {error.strerror}') from None
    return sorted(name for name in names if os.path.isfile(os.path.join(folder, name)))


def split_place(root, split):
    """The Place of train/ or val/ of a folder where it is archives, or None.

    A folder that is there wins over an archive beside it, and class folders over archives in it.
    """
    folder = os.path.join(root, split)
    if os.path.isdir(folder):
        return classes_place(root, split)
    name = archive_for(root, split, at_root=True)
    return Place(name) if name else None


def classes_place(root, path):
    """The Place of a folder whose classes are archives, or None."""
    folder = os.path.join(root, path)
    names = archives_in(folder)
    if not names:
        return None
    if has_folders(folder):
        complain_once(f'{folder}: passed over {len(names)} archives beside folders: '
                      f'{", ".join(names[:5])}')
        return None
    return Place(path)


def near_archives(root):
    """Whether there is an archive in a folder, or in train/ or val/ of it."""
    return any(archives_in(os.path.join(root, *split)) for split in ((), *zip(SPLITS)))


class Resolver:
    """Says of each folder of a list whether it lies in an archive."""

    def __init__(self, root):
        self.root = root
        self.known = {}

    def place(self, folder: str) -> Place | None:
        """The Place of a folder, '' or with '/' between names; None where it is none."""
        if folder not in self.known:
            self.known[folder] = self.look_for(folder.split('/') if folder else [])
        return self.known[folder]

    def look_for(self, parts):
        path = ''
        for number, part in enumerate(parts):
            if os.path.isdir(os.path.join(self.root, path, part)):
                path = os.path.join(path, part)
                continue
            name = archive_for(os.path.join(self.root, path), part, at_root=number == 0)
            inner = tuple(map(without_tar, parts[number + 1:]))
            return Place(os.path.join(path, name), inner) if name else None
        return None


def without_tar(name):
    """The name of a folder in an archive, which may be an archive in it."""
    return without_ending(name) if name.lower().endswith('.tar') else name


def is_image_member(name):
    """Whether a member of an archive counts as an image: by its ending, and not hidden."""
    return is_image(name, EXTENSIONS) and not any(map(is_hidden, name.split('/')))


def wrapping(tops):
    """The folder in which all of an archive lies, () if there is none.

    Args:
        tops: set of (first folder, second folder or None) of its images, without endings.
    """
    first = {top for top, _ in tops}
    seconds = {second for _, second in tops}
    return tuple(first) if len(first) == 1 and None not in seconds and seconds else ()
