"""Class folders: which files count, in which order, with which label; files of class names."""
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.core.class_names import check_count, class_names
from common.data.folders import (
    EXTENSIONS,
    folder_labels,
    make_images,
    read_flat_val,
    read_folder,
)
from common.data.images import load_image
from tests.conftest import entries, refusal

pytestmark = pytest.mark.smoke


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('')
    return str(folder)


# read_folder

def test_classes_and_images_are_sorted(tmp_path):
    """By code point, as Python and torchvision sort."""
    path = touch(tmp_path, 'train/b/2.jpg', 'train/b/10.jpg', 'train/b/1.jpg', 'train/a/z.jpg',
                 'train/B/x.jpg', 'train/\xe9/y.jpg', 'train/10/1.jpg', 'train/9/1.jpg')
    images, names = read_folder(path)
    assert names == ['10', '9', 'B', 'a', 'b', '\xe9']
    assert entries(images) == [
        ('train/10/1.jpg', 0), ('train/9/1.jpg', 1), ('train/B/x.jpg', 2), ('train/a/z.jpg', 3),
        ('train/b/1.jpg', 4), ('train/b/10.jpg', 4), ('train/b/2.jpg', 4), ('train/\xe9/y.jpg', 5)]
    assert images.labels.dtype == np.int64


def test_entry_leads_to_its_file(tmp_path):
    names = ['train/\u732b/\u5b50\u732b 1.jpg', 'train/dog house/no-break\xa0space.png']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new('RGB', (4, 3), 'red').save(tmp_path / name)
    images, classes = read_folder(str(tmp_path))
    assert classes == ['dog house', '\u732b']
    for index, name in enumerate(reversed(names)):
        assert images.path(index) == images.where(index) == str(tmp_path / name)
        assert load_image(images.path(index)).size == (4, 3)


def test_only_images_that_are_not_hidden_count(tmp_path):
    good = [f'train/a/{n}{end}' for n, end in enumerate(EXTENSIONS)]
    good += ['train/a/x.JPEG', 'train/a/y.Jpg', 'train/a/z.a.png']
    path = touch(tmp_path, *good, 'train/a/.hidden.jpg', 'train/.git/b.jpg', 'train/a/.no/c.jpg',
                 'train/a/boxes.txt', 'train/a/jpg', 'train/a/b.jpg.part', 'train/loose.jpg',
                 'train/a/Thumbs.db', '.DS_Store')
    images, classes = read_folder(path)
    assert classes == ['a']
    assert [name for name, _ in entries(images)] == sorted(good)


def test_folders_in_a_class_folder_belong_to_the_class(tmp_path):
    """As in Tiny ImageNet: train/CLASS/images/*.JPEG."""
    path = touch(tmp_path, 'train/b/images/1.JPEG', 'train/b/images/deep/2.JPEG', 'train/b/3.JPEG',
                 'train/a/images/4.JPEG', 'train/b/boxes.txt')
    assert entries(read_folder(path)[0]) == [
        ('train/a/images/4.JPEG', 0), ('train/b/3.JPEG', 1), ('train/b/images/1.JPEG', 1),
        ('train/b/images/deep/2.JPEG', 1)]


def test_links_are_followed(tmp_path):
    touch(tmp_path / 'elsewhere', 'cats/1.jpg', '2.jpg')
    path = touch(tmp_path / 'data', 'train/dog/3.jpg')
    (tmp_path / 'data/train/cat').symlink_to(tmp_path / 'elsewhere/cats')
    (tmp_path / 'data/train/dog/2.jpg').symlink_to(tmp_path / 'elsewhere/2.jpg')
    (tmp_path / 'data/val').symlink_to(tmp_path / 'data/train')
    assert entries(read_folder(path)[0]) == [
        ('train/cat/1.jpg', 0), ('train/dog/2.jpg', 1), ('train/dog/3.jpg', 1)]
    assert len(read_folder(path, is_train=False)[0]) == 3


def test_link_that_leads_nowhere_is_named_when_it_is_loaded(tmp_path):
    path = touch(tmp_path, 'train/a/1.jpg')
    (tmp_path / 'train/a/2.jpg').symlink_to(tmp_path / 'gone.jpg')
    images, _ = read_folder(path)
    assert len(images) == 2
    with pytest.raises(FileNotFoundError, match='2.jpg'):
        load_image(images.path(1))


