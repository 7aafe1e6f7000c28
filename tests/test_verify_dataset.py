"""The tool that checks and writes the lists of a data set, started as a user starts it."""
import os
import time

import numpy as np
import pytest
from PIL import Image

from common.data.lists import read_list
from common.data.verify import first_equal, verify
from common.verify_dataset import main
from tests.conftest import refusal, run_script, write_image_list

CLEAN = {'train_list.txt': 'train/a/1.png 0\ntrain/b/1.png 1\ntrain/b/2.png 1\n',
         'val_list.txt': 'val/a/1.png 0\nval/b/1.png 1\n'}
COUNTS = ('{path}/train_list.txt: 3 entries, 2 classes, 1 to 2 images in each\n'
          '{path}/val_list.txt: 2 entries, 2 classes, 1 to 1 images in each\n')


def write_data(folder, lists=None):
    """Five different images in class folders, and the lists."""
    for lines in CLEAN.values():
        for line in lines.splitlines():
            name = line.split()[0]
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            color = tuple(name.encode()[i] for i in (0, -7, -5))
            Image.new('RGB', (8, 8), color).save(folder / name)
    for name, text in (CLEAN if lists is None else lists).items():
        (folder / name).write_text(text)
    return folder


def tool(path, *arguments):
    """(exit code, stdout, stderr) of a child process."""
    return run_script(['-m', 'common.verify_dataset', path, *arguments], '.', timeout=60)


def report(capsys, path, *arguments):
    """(exit code, what is printed) of the tool in this process."""
    with pytest.raises(SystemExit) as caught:
        main([str(path), *map(str, arguments)])
    return caught.value.code, capsys.readouterr().out


@pytest.mark.smoke
@pytest.mark.parametrize('table', [False, True])
def test_data_without_lists_are_checked_as_a_training_finds_them(table, tmp_path, capsys):
    """Class folders, or a table, of which one image is broken."""
    for name in ('a', 'b'):
        for index in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new('RGB', (8, 8), (index, ord(name), 0)).save(tmp_path / name / f'{index}.png')
    path = tmp_path / 'all.csv' if table else tmp_path
    if table:
        path.write_text(''.join(f'{name}/{index}.png,{name},{"val" if index == 2 else "train"}\n'
                                for name in ('a', 'b') for index in range(3)))
    counts = (f'{path}, train: 4 entries, 2 classes, 2 to 2 images in each\n'
              f'{path}, val: 2 entries, 2 classes, 1 to 1 images in each\n')
    assert report(capsys, path, '-decode', '-workers', 1) == (0, counts + 'all is well\n')
    (tmp_path / 'b' / '2.png').write_bytes(b'no image')
    code, out = report(capsys, path, '-decode', '-workers', 1)
    assert code == 1 and out.startswith(counts) and 'images that cannot be decoded: 1\n  ' in out
    assert not list(tmp_path.glob('*.txt'))


@pytest.mark.smoke
def test_folder_without_data_is_one_line(tmp_path):
    assert 'found no images of a known layout' in refusal(verify, str(tmp_path))


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('clean'))


# As a user does

@pytest.mark.smoke
def test_clean_data_set(clean):
    before = {file: file.stat().st_mtime_ns for file in clean.rglob('*')}
    assert tool(clean) == (0, COUNTS.format(path=clean) + 'all is well\n', '')
    code, out, err = tool(clean, '--decode', '--workers', 1)
    assert (code, out) == (0, COUNTS.format(path=clean) + 'all is well\n'), err
    assert {file: file.stat().st_mtime_ns for file in clean.rglob('*')} == before


@pytest.mark.smoke
def test_lists_are_written_and_never_overwritten(tmp_path, capsys):
    path = write_data(tmp_path, lists={})
    train, val, names = (path / f'{stem}.txt' for stem in ('train_list', 'val_list', 'class_names'))
    assert tool(path, '--write') == (0, f'{train}: written\n{val}: written\n{names}: written\n'
                                     + COUNTS.format(path=path) + 'all is well\n', '')
    assert {file.name: file.read_text() for file in (train, val)} == CLEAN
    code, out, err = tool(path, '-write')
    assert (code, out) == (1, '')
    assert err == f'error: {path}: got -write, but both lists exist; -force replaces them\n'
    train.write_text('train/a/1.png 0\ntrain/b/1.png 1\n')
    val.unlink()
    code, out = report(capsys, path, '-write')
    assert code == 0 and f'{train}: kept; -force replaces it\n{val}: written\n' in out
    assert train.read_text() == 'train/a/1.png 0\ntrain/b/1.png 1\n'
    assert report(capsys, path, '-write', '-force')[0] == 0
    assert {file.name: file.read_text() for file in (train, val)} == CLEAN
    assert sorted(file.name for file in path.iterdir()) == ['class_names.txt', 'train',
                                                            'train_list.txt', 'val', 'val_list.txt']


