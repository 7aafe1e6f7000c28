"""Packing: shards that are the same bytes after any end, and train as the files do."""
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from common.core.flags import byte_size
from common.data.archives import pack as module
from common.data.archives.pack import key_of, pack
from common.data.images import ORIENTATION
from common.data.verify import verify
from common.pack import main
from tests.archive_files import as_tar, everything, read, write_folders, write_lists
from tests.conftest import refusal

pytestmark = pytest.mark.smoke
SIZE = 20_480  # bytes of a shard: five images or so


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return write_lists(write_folders(tmp_path_factory.mktemp('files')))


def contents(folder):
    """{name: sha256} of what is in a folder and not hidden."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in sorted(os.listdir(folder)) if not name.startswith('.')}


@pytest.mark.parametrize('layout', ['list', 'imagefolder', 'class_folders', 'archive', 'one list'])
def test_pack_has_the_images_of_the_data_in_their_order(layout, files, tmp_path, capsys):
    source, out = files, tmp_path / 'out'
    if layout == 'imagefolder':
        source = shutil.copytree(files, tmp_path / 'data', ignore=lambda *_: ['train_list.txt',
                                                                              'val_list.txt'])
    elif layout == 'class_folders':
        source = files / 'train'
    elif layout == 'archive':
        source = as_tar(tmp_path / 'all.tar', files)
    elif layout == 'one list':
        source = files / 'val_list.txt'
    pack(str(source), str(out), SIZE)
    if layout == 'one list':
        assert capsys.readouterr().out.startswith(f'{out}: val: 7 images in ')
        wanted, found = read(files, 'list', False)[0], read(out, 'webdataset', False)[0]
        assert [wanted.content(index) for index in range(7)] == \
            [found.content(index) for index in range(7)]
        return
    for is_train in (True, False):
        wanted, names = read(source, None, is_train)
        found, found_names = read(out, None, is_train)
        assert found_names == names and everything(found) == everything(wanted)
        assert [found.content(index) for index in range(len(found))] == \
            [wanted.content(index) for index in range(len(wanted))]
    assert len(contents(out)) > 4 and '.train.index' in os.listdir(out)
    assert all((out / name).stat().st_size <= SIZE for name in contents(out))
    assert verify(str(out), decode=True, workers=1).report()


def test_other_readers_find_the_samples(files, tmp_path):
    """By Python's tarfile: KEY.ENDING in pairs, the label as text."""
    pack(str(files), str(tmp_path / 'out'))
    with tarfile.open(tmp_path / 'out' / 'train-000000.tar') as archive:
        members = archive.getmembers()
        texts = [archive.extractfile(member).read() for member in members]
    lines = (files / 'train_list.txt').read_text().split()
    assert [member.name for member in members] == [
        name for line in lines[::2]
        for name in (line.replace('.JPEG', '.jpeg'), line.rpartition('.')[0] + '.cls')]
    assert [text.decode() for text in texts[1::2]] == lines[1::2]
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, '')}


def test_keys_have_no_point_and_differ(tmp_path):
    assert key_of('a.tar/b.c/x.y.jpg') == 'a/b.c/x_y' and key_of('.jpg') == '_jpg'
    (tmp_path / 'data').mkdir()
    for name, value in (('a.jpg', 0), ('a.png', 90), ('a.bmp', 200), ('b.v2.jpg', 10)):
        Image.new('RGB', (4, 4), (value, 0, 0)).save(tmp_path / 'data' / name)
    for split in ('train', 'val'):
        (tmp_path / 'data' / f'{split}_list.txt').write_text(
            'a.jpg 0\na.png 1\na.bmp 2\nb.v2.jpg 3\n')
    pack(str(tmp_path / 'data'), str(tmp_path / 'out'))
    wanted, found = read(tmp_path / 'data')[0], read(tmp_path / 'out')[0]
    assert everything(found) == everything(wanted)
    assert len({found.name(index) for index in range(4)}) == 4


def test_resized_images_are_said_to_be(tmp_path, capsys):
    """The shorter side; what is small or broken stays; the orientation is kept, by two processes
    as by one."""
    random = np.random.default_rng(0)
    (tmp_path / 'data').mkdir()
    pixels = random.integers(0, 256, (60, 90, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 6, 'a maker'
    Image.fromarray(pixels).save(tmp_path / 'data' / '0.png', exif=exif)
    Image.fromarray(pixels[:30]).save(tmp_path / 'data' / '1.png')
    (tmp_path / 'data' / '2.jpg').write_bytes(b'broken')
    for split in ('train', 'val'):
        (tmp_path / 'data' / f'{split}_list.txt').write_text('0.png 0\n1.png 1\n2.jpg 0\n')
    for name, workers in (('one', 1), ('two', 2)):
        pack(str(tmp_path / 'data'), str(tmp_path / name), resize=40, quality=90, workers=workers)
    assert contents(tmp_path / 'one') == contents(tmp_path / 'two')
    out, err = capsys.readouterr()
    assert 'packed with a shorter side of 40 at most, JPEG quality 90' in out
    assert f'packed as it is: {tmp_path}/data/train_list.txt:3: ' in err
    found, _ = read(tmp_path / 'one')
    assert found.note == 'packed with a shorter side of 40 at most, JPEG quality 90'
    with Image.open(io.BytesIO(found.content(0))) as image:
        assert (image.format, image.size) == ('JPEG', (60, 40))
        assert dict(image.getexif()) == {ORIENTATION: 6}
        plain = Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC)
        written = io.BytesIO()
        plain.save(written, 'JPEG', quality=90)
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(written)))
    assert found.content(1) == (tmp_path / 'data' / '1.png').read_bytes()
    assert found.content(2) == b'broken'


