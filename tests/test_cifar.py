"""CIFAR: the files as Python 2 wrote them, other copies, damaged and hostile ones, the download."""
import base64
import gzip
import hashlib
import http.server
import io
import pickle
import pickletools
import tarfile
import threading
import time
import zlib

import numpy as np
import pytest

from common.core.errors import InputError
from common.data import cifar_download, cifar_source
from common.data.cifar_download import download_cifar
from common.data.cifar_source import LAYOUTS, read_cifar
from tests.conftest import run_script

pytestmark = pytest.mark.smoke

# A batch of two images, np.arange(6144) // 24, with the labels 6 and 9, and the class names: what
# cPickle of Python 2.7.18 with numpy 1.16.6 wrote by protocol 2 (zlib, base64) and by protocol 0.
PYTHON2_BATCH = (
    'eNp12OVfUwEYxfFthDLCVuzZs6YoKHbnVcxr47wbF5iOwd3uVFQUC+zu7u7u7u7u7u7mM3z7+754Xpxz/oInWZek'
    'aI2id5SkSorO6nDHJSSarPFO2RTntqs2yemUEvVmp2yNd7hUp9uq6hWv9JXeEZXeKt6CZqiotaS2VnyMglbQNdcE'
    'pPzfRKmJCbJe8RV17hBBI2jTNhmMgpeo7RcREdH0bxrPETSqZXhbTbAGaYEOeAFv4AN8QQaQEfgBPfAHASAQBIFM'
    'IDPIArKCbCA7yAFyglwgGOQGeUBekA/kBwVAQWAAhUBhUAQUBcVAcVACGEFJUAqUBmVAWWAC5UB5EAIqgIogFISB'
    'SqAyCAdVQFVQDVQHNUBNUAvUBnVAXVAP1AcNQEPQCDQGTUBTIIBmoDmIAC1AS9AKtAZtQFsggnagPegAOoJOoDPo'
    'AiJBV2AG3YAELMAKooAMokEMiAU20B30AHYQBxwgHiQABTiBC6jADXqCXqA3SAR9QF/QDySB/mAASAYDwSAwGAwB'
    'Q0EKSAXDwHAwAowEo8BoMAaMBePAeDABTASTwGQwBUwF08B0MAPMBLPAbDAHzAXzwHywACwEi8BisAQsBcvAcrAC'
    'rASrwGqwBqwF68B6sAFsBJvAZrAFbAXbwHawA+wEu8BusAfsBfvAfnAAHASHwGFwBBwFx8BxcAKcBKfAaXAGnAXn'
    'wHlwAVwEl8BlcAVcBdfAdXAD3AS3wG1wB9wF98B98AA8BI/AY/AEPAXPwHPwArwEr8Br8Aa8Be/Ae/ABfASfwGfw'
    'BXwF38B38AP8BL/Ab/AH/AWqRfS1SxbZ7lIyRip+RsFX8JNFf4ukWmPNnkLRizlUp2Rz2BwxBk9uCDHERxvCFH/R'
    'L9pmlx1SnOxSAiKVQKMYJJldZs8DL9SU4IhRgsQgS3oSEhruSTLJbtM/T1VK8Q==')
PYTHON2_META = (
    b"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'label_names'\np3\n(lp4\nS'airplane'\np5\n"
    b"aS'automobile'\np6\naS'bird'\np7\naS'cat'\np8\naS'deer'\np9\naS'dog'\np10\naS'frog'\np11\n"
    b"aS'horse'\np12\naS'ship'\np13\naS'truck'\np14\nasS'num_vis'\np15\nI3072\ns.")


