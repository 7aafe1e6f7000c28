"""Data sets in archives: the same images, labels, splits and order as the files give."""
import json
import os
import shutil
import zipfile

import numpy as np
import pytest

from common.config import base_config
from common.data.archives.index import index_files, open_index
from common.data.archives.source import ArchiveImages
from common.data.datasets import get_dataset
from common.data.layouts import find_layout
from common.data.loader import build_loader
from common.data.subset import Subset
from common.data.verify import verify
from common.data.write_lists import write_lists as write_lists_of
from tests.archive_files import (
    CLASSES,
    as_tar,
    as_zip,
    everything,
    read,
    tar_of,
    tar_of_tars,
    write_folders,
    write_lists,
)
from tests.test_data_sets import assert_equal, load_pickle, train

pytestmark = pytest.mark.smoke


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return write_lists(write_folders(tmp_path_factory.mktemp('files')))


def archived(source):
    """Whether all images of a source lie in archives."""
    return isinstance(source, ArchiveImages) and (source.arrays['file'] >= 0).all()


# Class folders

def one_tar_for_each_class(folder, files):
    for split in ('train', 'val'):
        for name in CLASSES:
            as_tar(folder / split / f'{name}.tar', files / split / name, name)


SPLITS = {
    'train.tar': lambda to, files: [as_tar(to / f'{split}.tar', files / split)
                                    for split in ('train', 'val')],
    'train.tar with train/ in it': lambda to, files: [
        as_tar(to / f'{split}.tar', files / split, split) for split in ('train', 'val')],
    'train.zip': lambda to, files: [as_zip(to / f'{split}.zip', files / split)
                                    for split in ('train', 'val')],
    'tars in a tar': lambda to, files: [
        tar_of_tars(to / f'ILSVRC2012_img_{split}.tar', files / split)
        for split in ('train', 'val')],
    'train/n01.tar': one_tar_for_each_class,
    'all.tar': lambda to, files: as_tar(to / 'all.tar', files),
    'all.zip with a folder around': lambda to, files: as_zip(to / 'all.zip', files, 'flowers'),
}


@pytest.mark.parametrize('layout', SPLITS)
def test_split_in_archives_is_that_of_folders(layout, files, tmp_path):
    SPLITS[layout](tmp_path, files)
    for is_train in (True, False):
        wanted, names = read(files, 'imagefolder', is_train)
        for _ in range(2):  # the index is made, and read
            assert find_layout(str(tmp_path), is_train) == 'imagefolder'
            source, found = read(tmp_path, None, is_train)
            assert archived(source) and found == names == sorted(CLASSES)
            assert everything(source) == everything(wanted)
            assert [source.name(index).rpartition('/')[2] for index in range(len(source))] == \
                [wanted.name(index).rpartition('/')[2] for index in range(len(source))]
        assert source.name(0).partition('/')[0] in os.listdir(tmp_path)
        assert source.where(0) == str(tmp_path / source.name(0))


@pytest.mark.parametrize('archived_split', ['train', 'val'])
def test_one_split_may_be_files(archived_split, files, tmp_path):
    """Labels of val/ follow the classes of train/, where val/ has only some of them."""
    shutil.copytree(files / 'val', tmp_path / 'files' / 'val')
    shutil.rmtree(tmp_path / 'files' / 'val' / 'n01')
    shutil.copytree(files / 'train', tmp_path / 'files' / 'train')
    wanted = [read(tmp_path / 'files', 'imagefolder', is_train) for is_train in (True, False)]
    as_tar(tmp_path / 'files' / f'{archived_split}.tar', tmp_path / 'files' / archived_split)
    shutil.rmtree(tmp_path / 'files' / archived_split)
    for is_train, (source, names) in zip((True, False), wanted, strict=True):
        found, found_names = read(tmp_path / 'files', None, is_train)
        assert archived(found) == (is_train == (archived_split == 'train'))
        assert found_names == names
        assert found.labels.tolist() == source.labels.tolist()


TOGETHER = {
    'one tar': lambda to, files: as_tar(to / 'a.tar', files),
    'tars in a tar': lambda to, files: tar_of_tars(to / 'fall11_whole.tar', files),
    'a zip with a folder around': lambda to, files: as_zip(to / 'a.zip', files, 'around'),
    'a tar for each class': lambda to, files: [as_tar(to / f'{name}.tar', files / name)
                                               for name in CLASSES],
}