@pytest.mark.parametrize('target', ['.', '..', 'loop'])
def test_link_that_leads_back_is_refused(tmp_path, target):
    path = touch(tmp_path, 'train/a/1.jpg')
    (tmp_path / 'train/a/loop').symlink_to(target)
    assert refusal(read_folder, path).startswith(f'{tmp_path}/train/a')


@pytest.mark.parametrize('has_empty_folder', [False, True])
def test_validation_has_the_labels_of_training(tmp_path, has_empty_folder):
    path = touch(tmp_path, 'train/a/1.jpg', 'train/b/1.jpg', 'train/c/1.jpg', 'val/c/1.jpg',
                 'val/a/1.jpg')
    if has_empty_folder:
        (tmp_path / 'val/b').mkdir()
    images, names = read_folder(path, is_train=False)
    assert names == ['a', 'b', 'c']
    assert entries(images) == [('val/a/1.jpg', 0), ('val/c/1.jpg', 2)]


def test_validation_alone_has_its_own_classes(tmp_path):
    path = touch(tmp_path, 'val/c/1.jpg', 'val/a/1.jpg')
    images, names = read_folder(path, is_train=False)
    assert names == ['a', 'c'] and images.labels.tolist() == [0, 1]


def test_class_that_training_lacks_is_refused(tmp_path):
    path = touch(tmp_path, 'train/a/1.jpg', 'train/c/1.jpg', 'val/a/1.jpg', 'val/b/1.jpg',
                 'val/d/1.jpg')
    assert refusal(read_folder, path, False) == (
        f'{path}/val/b: a class that is not in {path}/train; 2 of 3 classes are not')


def test_class_without_an_image_is_refused_in_training(tmp_path):
    path = touch(tmp_path, 'train/a/1.jpg', 'train/b/1.txt', 'train/c/1.jpg')
    assert refusal(read_folder, path).startswith(f'{path}/train/b: got a class without an image')


@pytest.mark.parametrize('names, is_train, start', [
    ([], True, 'train: cannot read the folder: No such file'),
    (['train/a/1.jpg'], False, 'val: cannot read the folder: No such file'),
    (['train'], True, 'train: cannot read the folder: Not a directory'),
    (['train/1.jpg', 'train/2.jpg'], True, 'train: got no folder in it'),
    (['train/a/1.jpg', 'val/1.jpg'], False, 'val: got no folder in it'),
    (['train/a/1.txt'], True, 'train: got no image'),
    (['train/a/1.jpg', 'val/a/1.txt'], False, 'val: got no image'),
])
def test_folder_of_another_layout_is_named(tmp_path, names, is_train, start):
    path = touch(tmp_path, *names)
    message = refusal(read_folder, path, is_train)
    assert message.startswith(f'{path}/{start}')
    if names == ['train/a/1.jpg', 'val/1.jpg']:
        assert '-val_labels' in message


def test_name_that_is_not_utf8_is_refused(tmp_path):
    touch(tmp_path, 'train/a/1.jpg')
    with open(os.fsencode(tmp_path / 'train/a') + b'/caf\xe9.jpg', 'w'):
        pass
    message = refusal(read_folder, str(tmp_path))
    assert message == (f"{tmp_path}/train/a: got the file name b'caf\\xe9.jpg', expected UTF-8")


def test_label_out_of_range_names_the_path(tmp_path):
    images, _ = read_folder(touch(tmp_path, 'train/a/1.jpg', 'train/b/1.jpg'))
    images.check_labels(2)
    assert refusal(images.check_labels, 1).startswith(f'{tmp_path}/train/b/1.jpg: label: got 1, ')