BAD_IMAGES = {
    'empty': lambda file: file.write_bytes(b''),
    'text': lambda file: file.write_text('no image'),
    'truncated': lambda file: file.write_bytes(file.read_bytes()[:-30]),
    'huge': lambda file: file.write_bytes(
        b'GIF89a' + (60000).to_bytes(2, 'little') * 2 + b'\x80\0\0' + b'\0' * 6 + b',\0\0\0\0'
        + (60000).to_bytes(2, 'little') * 2 + b'\0\x02\0;'),
}


def test_every_bad_image_is_named(tmp_path):
    """Among 200 good ones, in more than one process."""
    path = write_image_list(tmp_path, train=200, val=20, size=(16, 16))
    places = dict(zip(BAD_IMAGES, (0, 63, 64, 199), strict=True))
    for kind, index in places.items():
        BAD_IMAGES[kind](path / f'train/{index}.jpg')
    (path / 'train/100.jpg').unlink()
    code, out, err = tool(path, '-decode', '-workers', 2)
    assert code == 1 and 'Traceback' not in err
    lines = out.splitlines()
    assert 'train: images that cannot be decoded: 4' in lines and lines[-1] == 'not all is well'
    for index in places.values():
        start = f'  {path}/train_list.txt:{index + 1}: train/{index}.jpg: '
        assert [line for line in lines if line.startswith(start) and len(line) > len(start)]
    assert 'train: missing files: 1' in lines
    assert f'  {path}/train_list.txt:101: train/100.jpg: No such file or directory' in lines


@pytest.mark.smoke
@pytest.mark.parametrize('arguments, text', [
    (['-workers', '0'], '-workers: got 0, expected at least 1'),
    (['-num_classes', '-1'], '-num_classes: got -1'),
    (['-force'], 'without -write'),
    (['-val_labels', 'x'], 'without -write'),
])
def test_flags_that_do_not_fit(clean, arguments, text):
    with pytest.raises(SystemExit) as caught:
        main([str(clean), *arguments])
    assert caught.value.code.startswith('error: ') and text in caught.value.code


def test_unknown_flag_and_help():
    code, _, err = tool('.', '-overwrite')
    assert code == 2 and 'unrecognized arguments: -overwrite' in err
    code, out, _ = tool('-h')
    assert code == 0 and 'train_list.txt' in out and '-val_labels' in out


# What the lists say

def changed(folder, **lists):
    """The data set with other lists; None leaves one out."""
    lists = {**CLEAN, **{f'{split}_list.txt': text for split, text in lists.items()}}
    return write_data(folder, {name: text for name, text in lists.items() if text is not None})


TRAIN, VAL = CLEAN['train_list.txt'], CLEAN['val_list.txt']