@pytest.mark.parametrize('layout', TOGETHER)
def test_class_folders_are_split_as_files_are(layout, files, tmp_path):
    TOGETHER[layout](tmp_path, files / 'train')
    paths = [tmp_path]
    paths += [tmp_path / os.listdir(tmp_path)[0]] if len(os.listdir(tmp_path)) == 1 else []
    for path in paths:
        for fraction in (0.1, 0.5):
            for is_train in (True, False):
                wanted, names = read(files / 'train', 'class_folders', is_train,
                                     VAL_FRACTION=fraction)
                source, found = read(path, None, is_train, VAL_FRACTION=fraction)
                assert archived(source) and source.split_off and isinstance(wanted, Subset)
                assert found == names and everything(source) == everything(wanted)


def test_folders_win_over_archives_beside_them(files, tmp_path, capsys):
    shutil.copytree(files / 'train', tmp_path / 'photos')
    as_zip(tmp_path / 'photos' / 'photos.zip', files / 'train')
    source, names = read(tmp_path / 'photos')
    assert names == sorted(CLASSES) and isinstance(source, Subset)
    assert 'passed over 1 archives beside folders: photos.zip' in capsys.readouterr().err
    assert not list((tmp_path / 'photos').glob('.*'))


def test_last_member_of_a_name_counts(tmp_path, files):
    content = [(files / 'train' / 'n01' / f'{index}.JPEG').read_bytes() for index in range(3)]
    tar_of(tmp_path / 'train.tar', [('a/1.jpg', content[0]), ('b/1.jpg', content[1]),
                                    ('a/1.jpg', content[2]), ('a/._1.jpg', b'mac'),
                                    ('b/notes.txt', b'text')])
    source, _ = read(tmp_path)
    assert [source.content(index) for index in range(len(source))] == [content[2], content[1]]


# Lists and tables

LISTED = {
    'names of folders': ('', SPLITS['train.tar']),
    'ImageNet as it is downloaded': ('', SPLITS['tars in a tar']),
    'a tar for each class': ('', SPLITS['train/n01.tar']),
    'through an archive': ('all.tar/', SPLITS['all.tar']),
    'one split is files': ('', lambda to, files: (as_zip(to / 'train.zip', files / 'train'),
                                                  shutil.copytree(files / 'val', to / 'val'))),
}


@pytest.mark.parametrize('layout', LISTED)
def test_list_is_read_in_archives_as_in_folders(layout, files, tmp_path):
    prefix, make = LISTED[layout]
    make(tmp_path, files)
    for split, is_train in (('train', True), ('val', False)):
        lines = (files / f'{split}_list.txt').read_text().splitlines()
        (tmp_path / f'{split}_list.txt').write_text(''.join(f'{prefix}{line}\n' for line in lines))
        wanted, _ = read(files, 'list', is_train)
        for _ in range(2):
            source, _ = read(tmp_path, None, is_train)
            assert everything(source) == everything(wanted)
            assert [source.name(index) for index in range(len(source))] == \
                [prefix + wanted.name(index) for index in range(len(source))]
            assert source.where(3) == f'{tmp_path}/{split}_list.txt:4'
        assert archived(source) or layout == 'one split is files'


def test_list_of_files_beside_archives_has_no_index(files, tmp_path):
    shutil.copytree(files, tmp_path / 'data')
    as_tar(tmp_path / 'data' / 'train.tar', files / 'train')
    source, _ = read(tmp_path / 'data')
    assert not isinstance(source, ArchiveImages)
    assert not list((tmp_path / 'data').glob('.*'))


def test_list_with_files_and_archives(files, tmp_path):
    as_tar(tmp_path / 'a.tar', files / 'train')
    shutil.copytree(files / 'val', tmp_path / 'val')
    (tmp_path / 'train_list.txt').write_text('val/n02/0.JPEG 0\na.tar/n01/1.JPEG 1\n')
    source, _ = read(tmp_path)
    assert [source.content(0), source.content(1)] == [
        (files / name).read_bytes() for name in ('val/n02/0.JPEG', 'train/n01/1.JPEG')]
    assert len({source.identity(index) for index in range(2)}) == 2
    source.load(0), source.load(1)


