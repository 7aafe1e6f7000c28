"""A table of images: a csv file with a path and the name of a class in each line."""
import glob
import os

import numpy as np

from common.core.errors import InputError
from common.core.label_sets import LabelSets
from common.data.lists import ImageList, check_name
from common.data.tables import read_table

# What the columns are called, in lower case; without such a line the first two are path and label.
FILE_COLUMNS = ('file', 'path', 'image', 'filename', 'file_name', 'filepath', 'image_path', 'img',
                '文件', '文件名', '路径', '图片', '图像', '图片路径', '图像路径')
LABEL_COLUMNS = ('label', 'class', 'category', 'class_name', 'target', 'species',
                 '标签', '类别', '类别名', '类别名称')
SPLIT_COLUMNS = ('split', 'set', 'subset', 'fold', '划分', '子集')
SPLIT_OF = {'train': True, 'training': True, 'val': False, 'valid': False, 'validation': False,
            'test': False, '训练': True, '训练集': True, '验证': False, '验证集': False,
            '测试': False, '测试集': False}
DELIMITERS = ',;\t'
BETWEEN = '|'         # stands between the classes of an image that may have several
NO_LABEL = ('', '-')  # what an image without a class has then


def find_csv(data_path: str) -> str | None:
    """The csv file that a data path is, or that is the only one in it; else None."""
    if os.path.isfile(data_path):
        return data_path if data_path.lower().endswith('.csv') else None
    files = [file for file in glob.glob(os.path.join(glob.escape(data_path), '*'))
             if file.lower().endswith('.csv')]
    return files[0] if len(files) == 1 else None


def read_csv(file: str, multi_label: bool = False):
    """Reads a table of images.

    A line has the path of an image, relative to the table's folder, and its class, and may have its
    split (train, val, ...). Columns are known by the names in the first line (FILE_COLUMNS,
    LABEL_COLUMNS, SPLIT_COLUMNS), in any order, others are passed over; without such a line they
    stand in this order. Commas, semicolons or tabs stand between them. The classes are the sorted
    names, as numbers if all of them are.

    Args:
        file: path of the table, UTF-8.
        multi_label: whether an image may have several classes, joined by '|' (Dog|my cat), or none:
            an empty field, or '-'.

    Returns:
        (ImageList, list of class names, bool [n] of what is for training or None without a split).

    Raises:
        InputError: 'FILE:LINE: ...' for a line that is not so, or the file cannot be read.
    """
    rows = read_table(file, DELIMITERS)
    columns = find_columns(file, *rows[0]) if rows else {}
    if columns.pop('header', False):
        rows = rows[1:]
    if not rows:
        raise InputError(f'{file}: got no image, expected "path,class" lines')
    root = os.path.dirname(os.path.abspath(file))
    entries = [check_row(file, root, line, row, columns, multi_label) for line, row in rows]
    found = {label for _, labels, _ in entries for label in labels}
    if not found:
        raise InputError(f'{file}: got no image with a class')
    check_joined(file, found, multi_label)
    classes = sorted(found, key=class_order(found))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[label] for _, labels, _ in entries for label in labels], np.int64)
    if multi_label:
        labels = LabelSets(labels, np.cumsum([len(labels) for _, labels, _ in entries],
                                             dtype=np.int64))
    names = [name.encode() for name, _, _ in entries]
    images = ImageList(file, root, np.frombuffer(b''.join(names), np.uint8),
                       np.cumsum([len(name) for name in names], dtype=np.int64), labels,
                       np.array([line for line, _ in rows], np.int32))
    has_split = columns['split'] is not None
    return images, classes, np.array([split for *_, split in entries]) if has_split else None


def check_joined(file, classes, multi_label):
    """Raises InputError for the name of a class that is several others, joined."""
    for name in sorted(classes):
        for mark in (BETWEEN, *DELIMITERS):
            parts = [part.strip() for part in name.split(mark)]
            if len(parts) > 1 and classes.issuperset(parts):
                mend = f'expected {BETWEEN!r} between the classes of an image' if multi_label \
                    else f'expected one class for each image; for several: {BETWEEN!r} between ' \
                         f'them, train and evaluate with -o DATA.MULTI_LABEL=true'
                raise InputError(f'{file}: label: got {name[:120]!r}, in which {parts[0]!r} and '
                                 f'others are classes, too; {mend}')


def class_order(names):
    """How the names of classes are sorted: as numbers, if all of them are whole ones."""
    are_numbers = all(name.isascii() and name.isdigit() for name in names)
    return (lambda name: (int(name), name)) if are_numbers else None


def find_columns(file, line, row):
    """Which column is what: {'header': whether the row has their names, 'file', 'label', 'split':
    its index; None for no split}."""
    words = [field.lower() for field in row]
    found = {kind: next((words.index(name) for name in names if name in words), None)
             for kind, names in (('file', FILE_COLUMNS), ('label', LABEL_COLUMNS),
                                 ('split', SPLIT_COLUMNS))}
    if found['file'] is not None and found['label'] is not None:
        return {'header': True, **found}
    if found['file'] is not None or len(row) < 2:
        raise InputError(f'{file}:{line}: got {",".join(row)[:120]!r}, expected the names of two '
                         f'columns, file and label, or a path and a class')
    has_split = len(row) > 2 and row[2].lower() in SPLIT_OF
    return {'header': False, 'file': 0, 'label': 1, 'split': 2 if has_split else None}


def check_row(file, root, line, row, columns, multi_label):
    """(path, list of classes, whether it is for training) of a line."""
    index, label, split = columns['file'], columns['label'], columns['split']
    if len(row) <= max(index, label, split or 0) or not row[index] \
            or not row[label] and not multi_label:
        raise InputError(f'{file}:{line}: got {",".join(row)[:120]!r}, expected a path, a class'
                         f'{"" if split is None else " and a split"}')
    if split is not None and row[split].lower() not in SPLIT_OF:
        raise InputError(f'{file}:{line}: split: got {row[split][:120]!r}, expected one of '
                         f'{", ".join(SPLIT_OF)}')
    check_name(row[index].encode(), root, file, line)
    labels = label_set(row[label], f'{file}:{line}') if multi_label else [row[label]]
    return row[index], labels, split is not None and SPLIT_OF[row[split].lower()]


def label_set(text, where):
    """The classes of a field that may have several."""
    labels = [] if text in NO_LABEL else [name.strip() for name in text.split(BETWEEN)]
    if not all(labels) or len(set(labels)) < len(labels):
        raise InputError(f'{where}: label: got {text[:120]!r}, expected names of classes, each '
                         f'once, joined by {BETWEEN!r}, or "-" for none')
    return labels
