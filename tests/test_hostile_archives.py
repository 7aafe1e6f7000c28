"""Archives and indexes that are damaged, changed, or made to do harm: one line, nothing outside."""
import json
import multiprocessing
import os
import resource
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

from common.core.errors import InputError
from common.data.archives.index import MAGIC, Damaged, index_files, open_index, write_index
from common.data.archives.members import members_of, opened_archive
from common.data.image_dataset import ImageDataset
from common.data.transforms import EvalTransform
from common.data.verify import verify
from tests.archive_files import (
    as_tar,
    as_zip,
    everything,
    read,
    tar_of,
    tar_of_tars,
    write_folders,
)
from tests.conftest import refusal

pytestmark = pytest.mark.smoke


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp('files'), train=3, val=1)


@pytest.fixture(scope='module')
def image(files):
    return (files / 'train' / 'n01' / '0.JPEG').read_bytes()


def names_in(path):
    with opened_archive(str(path)) as file:
        return [member.name for member in members_of(str(path), file)]


def refused(path):
    """The line that is said of a data set whose train.tar or train.zip is refused."""
    text = refusal(read, path.parent, 'imagefolder')
    assert str(path) in text and '\n' not in text
    assert not list(path.parent.glob('.*')), 'an index of a damaged archive'
    return text