def test_several_labels_in_an_archive(files, tmp_path):
    as_tar(tmp_path / 'train.tar', files / 'train')
    (tmp_path / 'train_list.txt').write_text(
        'train/n01/0.JPEG 0,2\ntrain/n02/0.JPEG -\ntrain/n10/0.JPEG 1\n')
    for _ in range(2):
        source, _ = read(tmp_path, 'list', MULTI_LABEL=True)
        assert archived(source)
        assert [source.labels.classes(index).tolist() for index in range(3)] == [[0, 2], [], [1]]


def test_table_beside_an_archive_that_is_not_of_the_data(files, tmp_path):
    """What was downloaded, still there: packed, so that it could not be read."""
    for name in ('0.JPEG', '1.JPEG'):
        shutil.copy(files / 'train' / 'n01' / name, tmp_path)
    as_zip(tmp_path / 'all.zip', files, compression=zipfile.ZIP_DEFLATED)
    (tmp_path / 'labels.csv').write_text('0.JPEG,a,train\n1.JPEG,b,val\n')
    assert find_layout(str(tmp_path)) == 'csv'
    assert len(read(tmp_path)[0]) == 1
    (tmp_path / 'train_images').mkdir()
    os.rename(tmp_path / 'all.zip', tmp_path / 'train_images.zip')
    assert find_layout(str(tmp_path)) == 'csv'


def write_tables(folder, files, text):
    """A table of the training images, in FOLDER/files beside them, in FOLDER/archives beside a
    .tar."""
    for name in ('files', 'archives'):
        (folder / name).mkdir()
        (folder / name / 'labels.csv').write_text(text)
    shutil.copytree(files / 'train', folder / 'files' / 'train')
    as_tar(folder / 'archives' / 'train.tar', files / 'train')


@pytest.mark.parametrize('split', [False, True])
def test_table_in_an_archive(split, files, tmp_path):
    rows = sorted((files / 'train').rglob('*.JPEG'))
    text = ''.join(f'{file.relative_to(files)},{file.parent.name}'
                   f'{("," + ("val" if file.stem == "1" else "train")) if split else ""}\n'
                   for file in rows)
    write_tables(tmp_path, files, text)
    for is_train in (True, False):
        wanted, names = read(tmp_path / 'files', 'csv', is_train)
        for _ in range(2):
            source, found = read(tmp_path / 'archives', 'csv', is_train)
            assert archived(source) and found == names
            assert everything(source) == everything(wanted)


def test_imagenet_without_lists(files, tmp_path):
    """Its two archives and its two files of labels, as they are downloaded."""
    tar_of_tars(tmp_path / 'ILSVRC2012_img_train.tar', files / 'train')
    contents = [(files / 'val' / name / '0.JPEG').read_bytes() for name in sorted(CLASSES)]
    tar_of(tmp_path / 'ILSVRC2012_img_val.tar', [
        (f'ILSVRC2012_val_{number:08d}.JPEG', contents[number - 1]) for number in (2, 3, 1)])
    (tmp_path / 'ILSVRC2012_validation_ground_truth.txt').write_text('490\n361\n171\n')
    (tmp_path / 'map_clsloc.txt').write_text('n01 490 a\nn02 361 b\nn10 171 c\n')
    source, names = read(tmp_path, None, False)
    assert names == sorted(CLASSES) and source.labels.tolist() == [0, 1, 2]
    assert [source.content(index) for index in range(3)] == contents
    assert source.name(2) == 'ILSVRC2012_img_val.tar/ILSVRC2012_val_00000003.JPEG'
    write_lists_of(str(tmp_path), str(tmp_path / 'ILSVRC2012_validation_ground_truth.txt'),
                   str(tmp_path / 'map_clsloc.txt'))
    for is_train in (True, False):
        listed, _ = read(tmp_path, 'list', is_train)
        source, _ = read(tmp_path, 'imagefolder', is_train)
        assert archived(listed) and everything(listed) == everything(source)
    assert (tmp_path / 'class_names.txt').read_text().split() == sorted(CLASSES)