def test_pack_that_was_killed_goes_on_to_the_same_bytes_A7(files, tmp_path):
    """SIGKILL after each number of images, in a process of its own."""
    pack(str(files), str(tmp_path / 'whole'), SIZE)
    whole, out = contents(tmp_path / 'whole'), tmp_path / 'out'
    total = 23
    for count in (0, 1, 6, 12, total - 1):
        child = os.fork()
        if child == 0:
            left = [count]
            original = module.make_sample

            def make_sample(index, left=left, original=original):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(index)

            module.make_sample = make_sample
            try:
                pack(str(files), str(out), SIZE)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or count > 4  # what was done before is not done again
        done = {name for name in contents(out) if name.endswith('.tar')}
        assert all(contents(out)[name] == whole[name] for name in done)
    pack(str(files), str(out), SIZE)
    assert contents(out) == whole


def test_damaged_shard_is_packed_again_A7(files, tmp_path, capsys):
    out = tmp_path / 'out'
    pack(str(files), str(out), SIZE)
    whole = contents(out)
    with open(out / 'train-000001.tar', 'r+b') as stream:
        stream.seek(700)
        stream.write(b'x')
    (out / 'val-000000.tar').unlink()
    (out / 'train-000007.tar').write_bytes(b'of a start that has died')
    (out / 'train-000002.tar.tmp77').write_bytes(b'of a start that has died')
    pack(str(files), str(out), SIZE)
    assert contents(out) == whole
    assert 'train-000001.tar: not as it was written' in capsys.readouterr().err
    before = (out / 'train-000000.tar').stat().st_mtime_ns
    pack(str(files), str(out), SIZE)
    assert (out / 'train-000000.tar').stat().st_mtime_ns == before


def test_full_disk_leaves_whole_shards_A7(files, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    pack(str(files), str(tmp_path / 'whole'), SIZE)
    original, calls = tarfile.TarFile.addfile, []

    def addfile(self, *arguments):
        calls.append(1)
        if len(calls) == 20:
            raise OSError(28, 'No space left on device')
        return original(self, *arguments)

    monkeypatch.setattr(tarfile.TarFile, 'addfile', addfile)
    with pytest.raises(SystemExit) as caught:
        main([str(files), str(out), '-shard_size', str(SIZE)])
    shard = f'train-{len(json.loads((out / "pack.json").read_text())["shards"]["train"]):06d}.tar'
    assert caught.value.code == f'error: {out / shard}: No space left on device'
    assert not [name for name in os.listdir(out) if '.tmp' in name]
    main([str(files), str(out), '-shard_size', str(SIZE)])
    assert contents(out) == contents(tmp_path / 'whole')


def test_other_pack_or_folder_is_refused_A7(files, tmp_path):
    out = tmp_path / 'out'
    pack(str(files), str(out), SIZE)
    before = contents(out)
    assert 'got another pack in it (shard_size differ)' in refusal(pack, str(files), str(out), 9000)
    assert '(resize, quality, pillow differ)' in refusal(pack, str(files), str(out), SIZE, 10)
    assert '(images differ)' in refusal(pack, str(files / 'train'), str(out), SIZE)
    assert contents(out) == before
    (out / 'pack.json').write_text('{"shards": 1')
    assert 'pack.json: damaged' in refusal(pack, str(files), str(out), SIZE)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'a.txt').write_text('')
    assert 'got a.txt in it' in refusal(pack, str(files), str(tmp_path / 'mine'))
    shutil.copytree(files, tmp_path / 'data')
    (tmp_path / 'data' / 'train' / 'n01' / '0.JPEG').unlink()
    text = refusal(pack, str(tmp_path / 'data'), str(tmp_path / 'gone'))
    assert 'train_list.txt:' in text and 'No such file' in text


def test_two_at_once_are_refused_A7(files, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    code = ('import fcntl, os, sys, time\n'
            'fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n'
            'print(1, flush=True)\ntime.sleep(60)')
    child = subprocess.Popen([sys.executable, '-c', code, str(out)], stdout=subprocess.PIPE)
    try:
        assert child.stdout.read(1) == b'1'
        assert 'another process packs into it' in refusal(pack, str(files), str(out))
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize('flags, text', [
    (['-shard_size', '1T'], '-shard_size: got 1T'), (['-shard_size', '0'], '-shard_size: got 0'),
    (['-quality', '90'], '-quality: got 90, expected 1 to 95, with -resize'),
    (['-resize', '9', '-quality', '96'], '-quality: got 96'), (['-resize', '0'], '-resize: got 0'),
    (['-val_fraction', '1'], '-val_fraction: got 1.0')])
def test_wrong_flag_is_one_line(flags, text, files, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main([str(files), str(tmp_path / 'out'), *flags])
    assert str(caught.value.code).startswith(f'error: {text}')
    assert not (tmp_path / 'out').exists()
    assert [byte_size('a', size, '1G') for size in ('7', '2k', '3M', '1G')] == [
        7, 2048, 3 << 20, 1 << 30]