def test_tar_that_is_cut_is_named_A1(files, tmp_path):
    whole = tar_of_tars(tmp_path / 'whole.tar', files / 'train').read_bytes()
    target = tmp_path / 'data' / 'train.tar'
    target.parent.mkdir()
    end = len(whole.rstrip(b'\0'))
    cuts = [0, 1, 511, 512, 513, 2000, 5120, end - 1, end // 512 * 512, len(whole) - 10240]
    for size in cuts + list(range(512, end, 4096)):
        target.write_bytes(whole[:size])
        assert refused(target)


def test_zip_that_is_cut_is_named_A1(files, tmp_path):
    whole = as_zip(tmp_path / 'whole.zip', files / 'train').read_bytes()
    target = tmp_path / 'data' / 'train.zip'
    target.parent.mkdir()
    for size in (0, 1, 30, len(whole) // 2, len(whole) - 23, len(whole) - 1):
        target.write_bytes(whole[:size])
        assert refused(target)


def test_tar_with_a_wrong_header_is_named_A2(files, tmp_path):
    """tarfile takes a wrong header for the end, and so half of the images."""
    target = as_tar(tmp_path / 'train.tar', files / 'train')
    with tarfile.open(target) as archive:
        offsets = [member.offset for member in archive][1:]
    whole = bytearray(target.read_bytes())
    for offset in offsets:
        damaged = whole[:]
        damaged[offset + 148:offset + 156] = b'7777777\0'  # the checksum
        target.write_bytes(damaged)
        assert f'wrong header at byte {offset}' in refused(target)


def test_two_archives_in_one_file_are_named_A2(files, tmp_path):
    """cat a.tar b.tar: the second one would be passed over."""
    target = as_tar(tmp_path / 'train.tar', files / 'train')
    target.write_bytes(target.read_bytes() * 2)
    assert 'got more behind its end mark' in refused(target)


@pytest.mark.parametrize('name, content, text', [
    ('train.tar', b'\x1f\x8b\x08' + bytes(2000), 'got gzip, expected a plain .tar'),
    ('train.tar', b'<!DOCTYPE html>' * 100, 'damaged, or no archive'),
    ('train.tar', b'PK\x03\x04' * 500, 'damaged, or no archive'),
    ('train.tar', b'version https://git-lfs.github.com/spec/v1\n', 'damaged, or no archive'),
    ('train.zip', b'PK\x03\x04' * 500, 'damaged, or no archive'),
    ('train.zip', b'', 'damaged, or no archive')])
def test_other_file_is_named_A2(name, content, text, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert text in refused(tmp_path / name)


def test_packed_and_encrypted_archives_are_named_A2(files, image, tmp_path):
    as_zip(tmp_path / 'train.zip', files / 'train', compression=zipfile.ZIP_DEFLATED)
    assert 'got a packed file, expected stored ones' in refused(tmp_path / 'train.zip')
    as_zip(tmp_path / 'train.zip', files / 'train')
    content = bytearray((tmp_path / 'train.zip').read_bytes())
    content[content.index(b'PK\x01\x02') + 8] |= 1
    (tmp_path / 'train.zip').write_bytes(content)
    assert 'encrypted' in refused(tmp_path / 'train.zip')
    (tmp_path / 'all.tar.gz').write_bytes(b'')
    assert 'gunzip unpacks it' in refusal(read, tmp_path / 'all.tar.gz')


def special(name, kind, target=''):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize('name', ['../a/b.jpg', '/etc/a.jpg', 'a/../../b.jpg', 'a\\b.jpg',
                                  '..', 'a/\udcff.jpg'])
def test_name_that_leaves_is_refused_A3(name, image, tmp_path):
    tar_of(tmp_path / 'train.tar', [('a/0.jpg', image), (name, image)])
    assert 'got the name' in refused(tmp_path / 'train.tar')
    if name.isascii():
        with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
            archive.writestr(zipfile.ZipInfo('A' * len(name)), image)
        content = (tmp_path / 'x.zip').read_bytes().replace(b'A' * len(name), name.encode())
        (tmp_path / 'x.zip').write_bytes(content)
        assert 'got the name' in refusal(names_in, tmp_path / 'x.zip')


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                  tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_link_device_and_holes_are_refused_A3(kind, image, tmp_path):
    secret = tmp_path / 'secret.jpg'
    secret.write_bytes(image)
    (tmp_path / 'data').mkdir()
    target = tar_of(tmp_path / 'data' / 'train.tar', [
        ('a/0.jpg', image), special('a/1.jpg', kind, str(secret))])
    assert 'a/1.jpg: got a ' in refused(target)


def test_archive_that_is_a_pipe_is_not_waited_for_A3(tmp_path):
    os.mkfifo(tmp_path / 'train.tar')
    assert 'train' in refusal(read, tmp_path, 'imagefolder')


def header(name, size, kind=b'L'):
    """A header block that claims a size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b'\x80' + size.to_bytes(11, 'big') if size >= 0 else \
        b'\xff' + (256 ** 11 + size).to_bytes(11, 'big')
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


BOMBS = {
    'a name of 2 GB': lambda: header('x', 2 << 30) + bytes(1 << 20),
    'headers of 2 GB': lambda: header('x', 2 << 30, b'x') + bytes(1 << 20),
    'a size that leads back': lambda: header('a/0.jpg', -1024, b'0') + bytes(1 << 20),
    'a size beyond the end': lambda: header('a/0.jpg', 1 << 60, b'0') + bytes(1 << 20),
    'names before names': lambda: header('x', 512) * 20_000,
}


@pytest.mark.parametrize('kind', BOMBS)
def test_header_that_claims_much_costs_little_A4(kind, tmp_path):
    """The file is sparse and long, so that what is claimed could be read."""
    target = tmp_path / 'train.tar'
    target.write_bytes(BOMBS[kind]())
    os.truncate(target, 8 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(target)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_archives_in_archives_have_an_end_A4(image, tmp_path):
    path = tar_of(tmp_path / 'a.tar', [('a/0.jpg', image)])
    for number in range(8):
        content = path.read_bytes()
        path = tar_of(tmp_path / f'{number}.tar', [('a.tar', content)])
    assert 'more than 4 archives in each other' in refusal(names_in, path)


def test_image_that_claims_much_is_refused_unread_A4(tmp_path, image):
    target = tmp_path / 'train.tar'
    with open(target, 'wb') as stream:
        stream.write(header('a/0.jpg', 3 << 30, b'0'))
        stream.seek(3 << 30, os.SEEK_CUR)
        stream.write(bytes(1024))
    source, _ = read(tmp_path, 'imagefolder')
    with pytest.raises(ValueError, match='expected at most'):
        source.load(0)


# The index

def index_of(folder):
    return index_files(str(folder), 'train')[0]


@pytest.fixture
def data(files, tmp_path):
    as_tar(tmp_path / 'data' / 'train.tar', files / 'train')
    read(tmp_path / 'data', 'imagefolder')
    return tmp_path / 'data'


def test_damaged_index_is_made_anew_A5(data, files, capsys):
    file = index_of(data)
    with open(file, 'rb') as stream:
        whole = stream.read()
    wanted = everything(read(files, 'imagefolder')[0])
    start = len(MAGIC)
    for content in (b'', whole[:10], whole[:start + 100], whole[:-1], whole + b'\0',
                    whole[:start + 30] + b'x' + whole[start + 31:],
                    MAGIC + (1 << 40).to_bytes(8, 'little') + whole[start + 8:], b'<html>'):
        with open(file, 'wb') as stream:
            stream.write(content)
        with pytest.raises(Damaged):
            open_index(file)
        assert everything(read(data, 'imagefolder')[0]) == wanted
        with open(file, 'rb') as stream:
            assert stream.read() == whole
    assert 'not used: it is' in capsys.readouterr().err


def test_index_of_another_archive_is_made_anew_A5(data, files, image, tmp_path, capsys):
    """Another archive of the same size and name, newer or older: its time tells."""
    wanted = everything(read(data, 'imagefolder')[0])
    other = tmp_path / 'other'
    shutil.copytree(files, other)
    (other / 'train' / 'n02' / '2.JPEG').unlink()
    as_tar(data / 'train.tar', other / 'train')
    os.utime(data / 'train.tar', ns=(1, 1))
    found = everything(read(data, 'imagefolder')[0])
    assert found == everything(read(other, 'imagefolder')[0]) != wanted
    assert 'is another one: size and time' in capsys.readouterr().err


def test_index_that_leads_outside_is_not_used_A5(data, files, tmp_path, capsys):
    """Data that are passed on may have an index by somebody else."""
    file, wanted = index_of(data), everything(read(files, 'imagefolder')[0])
    index = open_index(file)
    shutil.copy(data / 'train.tar', tmp_path / 'outside.tar')
    found = os.stat(tmp_path / 'outside.tar')
    facts = [found.st_size, found.st_mtime_ns]
    for path in ('../outside.tar', str(tmp_path / 'outside.tar')):
        header = {**index.header, 'files': [['train.tar/', path]],
                  'sources': [[path, *facts], *index.header['sources']]}
        write_index(file, header, index.arrays)
        assert everything(read(data, 'imagefolder')[0]) == wanted
        assert 'outside of the data' in capsys.readouterr().err
        assert open_index(file).header == index.header
    (data / 'key.pem').write_text('secret')
    write_index(file, {**index.header, 'files': [['train.tar/', 'key.pem']]}, index.arrays)
    assert everything(read(data, 'imagefolder')[0]) == wanted
    assert 'no archive of the data' in capsys.readouterr().err
    for key, value in (('sources', 1), ('files', [[1, 2]]), ('files', []), ('classes', [1]),
                       ('anchor', '..'), ('split_off', 'x'), ('classes', {'a': 1})):
        write_index(file, {**json.loads(json.dumps(index.header)), key: value}, index.arrays)
        assert everything(read(data, 'imagefolder')[0]) == wanted, key
    for name, value in (('file', 7), ('folder', 99), ('label', -1)):
        arrays = {**index.arrays, name: np.full_like(index.arrays[name], value)}
        write_index(file, index.header, arrays)
        assert everything(read(data, 'imagefolder')[0]) == wanted, name


def test_file_that_an_index_names_outside_is_not_read_A5(data, image, tmp_path):
    (tmp_path / 'secret.jpg').write_bytes(image)
    index = open_index(index_of(data))
    arrays = {**index.arrays, 'file': np.full(10, -1), 'folder': np.zeros(10),
              'folders': np.frombuffer(b'../', np.uint8), 'folder_ends': [3] * 9,
              'tails': np.frombuffer(b'secret.jpg' * 10, np.uint8),
              'end': np.arange(10, 110, 10)}
    write_index(index_of(data), index.header, arrays)
    source, _ = read(data, 'imagefolder')
    assert source.name(3) == '../secret.jpg'
    for function in (source.load, source.content, source.identity):
        with pytest.raises(ValueError, match='expected a path inside'):
            function(3)


def test_archive_that_changes_during_a_run_is_named_A5(data, files):
    source, _ = read(data, 'imagefolder')
    source.load(0)  # it stays open
    as_tar(data / 'new.tar', files / 'val')
    os.replace(data / 'new.tar', data / 'train.tar')
    source.load(1)  # the open one is still the old one
    source.open_files.clear()
    with pytest.raises(InputError, match='train.tar: the archive has changed'):
        source.load(0)


def test_archive_that_shrinks_during_a_run_is_an_error_A5(data):
    source, _ = read(data, 'imagefolder')
    source.load(0)
    os.truncate(data / 'train.tar', 1024)
    with pytest.raises(ValueError, match='the archive is cut'):
        source.load(5)


def test_two_processes_make_one_index_A5(data):
    """They start at the same time; each finds the data, and no half index."""
    os.remove(index_of(data))
    context = multiprocessing.get_context('fork')
    connections, theirs = context.Pipe(False)
    start = context.Barrier(2)

    def look():
        start.wait(60)
        theirs.send(len(everything(read(data, 'imagefolder')[0])))

    children = [context.Process(target=look) for _ in range(2)]
    for child in children:
        child.start()
    assert [connections.recv() for _ in children] == [10, 10]
    for child in children:
        child.join()
    assert sorted(os.listdir(data)) == ['.train.index', 'train.tar']


# Images

def test_missing_and_broken_members_are_as_files_are_A6(image, tmp_path):
    tar_of(tmp_path / 'train.tar', [('a/0.jpg', image), ('a/1.jpg', image[:90]),
                                    ('a/2.jpg', b''), ('a/3.jpg', image + b' ')])
    (tmp_path / 'train_list.txt').write_text(
        ''.join(f'train/a/{index}.jpg 0\n' for index in (0, 1, 2, 7)) + 'gone.tar/a.jpg 0\n')
    (tmp_path / 'val_list.txt').write_text('train.tar/a/3.jpg 0\n')
    source, _ = read(tmp_path, 'list')
    dataset = ImageDataset(source, EvalTransform(8, 0.9), 8, replace_bad=True)
    list_file = tmp_path / 'train_list.txt'
    errors = [dataset[1, index].error for index in range(5)]
    assert errors[0] == '' and all(
        error.startswith(f'{list_file}:{line}: cannot read ')
        for line, error in enumerate(errors[1:], 2))
    assert errors[3].endswith('train/a/7.jpg: train.tar has no such member')
    assert errors[4].endswith('gone.tar/a.jpg: No such file or directory')
    assert dataset[1, 3].index == 0  # 4 is missing, too
    findings = verify(str(tmp_path), decode=True, workers=1)
    assert findings['train: missing files'][0] == 2
    assert findings['train: images that cannot be decoded'][0] == 2
    assert 'val: missing files' not in findings


@pytest.mark.parametrize('members, text', [
    ([('0.jpg', b'x')], 'got 1 images and 0 labels'),
    ([('0.jpg', b'x'), ('0.png', b'x'), ('0.cls', b'1')], 'got 2 images and 1 labels'),
    ([('0.jpg', b'x'), ('0.cls', b'')], "label: got '', expected a whole number"),
    ([('0.jpg', b'x'), ('0.cls', b'\xff')], 'got no label'),
    ([('0.jpg', b'x'), ('0.cls', b'9' * 30)], 'expected a whole number from 0'),
    ([('0.jpg', b'x'), ('0.cls', b'12345678901')], 'got 12345678901, expected a whole'),
    ([('0.jpg', b'x'), ('0.json', b'{"label": -1}')], 'expected a whole number from 0'),
    ([('0.jpg', b'x'), ('0.json', b'{"label": true}')], 'expected a whole number from 0'),
    ([('0.jpg', b'x'), ('0.json', b'{"other": 1}')], 'expected one of the keys label'),
    ([('0.jpg', b'x'), ('0.json', b'[' * 60_000)], 'got no label'),
    ([('0.jpg', b'x'), ('0.cls', b'cat'), ('1.jpg', b'x'), ('1.cls', b'3')],
     'got labels that are numbers and others that are names'),
])
def test_sample_without_a_label_is_named_A6(members, text, tmp_path):
    tar_of(tmp_path / 'train-0.tar', members)
    tar_of(tmp_path / 'val-0.tar', members)
    said = refusal(read, tmp_path, 'webdataset')
    assert text in said and 'train-0.tar' in said and len(said) < 500