def test_table_with_several_labels_in_an_archive(files, tmp_path):
    rows = sorted((files / 'train').rglob('*.JPEG'))
    text = ''.join(f'{file.relative_to(files)},{("a|b", "b", "a|c")[index % 3]}\n'
                   for index, file in enumerate(rows))
    write_tables(tmp_path, files, text)
    for is_train in (True, False):
        wanted, names = read(tmp_path / 'files', 'csv', is_train, MULTI_LABEL=True)
        source, found = read(tmp_path / 'archives', 'csv', is_train, MULTI_LABEL=True)
        assert archived(source) and found == names == ['a', 'b', 'c']
        for index in range(len(wanted)):
            assert source.labels[index].tolist() == wanted.labels[index].tolist()
            assert source.name(index) == wanted.name(index)


# WebDataset

def shards(folder, files, split, ending, label, size=6):
    """Shards of the images of a split, in the order of its list."""
    lines = (files / f'{split}_list.txt').read_text().splitlines()
    for start in range(0, len(lines), size):
        members = []
        for number, line in enumerate(lines[start:start + size]):
            name, number_of_class = line.split()
            members += [(f'{number:03d}.jpg', (files / name).read_bytes()),
                        (f'{number:03d}.{ending}', label(int(number_of_class)).encode())]
        tar_of(folder / f'set-{split}-{start:04d}.tar', members)


@pytest.mark.parametrize('ending, label, has_names', [
    ('cls', str, False), ('json', lambda number: json.dumps({'x': 1, 'label': number}), False),
    ('json', lambda number: json.dumps({'label': f'class {number}'}), True)])
def test_shards_are_a_data_set(ending, label, has_names, files, tmp_path):
    shards(tmp_path, files, 'train', ending, label)
    shards(tmp_path, files, 'val', ending, label, size=100)
    for is_train in (True, False):
        assert find_layout(str(tmp_path), is_train) == 'webdataset'
        source, names = read(tmp_path, None, is_train)
        assert names == ([f'class {number}' for number in range(3)] if has_names else None)
        assert everything(source) == everything(read(files, 'list', is_train)[0])
    assert source.name(0) == 'set-val-0000.tar/000.jpg'


def test_shards_without_a_split(files, tmp_path):
    shards(tmp_path, files, 'train', 'cls', str)
    for name in os.listdir(tmp_path):
        os.rename(tmp_path / name, tmp_path / name.replace('train', 'all'))
    (tmp_path / 'class_names.txt').write_text('a\nb\nc\n')
    parts = [read(tmp_path, None, is_train) for is_train in (True, False)]
    assert [names for _, names in parts] == [['a', 'b', 'c']] * 2
    wanted = sorted(everything(read(files, 'list', True)[0]))
    assert sorted(everything(parts[0][0]) + everything(parts[1][0])) == wanted
    assert np.unique(parts[1][0].labels).tolist() == [0, 1, 2]


# The index

def test_index_is_shared_memory_and_reading_is_one_call(files, tmp_path):
    as_tar(tmp_path / 'train.tar', files / 'train')
    as_tar(tmp_path / 'val.tar', files / 'val')
    source, _ = read(tmp_path)
    beside = index_files(str(tmp_path), 'train')[0]
    assert os.path.dirname(beside) == str(tmp_path) and os.path.isfile(beside)
    index = open_index(beside)
    assert not any(array.flags.writeable or array.flags.owndata for array in index.arrays.values())
    assert source.labels is source.arrays['label']
    with open('/proc/self/maps') as stream:
        assert beside in stream.read()
    source.content(0)  # opens the archive
    calls = {}
    for name in ('pread', 'open', 'read', 'fstat', 'stat'):
        calls[name] = 0
    original = os.pread

    def counted(*arguments):
        calls['pread'] += 1
        return original(*arguments)

    before = reads_of_this_process()
    try:
        os.pread = counted
        contents = [source.content(index) for index in range(len(source))]
    finally:
        os.pread = original
    assert calls['pread'] == len(contents)
    assert reads_of_this_process() - before <= len(contents) + 4  # the counter's own


def reads_of_this_process():
    with open('/proc/self/io') as stream:
        return int(next(line for line in stream if line.startswith('syscr')).split()[1])