def part(value):
    """The opcodes by which Python 2 pushed a value: strings are bytes, memo entries left out."""
    if isinstance(value, dict):
        return b'}(' + b''.join(part(key) + part(item) for key, item in value.items()) + b'u'
    if isinstance(value, list):
        return b'](' + b''.join(map(part, value)) + b'e'
    if isinstance(value, np.ndarray):
        shape = pickle.dumps(value.shape, 2)[2:-1]
        return (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01'
                + shape + b'cnumpy\ndtype\n' + part(value.dtype.str[1:]) + b'K\0K\x01\x87R(K\x03'
                + part(value.dtype.str[0]) + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89'
                + part(value.tobytes()) + b'tb')
    if isinstance(value, (str, bytes)):
        value = value.encode() if isinstance(value, str) else value
        size = len(value)
        return (b'U' + bytes([size]) if size < 256 else b'T' + size.to_bytes(4, 'little')) + value
    return pickle.dumps(value, 2)[2:-1]


def python2(content):
    return b'\x80\x02' + part(content) + b'.'


def python3_bytes(content):
    """A copy that was read with encoding='bytes' and written again."""
    return pickle.dumps({key.encode(): value for key, value in content.items()}, 2)


def python3_text(content):
    return pickle.dumps(content, 4)


WRITERS = [python2, python3_bytes, python3_text]


def batch(layout, seed, count=3):
    """The dict of a batch; class and pixels differ from seed to seed."""
    random = np.random.default_rng(seed)
    return {'batch_label': f'batch {seed}', layout.labels: [seed * 3 % 10, *range(count - 1)],
            'data': random.integers(0, 256, (count, 3072), np.uint8),
            'filenames': [f'a_s_{n:06d}.png' for n in range(count)]}


def contents_of(layout):
    """The files of a small data set as dicts."""
    names = [f'class {n}' for n in range(layout.num_classes)]
    files = {file: batch(layout, n) for n, file in enumerate([*layout.train, *layout.test])}
    return {**files, layout.meta: {layout.names: names, 'num_cases_per_batch': 3}}


def files_of(layout, write=python2):
    return {file: write(content) for file, content in contents_of(layout).items()}


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_archive(path, members, level=6):
    """A .tar.gz of {name: bytes, or a tarfile.TarInfo of another kind}."""
    with gzip.open(path, 'wb', level) as stream, tarfile.open(fileobj=stream, mode='w') as tar:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def official(layout, files):
    """Members in another order than the files, with what else the real archive has."""
    folder = tarfile.TarInfo(layout.folder)
    folder.type = tarfile.DIRTYPE
    members = {f'{layout.folder}/{name}': data for name, data in reversed(files.items())}
    return {layout.folder: folder, f'{layout.folder}/readme.html': b'<html>', **members}


def archive_of(folder, name='cifar10', files=None, level=6):
    layout = LAYOUTS[name]
    return write_archive(folder / layout.archive, official(layout, files or files_of(layout)),
                         level)


def refusal(place, name='cifar10', is_train=True):
    """The message of the InputError: one line that starts with the place."""
    with pytest.raises(InputError) as caught:
        read_cifar(str(place), name, is_train)
    message = str(caught.value)
    assert message.startswith(str(place)) and '\n' not in message
    return message


# Good files

def test_what_python2_wrote(tmp_path):
    data = zlib.decompress(base64.b64decode(PYTHON2_BATCH))
    write_folder(tmp_path / 'a', {'test_batch': data, 'batches.meta': PYTHON2_META})
    images, names = read_cifar(str(tmp_path / 'a'), 'cifar10', is_train=False)
    assert names == ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse',
                     'ship', 'truck']
    assert images.labels.tolist() == [6, 9] and images.labels.dtype == np.int64
    expected = (np.arange(6144) // 24).reshape(2, 3, 32, 32)
    for index in range(2):
        pixels = np.asarray(images.load(index))
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels.transpose(2, 0, 1), expected[index])