FAULTS = {
    'no list': ({'val': None}, ['list that cannot be read: 1',
                                '{path}/val_list.txt: no such list file']),
    'bad line': ({'train': TRAIN + 'x.png\n'}, ['list that cannot be read: 1',
                                                '{path}/train_list.txt:4: got ']),
    'missing': ({'train': TRAIN + 'train/a/9.png 0\n\ntrain/a 0\n'},
                ['train: missing files: 2',
                 '{path}/train_list.txt:4: train/a/9.png: No such file or directory',
                 '{path}/train_list.txt:6: train/a: not a file']),
    'twice': ({'train': TRAIN + 'train/b/1.png 1\n'},
              ['train: entries of one file with the same label: 1',
               '{path}/train_list.txt:4: train/b/1.png is {path}/train_list.txt:2']),
    'another spelling': ({'train': TRAIN + './train//b/1.png 1\n'},
                         ['train: entries of one file with the same label: 1',
                          '{path}/train_list.txt:4: ./train//b/1.png is {path}/train_list.txt:2']),
    'two labels': ({'val': VAL + 'val/b/1.png 0\n'},
                   ['val: entries of one file with two labels: 1',
                    '{path}/val_list.txt:3: val/b/1.png is {path}/val_list.txt:2']),
    'missing twice': ({'train': TRAIN + 'x.png 0\nx.png 1\n'},
                      ['train: missing files: 2',
                       'train: entries of one file with two labels: 1']),
    'in both': ({'val': VAL + 'train/a/1.png 0\n'},
                ['validation images that are training images: 1',
                 '{path}/val_list.txt:3: train/a/1.png is {path}/train_list.txt:1']),
    'label out of range': ({'val': VAL + 'val/c.png 2\n'},
                           ['val: labels out of range: 1',
                            '{path}/val_list.txt:3: got 2, expected 0 to 1']),
    'classes without an image': ({'train': TRAIN.replace(' 1', ' 3')},
                                 ['train: classes without an image: 1',
                                  '2 of 4, first class 1']),
    'label beyond all classes': ({'train': TRAIN.replace(' 1', ' 999999999')},
                                 ['999999998 of 1000000000, first class 1']),
    'other order of the classes': ({'val': VAL.replace(' 0', ' x').replace(' 1', ' 0')
                                    .replace(' x', ' 1')},
                                   ['folders with one label in training, another in validation: 2',
                                    'a: 0, 1', 'b: 1, 0']),
}


@pytest.mark.smoke
@pytest.mark.parametrize('lists, lines', FAULTS.values(), ids=FAULTS)
def test_fault_is_reported_D7_D8(tmp_path, capsys, lists, lines):
    path = changed(tmp_path, **lists)
    code, out = report(capsys, path)
    found = [line.strip() for line in out.splitlines()]
    for line in lines:
        line = line.format(path=path)
        assert any(text.startswith(line) for text in found), (line, out)
    assert code == 1 and found[-1] == 'not all is well'


@pytest.mark.smoke
def test_class_that_validation_lacks_is_only_noted(tmp_path, capsys):
    path = changed(tmp_path, val='val/a/1.png 0\n')
    code, out = report(capsys, path)
    assert code == 0 and out.endswith('note, val: classes without an image: 1\n'
                                      '  1 of 2, first class 1\nall is well\n')


@pytest.mark.smoke
def test_number_of_classes_may_be_given(clean, capsys):
    code, out = report(capsys, clean, '-num_classes', 1)
    assert code == 1 and 'train: labels out of range: 2\n' in out
    assert 'val: labels out of range: 1\n' in out
    code, out = report(capsys, clean, '-num_classes', 3)
    assert code == 1 and 'train: classes without an image: 1\n  1 of 3, first class 2\n' in out


@pytest.mark.smoke
def test_links_to_one_file_are_found_D8(tmp_path, capsys):
    path = changed(tmp_path, val=VAL + 'val/b/link.png 1\nval/b/hard.png 1\n')
    os.symlink(path / 'train/b/2.png', path / 'val/b/link.png')
    os.link(path / 'train/b/1.png', path / 'val/b/hard.png')
    code, out = report(capsys, path)
    assert code == 1 and 'validation images that are training images: 2\n' in out
    assert f'{path}/val_list.txt:4: val/b/hard.png is {path}/train_list.txt:2\n' in out


def test_copies_are_found_by_their_content_D8(tmp_path):
    path = changed(tmp_path, val=VAL + 'val/b/copy.png 1\n')
    (path / 'val/b/copy.png').write_bytes((path / 'train/b/2.png').read_bytes())
    assert tool(path)[0] == 0
    code, out, _ = tool(path, '-decode')
    assert code == 1 and out.endswith(
        'validation images that are training images: 1\n'
        f'  {path}/val_list.txt:3: val/b/copy.png is {path}/train_list.txt:3\n'
        'not all is well\n')


@pytest.mark.smoke
def test_five_of_many_are_shown_D7(tmp_path, capsys):
    path = changed(tmp_path, train=TRAIN + ''.join(f'{n}.png 0\n' for n in range(100)))
    code, out = report(capsys, path)
    assert code == 1 and 'train: missing files: 100\n' in out
    assert [f'{n}.png' in out for n in range(7)] == [True] * 5 + [False] * 2
    assert '  ...\n' in out and out.count('\n') == 10