def test_index_lies_in_the_cache_where_the_data_cannot_be_written(files, tmp_path, monkeypatch):
    monkeypatch.setenv('PADDLE_VITAE_CACHE', str(tmp_path / 'cache'))
    as_tar(tmp_path / 'data' / 'train.tar', files / 'train')
    from common.data.archives import index
    write = index.write_index

    def write_in_the_cache(file, *arguments):
        if not file.startswith(str(tmp_path / 'cache')):
            raise PermissionError(13, 'Permission denied', file)
        write(file, *arguments)

    monkeypatch.setattr(index, 'write_index', write_in_the_cache)
    wanted = everything(read(files, 'imagefolder')[0])
    assert everything(read(tmp_path / 'data')[0]) == wanted
    [kept] = (tmp_path / 'cache' / 'index').iterdir()
    before = kept.stat().st_mtime_ns
    assert everything(read(tmp_path / 'data')[0]) == wanted
    assert kept.stat().st_mtime_ns == before and os.listdir(tmp_path / 'data') == ['train.tar']


# What is done with them

def test_batches_are_those_of_files_to_the_bit(files, tmp_path):
    """Two ranks, two epochs, augmented, balanced, with repetitions; and the evaluation's."""
    SPLITS['tars in a tar'](tmp_path, files)
    for split in ('train', 'val'):
        shutil.copy(files / f'{split}_list.txt', tmp_path)
    config = base_config()
    config.DATA.update({'DATASET': 'list', 'BATCH_SIZE': 2, 'IMAGE_SIZE': 16, 'BALANCE': 0.5,
                        'NUM_WORKERS': 0})
    config.MODEL.NUM_CLASSES = 3
    config.AUG.update({'AUTO_AUGMENT': 'rand-m9-mstd0.5-inc1', 'REPEATS': 2, 'MIXUP': 0.8})
    for is_train in (True, False):
        batches = []
        for path in (files, tmp_path):
            config.DATA.DATA_PATH = str(path)
            loader = build_loader(config, get_dataset(config, is_train), is_train)
            if is_train:
                loader.batch_sampler.set_epoch(1, 0, 2)
            batches.append([[array.tobytes() for array in batch] for batch in loader])
        assert batches[0] == batches[1] and len(batches[0]) > 3


def test_training_goes_on_in_archives_to_the_bit(files, tmp_path):
    """Two epochs from files; and the second of them from archives."""
    data = tmp_path / 'data'
    SPLITS['train.tar'](data, files)
    for split in ('train', 'val'):
        shutil.copy(files / f'{split}_list.txt', data)
    flags = ['-o', 'DATA.NUM_WORKERS=1', '-o', 'MODEL.NUM_CLASSES=3']
    folder, _ = train(tmp_path / 'files', f'-data_path={files}', *flags)
    rest, out = train(tmp_path / 'rest', f'-data_path={data}', *flags,
                      f'-resume={folder}/previous.pdparams')
    assert 'previous.pdparams, after epoch 1' in out
    whole, parted = (load_pickle(str(run / 'last.pdparams')) for run in (folder, rest))
    assert [state.pop('config')['DATA']['DATA_PATH'] for state in (whole, parted)] == \
        [str(files), str(data)]
    assert_equal(whole, parted)
    assert (data / '.train_list.txt.list.index').exists()


def test_verify_reads_archives(files, tmp_path, capsys):
    SPLITS['tars in a tar'](tmp_path, files)
    assert verify(str(tmp_path), decode=True, workers=1).report()
    out = capsys.readouterr().out
    assert f'{tmp_path}, train: 16 entries, 3 classes, 5 to 6 images in each' in out
    broken = (files / 'train' / 'n01' / '0.JPEG').read_bytes()
    shards = [('0.jpg', broken[:200]), ('0.cls', b'0'), ('1.jpg', broken), ('1.cls', b'0'),
              ('2.jpg', broken), ('2.cls', b'1')]
    (tmp_path / 'shards').mkdir()
    tar_of(tmp_path / 'shards' / 'train-0.tar', shards)
    tar_of(tmp_path / 'shards' / 'val-0.tar', shards[2:4])
    findings = verify(str(tmp_path / 'shards'), decode=True, workers=1)
    assert findings['train: images that cannot be decoded'][0] == 1
    assert 'train-0.tar/0.jpg' in findings['train: images that cannot be decoded'][1][0]
    assert findings['validation images that are training images'][0] == 1