def test_writer_of_these_tests_writes_what_python2_wrote():
    """But for the opcodes that put values into a memo."""
    def operations(data):
        return [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)
                if opcode.name != 'BINPUT']

    content = {'data': (np.arange(6144) // 24).astype(np.uint8).reshape(2, 3072),
               'labels': [6, 9], 'batch_label': 'training batch 1 of 5',
               'filenames': ['a_s_000004.png', 'b_s_000148.png']}
    written = zlib.decompress(base64.b64decode(PYTHON2_BATCH))
    assert operations(python2(content)) == operations(written)


def places(tmp_path, layout, files):
    """Every place where a data set may lie."""
    folder = write_folder(tmp_path / 'one' / layout.folder, files)
    (tmp_path / 'two').mkdir()
    archive = write_archive(tmp_path / 'two' / layout.archive, official(layout, files))
    renamed = write_archive(tmp_path / 'renamed.tgz', official(layout, files))
    return [folder, folder.parent, archive, archive.parent, renamed]


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('name', LAYOUTS)
def test_every_form_in_every_place(tmp_path, name, write):
    layout = LAYOUTS[name]
    contents = contents_of(layout)
    for place in places(tmp_path, layout, files_of(layout, write)):
        before = sorted(tmp_path.rglob('*'))
        for is_train, files in ((True, layout.train), (False, layout.test)):
            images, names = read_cifar(str(place), name, is_train)
            assert names == contents[layout.meta][layout.names]
            expected = np.concatenate([contents[file]['data'] for file in files])
            labels = [n for file in files for n in contents[file][layout.labels]]
            assert images.pixels.dtype == np.uint8 and images.labels.dtype == np.int64
            assert images.pixels.shape == (len(images), 32, 32, 3)
            assert np.array_equal(images.pixels.transpose(0, 3, 1, 2).reshape(-1, 3072), expected)
            assert images.labels.tolist() == labels and len(images) == len(labels)
        assert sorted(tmp_path.rglob('*')) == before  # nothing is unpacked onto the disk


def test_source_has_what_a_data_set_asks_for(tmp_path):
    archive = archive_of(tmp_path)
    images, _ = read_cifar(str(archive), 'cifar10')
    image = images.load(7)
    assert image.mode == 'RGB' and image.size == (32, 32)
    assert np.array_equal(np.asarray(image), images.pixels[7])
    assert images.name(7) == 'train/00007' and images.where(7) == f'{archive}: train image 7'
    images.check_labels(10)
    with pytest.raises(InputError, match='train image 9: label: got 9, expected 0 to 8 .*1 of 15'):
        images.check_labels(9)


def test_unpacked_folder_goes_before_the_archive(tmp_path):
    archive_of(tmp_path)
    layout = LAYOUTS['cifar10']
    files = {**files_of(layout), 'test_batch': python2(batch(layout, 1, count=5))}
    write_folder(tmp_path / layout.folder, files)
    assert len(read_cifar(str(tmp_path), 'cifar10', False)[0]) == 5


# What is not there

def test_message_says_what_was_looked_for_and_found(tmp_path):
    assert 'no such folder' in refusal(tmp_path / 'missing')
    assert 'found nothing' in refusal(tmp_path)
    (tmp_path / 'cifar-10-binary.tar.gz').write_bytes(b'')
    message = refusal(tmp_path)
    for text in ('cifar-10-batches-py', 'cifar-10-python.tar.gz', 'found cifar-10-binary.tar.gz'):
        assert text in message
    with pytest.raises(InputError, match='got cifar20, expected one of cifar10, cifar100'):
        read_cifar(str(tmp_path), 'cifar20')


@pytest.mark.parametrize('file', ['data_batch_4', 'batches.meta'])
def test_missing_batch_is_named(tmp_path, file):
    files = files_of(LAYOUTS['cifar10'])
    del files[file]
    message = refusal(archive_of(tmp_path, files=files))
    assert f'got no cifar-10-batches-py/{file}; found ' in message
    folder = write_folder(tmp_path / 'cifar-10-batches-py', files)
    archive_of(tmp_path).unlink()
    if file == 'data_batch_4':
        assert refusal(folder).startswith(f'{folder / file}: no such file; found batches.meta, ')
    else:
        refusal(folder)


def test_archive_of_the_other_data_set_is_refused(tmp_path):
    archive = archive_of(tmp_path, 'cifar100')
    assert 'found cifar-100-python' in refusal(archive, 'cifar10')


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
                                  tarfile.FIFOTYPE])
