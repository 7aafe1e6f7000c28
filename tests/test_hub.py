"""Published weights by name: downloaded once, checked, kept; each fault ends in the right file or
in one line."""
import ctypes
import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest
import yaml
from safetensors.numpy import save

from common import pretrained
from common.convert import convert
from common.core.caches import cache_folder
from common.core.errors import InputError
from common.hub.references import is_reference, parse_hf, parse_url, path_of_url
from common.hub.registry import make_entry, size_range
from common.train.checkpoint import write_atomically
from common.weights.unpickle import load_pickle
from common.zoo import create_model, fetch_weights, model_config, published_weights
from tests.conftest import ROOT, refusal, run_script
from tests.test_end_to_end import run_folder
from tests.weight_server import serving

MODEL = 'vit_digits'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """(bytes of a weight file of vit_digits, the model's classifier)."""
    path = tmp_path_factory.mktemp('weights') / 'digits.pdparams'
    model = create_model(MODEL)
    write_atomically(model.state_dict(), str(path))
    return path.read_bytes(), model.classifier.weight.numpy()


@pytest.fixture(scope='module')
def host():
    with serving() as server:
        yield server


@pytest.fixture
def server(host, weights, tmp_path, monkeypatch):
    """The host with w.pdparams, and a cache and time-outs of the test's own."""
    host.files = {'w.pdparams': weights[0]}
    host.seen.clear()
    host.released.clear()
    monkeypatch.setenv('PADDLE_VITAE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('PADDLE_VITAE_TIMEOUT', raising=False)
    monkeypatch.delenv('PADDLE_VITAE_REGISTRY', raising=False)
    monkeypatch.setattr('common.hub.download.PAUSE', 0.01)
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    yield host
    host.released.set()


def cached(server, kind, name='w.pdparams'):
    return os.path.join(cache_folder(), path_of_url(server.url(kind, name)))


def fetched(server, kind, fragment=''):
    """The content of the file that a URL gives."""
    return content_of(fetch_weights(server.url(kind, 'w.pdparams') + fragment, MODEL).file)


def content_of(path):
    with open(path, 'rb') as stream:
        return stream.read()


def assert_nothing_loads(server, kind):
    """No file has got its name."""
    assert not os.path.exists(cached(server, kind))


def register(tmp_path, monkeypatch, **entries):
    """Makes these the entries of vit_digits, {tag: values}, by the user's own registry."""
    common = {'format': 'pdparams', 'origin': 'a test', 'image_size': 32}
    file = tmp_path / 'registry.yaml'
    file.write_text(yaml.safe_dump(
        {MODEL: {tag: {**common, **values} for tag, values in entries.items()}}, sort_keys=False))
    monkeypatch.setenv('PADDLE_VITAE_REGISTRY', str(file))


# the transport

@pytest.mark.parametrize('kind', ['good', 'late', 'redirect', 'google', 'cut', 'cut_no_range',
                                  'stall_once'])
def test_the_file_comes_whole_and_once(kind, server, weights, monkeypatch):
    if 'stall' in kind:
        monkeypatch.setenv('PADDLE_VITAE_TIMEOUT', '0.5')
    assert fetched(server, kind) == weights[0]
    asked = len(server.seen)
    assert fetched(server, kind) == weights[0]
    assert len(server.seen) == asked  # the second time it is there
    folder = os.path.dirname(cached(server, kind))
    assert not [name for name in os.listdir(folder) if '.part' in name]
    pin = json.loads(content_of(f'{cached(server, kind)}.json'))
    assert pin['sha256'] == hashlib.sha256(weights[0]).hexdigest()
    if kind == 'cut':  # the second half only
        assert server.seen[1] == (f'/{kind}/w.pdparams', f'bytes={len(weights[0]) // 2}-')


def test_a_version_that_has_changed_is_not_mixed(server, weights):
    assert fetched(server, 'changed') == weights[0][::-1]
    assert server.seen[1][1]  # it had asked for the rest of the first


@pytest.mark.parametrize('kind, message', [
    ('missing', 'the server says 404 Not Found'),
    ('error', 'the server says 500 Internal Server Error, 4 times; fetch http://127.0.0.1'),
    ('to_http', 'http://192.0.2.1/x.pdparams: got a redirect there, expected https'),
    ('google_wrong', 'does not fit to the hash that the server tells; nothing was kept'),
    ('lfs_wrong', 'does not fit to the hash that the server tells; nothing was kept'),
    ('page', 'got a web page, expected a weight file'),
    ('no_length', 'the server does not say how long the file is'),
    ('huge', 'are free on that disk'),
])
def test_a_fault_is_one_line(kind, message, server):
    text = refusal(fetch_weights, server.url(kind, 'w.pdparams'), MODEL)
    assert message in text
    assert_nothing_loads(server, kind)


def test_a_server_that_stalls_and_what_it_gave_is_used_later(server, weights, monkeypatch):
    monkeypatch.setenv('PADDLE_VITAE_TIMEOUT', '0.5')
    message = refusal(fetch_weights, server.url('stall', 'w.pdparams'), MODEL)
    assert '0.5 s without a byte, 4 times; fetch http://127.0.0.1' in message
    assert_nothing_loads(server, 'stall')
    part = f'{cached(server, "stall")}.part'
    half = os.path.getsize(part)
    assert 0 < half < len(weights[0])
    server.seen.clear()
    server.released.set()  # the server closes the connection at once now, and gives no more
    refusal(fetch_weights, server.url('stall', 'w.pdparams'), MODEL)
    assert server.seen[0][1] == f'bytes={half}-'
    assert os.path.getsize(part) >= half


def test_proxy_of_the_environment(server, weights, monkeypatch):
    monkeypatch.setenv('HTTP_PROXY', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.delenv('NO_PROXY', raising=False)
    monkeypatch.delenv('no_proxy', raising=False)
    path = fetch_weights('http://127.0.0.1:1/good/w.pdparams', MODEL).file  # nobody listens there
    assert content_of(path) == weights[0] and server.count('good', 'w.pdparams') == 1
    monkeypatch.setenv('HTTP_PROXY', 'socks9://a')
    message = refusal(fetch_weights, 'http://127.0.0.1:1/redirect/w.pdparams', MODEL)
    assert 'fetch http://127.0.0.1:1/redirect/w.pdparams' in message


def test_hash_of_the_url(server, weights):
    right = hashlib.sha256(weights[0]).hexdigest()
    message = refusal(fetch_weights, f'{server.url("good", "w.pdparams")}#sha256={"0" * 64}', MODEL)
    assert f'expected {"0" * 64} of the URL; nothing was kept' in message
    assert_nothing_loads(server, 'good')
    assert fetched(server, 'no_length', f'#sha256={right}') == weights[0]
    assert 'expected #sha256=' in refusal(
        fetch_weights, f'{server.url("good", "w.pdparams")}#sha256=12', MODEL)


def test_the_first_download_s_hash_is_pinned(server):
    fetched(server, 'good')
    path = cached(server, 'good')
    os.remove(path)
    server.files['w.pdparams'] = server.files['w.pdparams'][::-1]  # the host has another file now
    message = refusal(fetch_weights, server.url('good', 'w.pdparams'), MODEL)
    assert 'of the first download; nothing was kept' in message
    assert_nothing_loads(server, 'good')
    os.remove(f'{path}.json')  # as the message says
    assert fetched(server, 'good') == server.files['w.pdparams']


def test_a_file_that_was_changed_in_the_cache(server):
    fetched(server, 'good')
    path = cached(server, 'good')
    with open(path, 'r+b') as stream:
        stream.write(b'changed')
    message = refusal(fetch_weights, server.url('good', 'w.pdparams'), MODEL)
    assert 'expected' in message and 'of the first download; remove it' in message
    os.remove(path)
    fetched(server, 'good')
    os.utime(path)  # copied, say: the content is as it was
    fetched(server, 'good')
    assert server.count('good', 'w.pdparams') == 2


def test_no_network_is_one_line_at_once(server, monkeypatch, tmp_path):
    with socket.socket() as closed:  # nobody listens there
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}/w.pdparams'
        register(tmp_path, monkeypatch, tag={'url': url, 'size': '1.30 MiB'})
        code, out, err = run_script(['-m', 'common.predict', '-cfg', MODEL, '-pretrained', 'hub',
                                     ROOT / 'docs/attention.png'], folder='.')
    path = os.path.join(cache_folder(), path_of_url(url))
    assert code == 1 and len(err.splitlines()) == 1
    assert f'cannot connect to 127.0.0.1:{closed and url.split(":")[2].split("/")[0]}' in err
    assert f'fetch {url} (1.30 MiB) by hand and save it as {path}, where it is found' in err


def test_a_pickle_that_would_run_code_is_refused(server, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path / "ran"}',)

    server.files['w.pdparams'] = pickle.dumps({'weight': Attack()})
    message = refusal(create_model, MODEL, server.url('good', 'w.pdparams'))
    assert 'system' in message
    assert not (tmp_path / 'ran').exists()


# several processes, and what the system does to them

FETCH = ('import sys; from common.core.errors import errors_of_a_tool\n'
         'from common.hub.fetch import fetch\n'
         'with errors_of_a_tool():\n    print(fetch(sys.argv[1], "", dict).file)')


def start(server, kind, **options):
    return subprocess.Popen([sys.executable, '-c', FETCH, server.url(kind, 'w.pdparams')], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def end(child):
    out, err = child.communicate(timeout=60)
    return child.returncode, out.strip(), err.splitlines()


def test_two_processes_download_once(server, weights):
    first = start(server, 'slow')
    server.wait_for('slow', 'w.pdparams')
    second = start(server, 'slow')
    line = second.stderr.readline()
    assert f'waiting for process {first.pid}, which downloads' in line
    server.released.set()
    path = cached(server, 'slow')
    assert end(first)[:2] == end(second)[:2] == (0, path)
    assert server.count('slow', 'w.pdparams') == 1
    assert content_of(path) == weights[0]


def test_kill_9_in_the_middle_and_again(server, weights):
    part = f'{cached(server, "slow")}.part'
    for _ in range(2):
        server.seen.clear()
        child = start(server, 'slow')
        server.wait_for('slow', 'w.pdparams')
        while not os.path.exists(part) or not os.path.getsize(part):
            time.sleep(0.02)
        child.kill()
        assert end(child)[0] == -signal.SIGKILL
        assert_nothing_loads(server, 'slow')
    half = os.path.getsize(part)
    server.seen.clear()
    server.released.set()
    assert end(start(server, 'slow'))[:2] == (0, cached(server, 'slow'))
    assert server.seen == [('/slow/w.pdparams', f'bytes={half}-')]
    assert content_of(cached(server, 'slow')) == weights[0]


def test_full_disk_is_one_line(server):
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n'
    child = subprocess.run([sys.executable, '-c', limit + FETCH, server.url('good', 'w.pdparams')],
                           cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in child.stderr.splitlines() if not line.startswith('downloading')]
    assert child.returncode == 1 and len(lines) == 1
    assert 'File too large' in lines[0] and 'PADDLE_VITAE_CACHE' in lines[0]
    assert_nothing_loads(server, 'good')


def drop_override():
    """Makes root obey the permissions of files after exec, as everybody does."""
    prctl, capbset_drop = ctypes.CDLL(None, use_errno=True).prctl, 24
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if os.geteuid() == 0 and prctl(capbset_drop, capability, 0, 0, 0):
            raise OSError('prctl')


def test_read_only_cache(server):
    folder = os.path.dirname(cached(server, 'good'))
    fetched(server, 'redirect')
    os.makedirs(folder)
    there = os.path.dirname(cached(server, 'redirect'))
    for path in (folder, there):
        os.chmod(path, 0o555)
    try:
        code, out, err = end(start(server, 'good', preexec_fn=drop_override))
        assert code == 1 and len(err) == 1 and 'Permission denied' in err[0]
        assert 'PADDLE_VITAE_CACHE names another folder' in err[0]
        # what is there is used
        code, out, err = end(start(server, 'redirect', preexec_fn=drop_override))
        assert (code, out, err) == (0, cached(server, 'redirect'), [])
    finally:
        for path in (folder, there):
            os.chmod(path, 0o755)


def test_a_training_on_two_ranks_downloads_once_and_says_from_where(
        server, monkeypatch, tmp_path, weights):
    register(tmp_path, monkeypatch, first={'url': server.url('good', 'w.pdparams')})
    command = ['main_multi_gpu.py', '-cfg=./configs/vit_digits.yaml', '-dataset=digits',
               f'-output={tmp_path / "out"}', '-nprocs=2', '-o', 'TRAIN.NUM_EPOCHS=1',
               '-o', 'TRAIN.WARMUP_EPOCHS=0.5', '-train_fraction=0.05', '-batch_size=16',
               '-pretrained=hub']
    code, out, err = run_script(command)
    assert code == 0, err
    assert server.count('good', 'w.pdparams') == 1
    sha256 = hashlib.sha256(weights[0]).hexdigest()
    origin = f'{server.url("good", "w.pdparams")} (sha256 {sha256})'
    folder = run_folder(tmp_path / 'out')
    assert f'of {origin}' in (folder / 'log.txt').read_text()
    assert load_pickle(str(folder / 'last.pdparams'))['pretrained'] == origin
    # a fault ends all of it with one line, and leaves no folder
    register(tmp_path, monkeypatch, first={'url': server.url('missing', 'other.pdparams')})
    code, out, err = run_script([*command, f'-output={tmp_path / "other"}'])
    assert code == 1 and len(err.splitlines()) == 1 and '404' in err
    assert os.listdir(tmp_path / 'other') == []


# names

def test_tags_urls_and_paths(server, monkeypatch, tmp_path, weights):
    url = server.url('good', 'w.pdparams')
    register(tmp_path, monkeypatch, first={'url': url}, second={'url': server.url('redirect',
                                                                                 'w.pdparams')})
    for reference in (True, 'hub', 'hub:second', f'hub:{MODEL}/first', url):
        model = create_model(MODEL, pretrained=reference)
        np.testing.assert_array_equal(model.classifier.weight.numpy(), weights[1])
        where = 'redirect' if reference == 'hub:second' else 'good'
        assert model.notes[0].startswith(f'weights of {server.url(where, "w.pdparams")} (sha256 ')
    assert create_model(MODEL, pretrained=False).notes == []
    notes, _ = convert(MODEL, 'hub:second', str(tmp_path / 'converted.pdparams'))
    assert notes[0].startswith(f'weights of {server.url("redirect", "w.pdparams")} (sha256 ')
    # another model's entry, by its name
    model = create_model('vit_digits', num_classes=3, pretrained=f'hub:{MODEL}/first')
    assert 'classifier: new' in model.notes[1]
    assert refusal(create_model, MODEL, 'hub:third').endswith(
        'no such tag of vit_digits; expected one of first, second')
    message = refusal(create_model, 'vitae_13m', 'hub')
    assert "no published weights of 'vitae_13m' are known" in message and 'vitae_tiny' in message
    assert 'no tag' in refusal(create_model, MODEL, 'hub:')


def test_nothing_is_downloaded_unless_it_is_asked_for(server, monkeypatch, tmp_path):
    register(tmp_path, monkeypatch, first={'url': server.url('good', 'w.pdparams')})
    create_model(MODEL)
    run_script(['-m', 'common.pretrained'], folder='.')
    assert not server.seen


@pytest.mark.parametrize('text, message', [
    ('http://example.com/w.pth', 'expected https://HOST/..., or http:// of this machine'),
    ('ftp://example.com/w.pth', 'expected https'), ('file:///etc/passwd', 'expected https'),
    ('https://', 'expected https'), ('https://host:port/w', 'no URL'),
    ('https://example.com', 'expected the URL of a file'),
    ('https://user:secret@example.com/', 'expected the URL of a file'),
    ('https://a.org/w\0.pth', 'no URL'), ('https://a.org/w\x1b[2J.pth', 'no URL'),
    ('hf:timm', 'expected hf:OWNER/NAME'), ('hf:a/b/../../c', 'expected hf:OWNER/NAME'),
])
def test_references_that_are_none(text, message, server):
    got = refusal(fetch_weights, text, MODEL)
    assert message in got and 'secret' not in got


def test_references():
    assert not is_reference('hub.pdparams') and not is_reference('./hub')
    assert parse_hf('hf:timm/vit.augreg@main/a/b.bin') == ('timm/vit.augreg', 'main', 'a/b.bin')
    assert parse_url('https://example.com/a%2Bb.npz') == ('https://example.com/a%2Bb.npz', None)
    paths = {path_of_url(url) for url in (
        'https://a.org/x/w.npz', 'https://b.org/x/w.npz', 'https://a.org/y/w.npz',
        'https://a.org/x/w.npz?key=1', 'https://a.org/x/w.npz?key=2', 'https://a.org:8/x/w.npz')}
    assert len(paths) == 6
    assert path_of_url('https://a.org/../../etc/w.npz') == 'a.org/etc/w.npz'


def test_a_file_of_another_size_than_published_is_not_downloaded(server, monkeypatch, tmp_path):
    register(tmp_path, monkeypatch, rounded={'url': server.url('good', 'w.pdparams'),
                                             'size': '1.40 MiB'},
             exact={'url': server.url('redirect', 'w.pdparams'), 'size': 1000})
    for tag, kind in (('rounded', 'good'), ('exact', 'redirect')):
        message = refusal(fetch_weights, f'hub:{tag}', MODEL)
        size = len(server.files['w.pdparams'])
        assert f'the server has a file of {size} bytes, expected' in message
        assert_nothing_loads(server, kind)
        assert not os.path.exists(f'{cached(server, kind)}.part')


# files that a user fetches by hand

def test_a_file_by_hand_is_found_and_checked(server, monkeypatch, tmp_path, weights):
    sha256 = hashlib.sha256(weights[0]).hexdigest()
    page = 'https://drive.google.com/drive/folders/1'
    register(tmp_path, monkeypatch,
             drive={'page': page, 'file': 'digits.pdparams', 'sha256': sha256[:8],
                    'size': len(weights[0])})
    path = os.path.join(cache_folder(), 'digits.pdparams')
    message = refusal(create_model, MODEL, True)
    assert message == (f'only a browser can fetch these weights: open {page}, download the file '
                       f'({len(weights[0])} bytes) and save it as {path}, where it is found')
    with open(path, 'wb') as stream:  # the message has made the folder
        stream.write(weights[0][:-1])
    assert 'as published; remove it' in refused_by_the_tool('-check', f'{MODEL}/drive')
    with open(path, 'wb') as stream:
        stream.write(weights[0][:-1] + b'x')
    assert f'expected {sha256[:8]} of the registry' in refusal(create_model, MODEL, True)
    with open(path, 'wb') as stream:
        stream.write(weights[0])
    code, out, err = run_script(['-m', 'common.pretrained', '-check', f'{MODEL}/drive'],
                                folder='.')
    assert code == 0, err
    assert f'sha256 {sha256}, as told by the registry, which knows 8 digits' in out
    assert 'loads into vit_digits' in out
    np.testing.assert_array_equal(create_model(MODEL, True).classifier.weight.numpy(), weights[1])


def test_list_of_the_weights(server, monkeypatch, tmp_path, capsys):
    register(tmp_path, monkeypatch, first={'url': server.url('good', 'w.pdparams')},
             second={'url': server.url('cut', 'w.pdparams'), 'acc1': 12.5, 'size': '1.30 MiB'})
    fetch_weights('hub', MODEL)
    pretrained.main(['vit_d*'])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in out.splitlines()
            if line.startswith(f'| {MODEL}')]
    assert [row[1:5] + row[9:10] for row in rows] == [
        ['first', 'pdparams', '-', '-', 'yes'], ['second', 'pdparams', '1.30 MiB', '12.5', 'no']]
    assert refused_by_the_tool('-check', f'{MODEL}/second').startswith(
        f'error: {MODEL}/second: not in the cache; fetch {server.url("cut", "w.pdparams")}')
    assert 'no published weights are known' in refused_by_the_tool('nothing*')


def refused_by_the_tool(*arguments):
    with pytest.raises(SystemExit) as caught:
        pretrained.main(list(arguments))
    assert '\n' not in str(caught.value)
    return str(caught.value)


# the registry

ENTRIES = [pytest.param(entry, id=f'{entry.model}/{entry.tag}')
           for tags in published_weights().values() for entry in tags.values()]


def test_the_registry_names_models_and_files_once():
    for model in published_weights():
        assert model == model_config(model).MODEL.NAME
    files = [(param.values[0].file, param.values[0].model) for param in ENTRIES
             if param.values[0].file]
    assert len({file for file, _ in files}) == len(files)
    for param in ENTRIES:
        entry = param.values[0]
        if entry.acc1 is not None or entry.acc5 is not None:
            assert entry.accuracy_of and 50 < entry.acc1 < 100, param.id


@pytest.mark.parametrize('file', sorted(ROOT.glob('*/configs/[!_]*.yaml')),
                         ids=lambda path: path.stem)
def test_a_yaml_s_weights_are_in_the_registry(file):
    """What a recipe links to is an entry; a model with a plain URL has it as its default."""
    zoo = model_config(file.stem).ZOO
    entries = published_weights().get(file.stem, {})
    if zoo.WEIGHTS:
        assert zoo.WEIGHTS in {entry.url or entry.page for entry in entries.values()}
    if any(entry.url for entry in entries.values()):
        default = next(iter(entries.values()))
        assert default.url and not default.url.startswith('hf:')
        if zoo.ACC1:  # one reference measures the same weights as another, but for its crop
            assert default.acc1 == pytest.approx(zoo.ACC1, abs=0.3)


@pytest.mark.parametrize('entry', ENTRIES)
def test_an_entry_fits_its_model(entry):
    """The patch and the size of an image in a file's name, and the number of bytes that its
    parameters take."""
    config, name = model_config(entry.model), entry.url or entry.file
    sizes = {224, 384} & {int(number) for number in numbers_of(name)}
    assert not sizes or sizes == {entry.image_size}
    patch = [int(number) for number in numbers_of(name) if number in ('14', '16', '32')]
    if config.MODEL.TYPE == 'vit' and patch and 'r50' not in entry.model:
        assert patch[0] == config.MODEL.PATCH_SIZE
    if entry.sha256:
        assert entry.sha256 in name  # the digits of its name
    if entry.size is None or entry.format != 'npz':
        return
    options = [f'MODEL.{key}={value}' for key, value in (entry.config or {}).items()]
    with paddle.LazyGuard():
        model = create_model(entry.model, image_size=entry.image_size, options=options)
    expected = 4 * sum(int(np.prod(value.shape)) for value in model.state_dict().values())
    low, high = size_range(entry.size)
    # names and headers are less than 0.1 %
    assert low <= expected * 1.001 and expected <= high


def numbers_of(name):
    """The numbers between letters in a file's name."""
    stem = name.rpartition('/')[2]
    digits = ''.join(char if char.isdigit() else ' ' for char in stem)
    return digits.split()


@pytest.mark.parametrize('values, message', [
    ({'url': 'https://a.org/w'}, 'format: is missing'),
    ({'format': 'npz', 'origin': 'x', 'image_size': 1}, 'expected a url, or a page with a file'),
    ({'format': 'npz', 'origin': 'x', 'image_size': 1, 'page': 'https://a.org', 'file': '../w'},
     'expected the name of a file'),
    ({'format': 'zip', 'origin': 'x', 'image_size': 1, 'url': 'https://a.org/w'}, 'expected one'),
    ({'format': 'npz', 'origin': 'x', 'image_size': 1, 'url': 'https://a.org/w',
      'sha256': 12345678}, 'in quotes'),
    ({'format': 'npz', 'origin': 'x', 'image_size': 1, 'url': 'https://a.org/w', 'size': 'big'},
     'expected bytes'),
    ({'acc': 1}, 'no such key'),
])
def test_a_wrong_registry_is_one_line(values, message):
    with pytest.raises(InputError, match=message):
        make_entry('own.yaml', 'vit_digits', 'tag', values)


# the Hugging Face hub

def test_without_huggingface_hub_the_extra_is_named(server):
    code, out, err = run_script(
        ['-c', 'import sys; sys.modules["huggingface_hub"] = None\n'
         'from common.zoo import create_model\n'
         'try:\n    create_model("vit_digits", "hf:timm/a")\n'
         'except ValueError as error:\n    print(error)'], folder='.')
    assert code == 0 and 'pip install huggingface_hub (the extra "hub")' in out


def test_hugging_face_hub_by_a_mirror(server, weights, monkeypatch, tmp_path):
    """A repository's weights come from HF_ENDPOINT, once; then they are there offline."""
    pytest.importorskip('huggingface_hub', reason='huggingface_hub is missing (the extra hub)')
    arrays = {name: np.ascontiguousarray(value.numpy())
              for name, value in create_model(MODEL).state_dict().items()}
    content = save(arrays, metadata={'format': 'paddle'})
    sha256 = hashlib.sha256(content).hexdigest()
    name = 'a/b/resolve/main/model.safetensors'
    server.files[name] = content
    use = ('import sys; from common.zoo import create_model\n'
           'for reference in sys.argv[1:]:\n    try:\n'
           '        print(create_model("vit_digits", reference).notes[0])\n'
           '    except ValueError as error:\n        print("refused:", error)')
    monkeypatch.setenv('HF_ENDPOINT', server.url('hf', '').rstrip('/'))
    monkeypatch.setenv('HF_HUB_DISABLE_XET', '1')
    code, out, err = run_script(['-c', use, 'hf:a/b', 'hf:a/b', 'hf:a/b/other.bin', 'hf:a/none'],
                                folder='.')
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == lines[1] == f'weights of hf:a/b (sha256 {sha256})'
    assert lines[2] == 'refused: hf:a/b: has no other.bin; hf:a/b/FILE names another one'
    assert lines[3].startswith('refused: hf:a/none: no such repository')
    assert server.count('hf', name) == 1
    server.seen.clear()
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    code, out, err = run_script(['-c', use, 'hf:a/b', 'hf:a/c'], folder='.')
    lines = out.splitlines()
    assert lines[0] == f'weights of hf:a/b (sha256 {sha256})'
    assert 'HF_HUB_OFFLINE is set; fetch ' in lines[1] and len(lines) == 2
    assert not server.seen
    # without a connection: what is there is used, the rest is one line
    monkeypatch.delenv('HF_HUB_OFFLINE')
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{closed.getsockname()[1]}')
        code, out, err = run_script(['-c', use, 'hf:a/b', 'hf:a/c'], folder='.')
    lines = out.splitlines()
    assert lines[0] == f'weights of hf:a/b (sha256 {sha256})' and len(lines) == 2
    assert lines[1].startswith('refused: cannot connect to 127.0.0.1:')