@pytest.mark.smoke
def test_many_missing_files_are_counted_quickly_D7(tmp_path):
    (tmp_path / 'train_list.txt').write_text(''.join(f'{n}.png {n % 7}\n' for n in range(50_000)))
    (tmp_path / 'val_list.txt').write_text('x.png 0\n')
    start = time.process_time()
    findings = verify(str(tmp_path))
    assert time.process_time() - start < 60  # a second; a search for each name would take minutes
    assert findings['train: missing files'][0] == 50_000 and not findings.report()


@pytest.mark.smoke
def test_first_equal_against_a_loop():
    keys = np.random.default_rng(0).integers(0, 5, (200, 2)).astype(np.uint64) << np.uint64(61)
    seen = {}
    expected = [seen.setdefault(tuple(key), index) for index, key in enumerate(keys.tolist())]
    assert first_equal(keys).tolist() == expected
    assert first_equal(keys[:0]).tolist() == []


# Writing

@pytest.mark.smoke
@pytest.mark.parametrize('labels', ['a\nb\na\n', '0\n1\n0\n', 'name,label\n2.png,b\n1,a\n3,a\n'])
def test_flat_validation_with_labels(tmp_path, capsys, labels):
    path = write_data(tmp_path, lists={'train_list.txt': TRAIN})
    for file in list(path.glob('val/*/*')):
        file.unlink()
    for index in (1, 2, 3):
        Image.new('RGB', (4, 4), (index, 0, 0)).save(path / f'val/{index}.png')
    (path / 'labels.txt').write_text(labels)
    code, _ = report(capsys, path, '-write', '-val_labels', path / 'labels.txt')
    assert (path / 'val_list.txt').read_text() == 'val/1.png 0\nval/2.png 1\nval/3.png 0\n'
    assert code == 0


@pytest.mark.smoke
def test_ids_of_the_development_kit(tmp_path):
    path = write_data(tmp_path, lists={})
    for index in (1, 2):
        (path / f'val/ILSVRC2012_val_{index:08d}.JPEG').write_bytes(b'')
    (path / 'truth.txt').write_text('2\n1\n')
    arguments = '-write', '-val_labels', path / 'truth.txt'
    with pytest.raises(SystemExit, match='truth.txt:1: label: got .2.*-ids map_clsloc.txt'):
        main([str(path), *map(str, arguments)])
    assert not list(path.glob('*_list.txt'))  # nothing is written if a part is wrong
    (path / 'ids.txt').write_text('b 1 kit_fox\na 2 English_setter\n')
    with pytest.raises(SystemExit):
        main([str(path), *map(str, arguments), '-ids', str(path / 'ids.txt')])
    assert (path / 'val_list.txt').read_text() == ('val/ILSVRC2012_val_00000001.JPEG 0\n'
                                                   'val/ILSVRC2012_val_00000002.JPEG 1\n')


@pytest.mark.smoke
def test_names_that_are_written_are_read_again(tmp_path, capsys):
    names = ['train/\u732b/a b.png', 'train/\u732b/ 1.png', 'train/caf\xe9 1/\u2028x.png',
             'train/ x/tab\t2 3.png', 'train/ x/a..b.png', 'train/ x/return\r4.png']
    for split in ('train', 'val'):
        for index, name in enumerate(names):
            file = tmp_path / name.replace('train', split)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f'{split}{index}')
    code, out = report(capsys, tmp_path, '-write')
    assert code == 0, out
    images = read_list(str(tmp_path / 'train_list.txt'))
    assert sorted(images.name(index) for index in range(len(images))) == sorted(names)


@pytest.mark.smoke
def test_name_with_a_line_break_is_refused(tmp_path):
    path = write_data(tmp_path, lists={})
    (path / 'train/a/x 1\ny.png').write_bytes(b'')
    with pytest.raises(SystemExit, match='got a file name with a line break'):
        main([str(path), '-write'])
    assert not (path / 'train_list.txt').exists()


@pytest.mark.smoke
def test_folder_that_cannot_be_written_is_named(tmp_path):
    path = write_data(tmp_path, lists={})
    (path / 'train_list.txt').mkdir()
    with pytest.raises(SystemExit, match='^error: .*train_list.txt'):
        main([str(path), '-write', '-force'])
    assert sorted(file.name for file in path.iterdir()) == ['train', 'train_list.txt', 'val']
    with pytest.raises(SystemExit, match='^error: .*missing: no such folder or table'):
        main([str(tmp_path / 'missing'), '-write'])