def test_member_that_is_no_file_does_not_count(tmp_path, kind):
    files = files_of(LAYOUTS['cifar10'])
    info = tarfile.TarInfo('cifar-10-batches-py/test_batch')
    info.type, info.linkname = kind, '/etc/passwd'
    archive = archive_of(tmp_path, files={**files, 'test_batch': info})
    assert 'got no cifar-10-batches-py/test_batch' in refusal(archive, is_train=False)


@pytest.mark.parametrize('name', ['../cifar-10-batches-py/test_batch', '/test_batch',
                                  '/cifar-10-batches-py/test_batch', 'test_batch'])
def test_member_of_another_path_does_not_count(tmp_path, name):
    files = files_of(LAYOUTS['cifar10'])
    members = official(LAYOUTS['cifar10'], files)
    members[name] = members.pop('cifar-10-batches-py/test_batch')
    refusal(write_archive(tmp_path / 'a.tar.gz', members), is_train=False)


# Damaged files

def test_truncated_archive_is_refused(tmp_path):
    archive = archive_of(tmp_path)
    content = archive.read_bytes()
    for twentieth in range(20):
        archive.write_bytes(content[:len(content) * twentieth // 20])
        refusal(archive)
    for size in (len(content) - 1, len(content) - 8):
        archive.write_bytes(content[:size])
        refusal(archive)


def test_flipped_byte_is_noticed(tmp_path):
    """Also one among the pixels, which only gzip's checksum can show."""
    archive = archive_of(tmp_path, level=0)
    content = archive.read_bytes()
    for place in np.random.default_rng(0).integers(10, len(content), 20).tolist():
        archive.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        refusal(archive)


@pytest.mark.parametrize('content', [b'', b'\x1f\x8b', b'<html>404</html>', b'\0' * 10_000,
                                     gzip.compress(b'no tar'), gzip.compress(b'\0' * 100_000),
                                     gzip.compress(b'\xff' * 100_000)],
                         ids=['empty', 'start', 'HTML', 'zeros', 'text', 'empty tar', 'junk'])
def test_file_that_is_no_archive_is_refused(tmp_path, content):
    archive = tmp_path / 'cifar-10-python.tar.gz'
    archive.write_bytes(content)
    refusal(archive)


def member_of_kind(kind, name, size, content):
    """The blocks of a member, which tarfile's own `addfile` would not write like this."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def test_headers_before_a_member_cost_no_more_than_their_bytes_W10(tmp_path):
    """A pax header of 8 MB of digits, for which tarfile takes the square of its length; and a
    sparse file that says that it has 8 GB of zeros."""
    content = b''.join([
        member_of_kind(tarfile.XHDTYPE, 'x', 8 << 20, b'9' * (8 << 20)),
        member_of_kind(tarfile.GNUTYPE_SPARSE, 'cifar-10-batches-py/test_batch', 512, b'N' * 512)])
    archive = tmp_path / 'cifar-10-python.tar.gz'
    archive.write_bytes(gzip.compress(content + bytes(1024)))
    start = time.process_time()
    assert 'got no cifar-10-batches-py/batches.meta' in refusal(archive, is_train=False)
    assert time.process_time() - start < 20


def test_archive_that_unpacks_to_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_source, 'MAX_UNPACKED', 1 << 20)
    members = official(LAYOUTS['cifar10'], files_of(LAYOUTS['cifar10']))
    read_cifar(str(write_archive(tmp_path / 'a.tar.gz', members)), 'cifar10')
    long_header = tarfile.TarInfo('x' * (2 << 20))  # its name is a header of 2 MiB
    for bomb in ({'bomb': bytes(2 << 20)}, {long_header.name: long_header}):
        assert '1 MiB' in refusal(write_archive(tmp_path / 'a.tar.gz', {**bomb, **members}))
        assert '1 MiB' in refusal(write_archive(tmp_path / 'a.tar.gz', {**members, **bomb}))
    many = {f'{n}\n': b'' for n in range(200)}
    assert '100 members' in refusal(write_archive(tmp_path / 'a.tar.gz', {**many, **members}))
    assert '\n' not in refusal(write_archive(tmp_path / 'a.tar.gz', {'a\nb': b''}))


BAD_BATCHES = {
    'no labels': lambda b: b.pop('labels'),
    'other labels': lambda b: b.update(labels='012'),
    'no data': lambda b: b.pop('data'),
    'data in a list': lambda b: b.update(data=[1, 2, 3]),
    'label 10': lambda b: b['labels'].append(10) or b['labels'].pop(0),
    'label -1': lambda b: b['labels'].append(-1) or b['labels'].pop(0),
    'label true': lambda b: b['labels'].append(True) or b['labels'].pop(0),
    'label text': lambda b: b['labels'].append('1') or b['labels'].pop(0),
    'a label too many': lambda b: b['labels'].append(1),
    'no image': lambda b: b.update(labels=[], data=np.zeros((0, 3072), np.uint8)),
    'other width': lambda b: b.update(data=np.zeros((3, 3071), np.uint8)),
    'flat': lambda b: b.update(data=np.zeros(3 * 3072, np.uint8)),
    'float': lambda b: b.update(data=np.zeros((3, 3072), np.float32)),
    'int8': lambda b: b.update(data=np.zeros((3, 3072), np.int8)),
}


@pytest.mark.parametrize('change', BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_batch_of_another_form_is_refused(tmp_path, change):
    layout = LAYOUTS['cifar10']
    content = batch(layout, 0)
    change(content)
    files = {**files_of(layout), 'data_batch_3': python2(content)}
    folder = write_folder(tmp_path / 'folder', files)
    assert refusal(folder).startswith(f'{folder}/data_batch_3: ')
    archive = archive_of(tmp_path, files=files)
    assert refusal(archive).startswith(f'{archive}: cifar-10-batches-py/data_batch_3: ')


@pytest.mark.parametrize('names', [['a'] * 9, ['a'] * 9 + [1], 'abcdefghij', None])
def test_class_names_of_another_form_are_refused(tmp_path, names):
    files = {**files_of(LAYOUTS['cifar10']), 'batches.meta': python2({'label_names': names})}
    folder = write_folder(tmp_path / 'folder', files)
    assert refusal(folder).startswith(f'{folder}/batches.meta: label_names: expected 10 names')


# Hostile files

class Call:
    """Pickles as the order to call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_files(canary):
    """Files that make the canary, or ask for memory, if they are run."""
    good = batch(LAYOUTS['cifar10'], 0)
    opening = part(str(canary)) + part('w') + b'\x86R.'
    array, data = part(good['data']), part(good['data'].tobytes())
    others = python2({**good, 'data': None}).replace(b'U\x04dataN', b'U\x04data%s')
    yield from (pickle.dumps({**good, 'more': Call(open, str(canary), 'w')}, protocol)
                for protocol in range(5))
    yield b'\x80\x02c__builtin__\nopen\n' + opening
    yield b'\x80\x02cio\nopen\n' + opening
    yield b'\x80\x02(U%c%bU\x01wi__builtin__\nopen\n.' % (len(str(canary)), str(canary).encode())
    yield b"cposix\nsystem\n(S'touch %b'\ntR." % str(canary).encode()
    yield pickle.dumps({**good, 'data': np.array([{}, 1], object)}, 2)
    yield others % array.replace(data, b'](K\x01K\x02e')
    yield others % array.replace(data, b'X\x03\0\0\0\xe7\x8c\xab')  # text beyond latin-1
    yield others % array.replace(data, data[:-1])
    yield others % array.replace(part(b'u1'), part(b'O8'))
    yield others % array.replace(b'K\x03M\0\x0c\x86', b'J\xff\xff\xff\x7fM\0\x0c\x86')
    yield b'\x80\x02T\xff\xff\xff\x7f.'
    yield b'\x80\x02' + b'](' * 100_000


def test_hostile_batch_is_refused_and_not_run(tmp_path):
    canary = tmp_path / 'canary'
    count = 0
    for count, data in enumerate(hostile_files(canary), 1):
        files = {**files_of(LAYOUTS['cifar10']), 'test_batch': data}
        folder = write_folder(tmp_path / str(count), files)
        assert refusal(folder, is_train=False).startswith(f'{folder}/test_batch: ')
        refusal(archive_of(tmp_path, files=files), is_train=False)
        files = {**files_of(LAYOUTS['cifar10']), 'batches.meta': data}
        refusal(archive_of(tmp_path, files=files), is_train=False)
        assert not canary.exists()
    assert count == 17


# Download

class Handler(http.server.BaseHTTPRequestHandler):
    content = b''

    def do_GET(self):
        self.send_response(200 if self.path == '/cifar-10-python.tar.gz' else 404)
        self.send_header('Content-Length', str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[:-1] if self.content.startswith(b'short') else self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of this machine instead of the real one; returns how to set its file."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(cifar_download, 'BASE_URL', f'http://127.0.0.1:{running.server_port}/')
        for variable in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
            monkeypatch.delenv(variable, raising=False)

        def serve(content, md5=None):
            Handler.content = content
            md5 = md5 or hashlib.md5(content).hexdigest()
            monkeypatch.setitem(LAYOUTS, 'cifar10', LAYOUTS['cifar10']._replace(md5=md5))

        yield serve
        running.shutdown()


def download_refusal(name, folder):
    with pytest.raises(InputError) as caught:
        download_cifar(name, str(folder))
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_download(tmp_path, server):
    server(archive_of(tmp_path).read_bytes())
    path = download_cifar('cifar10', str(tmp_path / 'new' / 'folder'))
    assert path == str(tmp_path / 'new' / 'folder' / 'cifar-10-python.tar.gz')
    assert [file.name for file in (tmp_path / 'new' / 'folder').iterdir()] == [
        'cifar-10-python.tar.gz']
    assert len(read_cifar(str(tmp_path / 'new' / 'folder'), 'cifar10')[0]) == 15


def test_bad_download_leaves_nothing(tmp_path, server):
    server(b'another file', md5='0' * 32)
    assert 'got md5' in download_refusal('cifar10', tmp_path)
    server(b'short file')
    download_refusal('cifar10', tmp_path)
    assert '404' in download_refusal('cifar100', tmp_path)
    assert not list(tmp_path.iterdir())


def test_archive_that_is_there_is_kept(tmp_path, server):
    server(b'good')
    path = tmp_path / 'cifar-10-python.tar.gz'
    path.write_bytes(b'good')
    server(b'new', md5=hashlib.md5(b'good').hexdigest())
    assert download_cifar('cifar10', str(tmp_path)) == str(path)
    path.write_bytes(b'bad')
    assert download_refusal('cifar10', tmp_path).startswith(f'{path} (remove it')
    assert path.read_bytes() == b'bad'


def test_real_addresses_and_digests():
    assert cifar_download.BASE_URL == 'https://www.cs.toronto.edu/~kriz/'
    assert [(layout.archive, layout.md5) for layout in LAYOUTS.values()] == [
        ('cifar-10-python.tar.gz', 'c58f30108f718f92721af3b95e74349a'),
        ('cifar-100-python.tar.gz', 'eb9058c3a382ffc7106e4002c42a8d85')]


def test_tool_without_a_network(tmp_path):
    """The proxy is a port where nothing listens."""
    proxy = dict.fromkeys(('https_proxy', 'HTTPS_PROXY', 'all_proxy'), 'http://127.0.0.1:9')
    code, out, err = run_script(['-m', 'common.cifar', 'cifar10', tmp_path / 'new'], '.',
                                env={**proxy, 'no_proxy': '', 'NO_PROXY': ''})
    assert (code, out) == (1, '')
    assert err.startswith('error: https://www.cs.toronto.edu/') and err.count('\n') == 1
    assert not list((tmp_path / 'new').iterdir())