def test_entries_are_compact():
    """Names, ends and labels, and no Python object for each entry."""
    count = 200_000
    tracemalloc.start()
    images = make_images('root', 'root/train', (
        (b'train/n%08d/n%08d_%d.JPEG' % (n // 100, n // 100, n), n // 100) for n in range(count)))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    payload = len(images.names) + 16 * count
    assert len(images) == count and images.name(count - 1).endswith('_199999.JPEG')
    assert payload <= kept < 1.1 * payload and peak < 3 * payload


def test_labels_of_folders(tmp_path):
    touch(tmp_path, 'train/a/1.jpg', 'train/a/2.jpg', 'train/b/deep/1.jpg')
    assert folder_labels(read_folder(str(tmp_path))[0]) == {'a': 0, 'deep': 1}
    images = make_images('r', 'r', [(b'train/1.jpg', 0), (b'train/2.jpg', 1), (b'3.jpg', 2)])
    assert folder_labels(images) == {'train': None, '': 2}


# read_flat_val

def flat(folder, labels, classes=('n01', 'n02', 'n03'), count=4, ids=None):
    """Data with images in val/ itself; the arguments of read_flat_val."""
    touch(folder, *(f'train/{name}/1.jpg' for name in classes),
          *(f'val/ILSVRC2012_val_{n:08d}.JPEG' for n in range(1, count + 1)), 'val/readme.txt')
    (folder / 'labels').write_bytes(labels)
    if ids is not None:
        (folder / 'ids').write_bytes(ids)
    return str(folder), str(folder / 'labels'), str(folder / 'ids') if ids is not None else None


CSV = (b'ILSVRC2012_val_00000003.JPEG,n02\nILSVRC2012_val_00000001.JPEG,n03\n'
       b'ILSVRC2012_val_00000002.JPEG,n01\nILSVRC2012_val_00000004.JPEG,n03\n')


@pytest.mark.parametrize('labels', [
    b'n03\nn01\nn02\nn03\n',
    b'\xef\xbb\xbfn03\r\nn01\r\nn02\r\nn03',
    b'2\n0\n\n1\n 2 \n',
    CSV,
    b'name,label\n' + CSV,
    b'\n' + CSV.replace(b'\n', b'\r\n'),
    CSV.replace(b'.JPEG', b''),
    CSV.replace(b'ILSVRC', b'val/ILSVRC'),
    CSV.replace(b'n01', b'0').replace(b'n02', b'1').replace(b'n03', b'2'),
    b'ImageId,PredictionString\n' + CSV.replace(b'.JPEG', b'').replace(b'\n', b' 1 2 3 4 n01 5 \n'),
    CSV.replace(b',n', b',"n').replace(b'\n', b'"\n'),
], ids=['names', 'BOM and CRLF', 'numbers', 'csv', 'header', 'blank and CRLF', 'stems', 'paths',
        'csv of numbers', 'LOC_val_solution', 'quotes'])
def test_every_form_of_a_labels_file(tmp_path, labels):
    images, names = read_flat_val(*flat(tmp_path, labels))
    assert names == ['n01', 'n02', 'n03']
    assert entries(images) == [(f'val/ILSVRC2012_val_{n:08d}.JPEG', label)
                               for n, label in ((1, 2), (2, 0), (3, 1), (4, 2))]


IDS = b'n02 1 kit_fox\nn03 2 English_setter\nn01 3 Siberian_husky\n'


def test_numbers_of_the_development_kit_are_translated(tmp_path):
    images, _ = read_flat_val(*flat(tmp_path, b'2\n3\n1\n2\n', ids=IDS))
    assert images.labels.tolist() == [2, 0, 1, 2]


def test_numbers_of_the_development_kit_are_refused_as_they_are(tmp_path):
    """They go from 1 and in another order; taken as labels they would be silently wrong."""
    message = refusal(read_flat_val, *flat(tmp_path, b'2\n3\n1\n2\n'))
    assert message.startswith(f'{tmp_path}/labels:2: label: got \'3\'') and '-ids' in message


def test_number_that_the_ids_lack_is_refused(tmp_path):
    message = refusal(read_flat_val, *flat(tmp_path, b'2\n3\n0\n1\n', ids=IDS))
    assert message.startswith(f"{tmp_path}/labels:3: label: got '0'")


def test_name_of_a_class_goes_before_a_number(tmp_path):
    images, names = read_flat_val(*flat(tmp_path, b'10\n9\n1\n2\n', classes=('10', '9', '1', '2')))
    assert names == ['1', '10', '2', '9'] and images.labels.tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize('labels, line, text', [
    (b'n01\nn02\nn04\nn01\n', 3, "got 'n04'"),
    (b'0\n1\n2\n-1\n', 4, "got '-1'"),
    (b'0\n1\n2\n3\n', 4, "got '3'"),
    (b'0\n1\n2\n1.0\n', 4, "got '1.0'"),
    (CSV.replace(b'00000002', b'00000009'), 3, 'ILSVRC2012_val_00000009'),
    (CSV + CSV[:33], 5, 'ILSVRC2012_val_00000003'),
    (CSV.replace(b'JPEG,n01', b'JPEG,'), 3, 'its label'),
    (CSV.replace(b'JPEG,n01', b'JPEG'), 3, 'its label'),
])
def test_bad_line_of_a_labels_file_is_named(tmp_path, labels, line, text):
    message = refusal(read_flat_val, *flat(tmp_path, labels))
    assert message.startswith(f'{tmp_path}/labels:{line}: ') and text in message


@pytest.mark.parametrize('labels, text', [
    (b'', 'got 0 labels, expected one for each of the 4 images'),
    (b'0\n1\n2\n', 'got 3 labels'),
    (b'0\n1\n2\n0\n1\n', 'got 5 labels'),
    (CSV[:-33], 'no label for 1 of 4 images, first val/ILSVRC2012_val_00000004.JPEG'),
    (b'caf\xe9\n', 'expected text in UTF-8; iconv -f GBK'),
    (b'a' * 200_000, 'not a text file'),
])
def test_labels_file_that_does_not_fit_is_named(tmp_path, labels, text):
    message = refusal(read_flat_val, *flat(tmp_path, labels))
    assert message.startswith(f'{tmp_path}/labels: ') and text in message


def test_labels_file_that_is_a_pipe_is_not_waited_for_I7(tmp_path):
    path, labels, _ = flat(tmp_path, b'0\n' * 4)
    os.mkfifo(f'{labels}.pipe')
    assert 'got a pipe, expected a file' in refusal(read_flat_val, path, f'{labels}.pipe')


def test_labels_file_needs_its_folders(tmp_path):
    path, labels, _ = flat(tmp_path, b'0\n' * 4)
    assert refusal(read_flat_val, path, labels + 'x').startswith(f'{labels}x: cannot read it: No ')
    for file in Path(path, 'val').iterdir():
        file.unlink()
    (tmp_path / 'labels').write_text('')
    assert refusal(read_flat_val, path, labels).startswith(f'{path}/val: got no image')


# class_names

def test_class_names_round_trip(tmp_path):
    names = ['tench, Tinca tinca', '\u732b', 'crane', 'crane', "jack-o'-lantern", '7']
    file = tmp_path / 'names.txt'
    for end, start in (('\n', ''), ('\r\n', ''), ('\n', '\ufeff')):
        for last in ('', end, end * 3):
            file.write_bytes((start + end.join(names) + last).encode())
            assert class_names(str(file)) == class_names(str(file), 6) == names


@pytest.mark.parametrize('content, where', [
    (b'a\n\nb\n', ':2: '),
    (b'\na\n', ':1: '),
    (b'', ':1: '),
    (b' \n\t\n', ':1: '),
    (b'a\ncaf\xe9\n', ':2: '),
    (b'a\nb\n', ': got 2 class names, expected 3'),
    (b'a\nb\nc\nd\n', ': got 4 class names, expected 3'),
])
def test_bad_class_names_are_named(tmp_path, content, where):
    file = tmp_path / 'names.txt'
    file.write_bytes(content)
    assert refusal(class_names, str(file), 3).startswith(f'{file}{where}')


def test_missing_or_huge_class_names_are_refused(tmp_path):
    assert refusal(class_names, str(tmp_path)).startswith(f'{tmp_path}: no such file')
    with open(tmp_path / 'huge', 'wb') as stream:
        stream.truncate(1 << 30)
    assert 'got 1073741824 bytes' in refusal(class_names, str(tmp_path / 'huge'))


def test_count_of_classes():
    check_count(['a', 'b'], 2, 'data')
    assert refusal(check_count, ['a', 'b'], 3, 'data').startswith('data: got 2 class names, exp')
