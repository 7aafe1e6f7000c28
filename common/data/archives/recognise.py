"""Which layout the archives of a data set have, by their names and the first members."""
import os

from common.core.errors import InputError
from common.data.archives.folders import place_of_data
from common.data.archives.members import is_archive
from common.data.archives.places import is_image_member, split_place, without_tar
from common.data.archives.webdataset import first_names, is_shard, shards_of
from common.data.csv_source import find_csv
from common.data.folders import has_folders
from common.data.lists import SPLITS


def find_archived_split(data_path: str, is_train: bool) -> str | None:
    """'webdataset' or 'imagefolder' for a data set whose train/ or val/ are archives, else None.

    Args:
        data_path: folder of the data set, or an archive.
        is_train: whether training images are needed; to evaluate, val/ is enough.
    """
    if os.path.isfile(data_path):
        if not is_archive(data_path):
            return None
        names = first_names(data_path)
        if is_shard(names):
            return 'webdataset'
        return 'imagefolder' if has_splits(names) else None
    if not os.path.isdir(data_path):
        return None
    root, shards = shards_of(data_path)
    first = next(iter(shards.values()))[0] if shards else ''
    beside = shards and '/' not in first  # not in train/ or val/
    if beside and (has_folders(data_path) or is_another_s(data_path, first)):
        return split_of_names(data_path, is_train)
    has_wanted = is_train or len(shards) == 1 or SPLITS[1] in shards
    if shards and has_wanted and is_shard(first_names(os.path.join(root, first))):
        return 'webdataset'
    found = split_of_names(data_path, is_train)
    if found or any(split_place(data_path, split) for split in SPLITS):
        return found
    if any(os.path.isdir(os.path.join(data_path, split)) for split in SPLITS):
        return None
    inside = place_of_data(data_path)[1]
    if inside and is_archive(inside.path):
        names = first_names(os.path.join(data_path, inside.path))
        return 'imagefolder' if has_splits(names) else None
    return None


def is_another_s(data_path, name):
    """Whether an archive beside a table cannot be read: then it is not what the data lie in."""
    if not find_csv(data_path):
        return False
    try:
        first_names(os.path.join(data_path, name))
    except InputError:
        return True
    return False


def split_of_names(data_path, is_train):
    """'imagefolder' for a folder where train/ or val/ are archives, by their names; else None."""
    splits = [split for split in SPLITS if split_place(data_path, split)]
    if any(os.path.isdir(os.path.join(data_path, split)) for split in SPLITS):
        return 'imagefolder' if splits else None
    wanted = SPLITS[0] in splits or splits and not is_train
    return 'imagefolder' if wanted else None


def has_splits(names):
    """Whether the images among an archive's members lie in train/ or val/, perhaps in one folder
    more."""
    folders = [[without_tar(part) for part in name.split('/')[:-1]] for name in names
               if is_image_member(name)]
    return any(part in SPLITS for parts in folders for part in parts[:2])


def has_archived_classes(data_path: str) -> bool:
    """Whether class folders without a split lie in archives."""
    return place_of_data(data_path)[1] is not None
