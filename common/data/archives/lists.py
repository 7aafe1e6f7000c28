"""Lists and csv tables whose images lie in archives."""
import os

from common.core.label_sets import LabelSets
from common.data.archives.draft import Draft
from common.data.archives.index import find_index
from common.data.archives.making import Scan, indexed, parts_of, split_folder, split_kinds
from common.data.archives.members import without_ending
from common.data.archives.places import Resolver, near_archives, without_tar, wrapping
from common.data.archives.source import ArchiveImages
from common.data.csv_source import read_csv
from common.data.lists import read_list


def read_image_list(file: str, multi_label: bool = False):
    """Reads a list file whose images may lie in archives.

    A path may lead through an archive, 'a.tar/b/c.jpg'; and where it has a folder that is not
    there, through the archive of that name, see places.py.

    Args:
        file, multi_label: of `read_list`.

    Returns:
        ImageList, or ArchiveImages if an entry lies in an archive; both have the list's names.

    Raises:
        InputError: of `read_list`; or an archive is damaged, see members.py.
    """
    root, kind = os.path.dirname(file), 'multi' if multi_label else 'list'
    index = find_index(file, kind, root)
    if index:
        return ArchiveImages(index, root)
    images = read_list(file, multi_label=multi_label)
    places = places_of(images)
    if not places:
        return images
    return indexed(file, kind, root, lambda: {kind: (*draft_of_list(images, places), False)})


def places_of(images):
    """{folder: Place or None} of an ImageList of which some images lie in archives, else {}."""
    texts = images.names.tobytes().lower()
    if b'.tar/' not in texts and b'.zip/' not in texts and not near_archives(images.root):
        return {}
    resolver = Resolver(images.root)
    folders = {split_folder(images.name(index))[0] for index in range(len(images))}
    places = {folder: resolver.place(folder.rstrip('/')) for folder in folders}
    return places if any(places.values()) else {}


def draft_of_list(images, places):
    """(Draft, sources) of an ImageList, in its order.

    A member that is not there is an entry without bytes: it is an error when it is read, as a
    missing file is.
    """
    paths = sorted({place.path for place in places.values() if place})
    scan = Scan(images.root, paths, [os.path.basename(images.file)])
    draft, found, around = Draft(), {}, []
    for number, path in enumerate(paths):
        draft.add_file(path)
        tops = set()
        for _, member in scan.members(path):
            parts = tuple(map(without_tar, member.name.split('/')[:-1]))
            tops.add((*parts, None, None)[:2])
            found[number, '/'.join((*parts, member.name.rpartition('/')[2]))] = \
                member.offset, member.size
        # folders that all of an archive may lie in: 'train/' in train.tar
        stem = without_ending(os.path.basename(path))
        around.append([(), wrapping(tops), (stem,)])
    numbers = {path: number for number, path in enumerate(paths)}
    is_single = not isinstance(images.labels, LabelSets)
    for index in range(len(images)):
        folder, tail = split_folder(images.name(index))
        place, number, bytes_at = places[folder], -1, (0, 0)
        if place:
            number = numbers[place.path]
            keys = ('/'.join((*outer, *place.inner, tail)) for outer in around[number])
            bytes_at = next((found[number, key] for key in keys if (number, key) in found), (-1, 0))
        draft.add(number, folder, tail, *bytes_at,
                  label=int(images.labels[index]) if is_single else 0,
                  line=int(images.lines[index]))
    if not is_single:
        draft.columns['label'], draft.label_ends = images.labels.values, images.labels.ends
    return draft, scan.done()


def read_image_table(file, data, is_train):
    """The images of a csv table of which some lie in archives, and the names of the classes.

    Returns:
        (ArchiveImages, list of names), or (None, what `read_csv` gives).
    """
    root, kinds = os.path.dirname(os.path.abspath(file)), split_kinds(data)
    kind = kinds[0 if is_train else 1]
    index = find_index(file, kind, root)
    if index is None:
        table = images, classes, for_training = read_csv(file, data.MULTI_LABEL)
        places = places_of(images)
        if not places:
            return None, table

        def make():
            draft, sources = draft_of_list(images, places)
            draft.classes = classes
            return parts_of(draft, sources, kinds, data, for_training, images)

        found = indexed(file, kind, root, make)
    else:
        found = ArchiveImages(index, root)
    return found, found.classes
