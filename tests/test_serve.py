"""The demo page: a real server in a child process, plain HTTP, and a browser."""
import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from PIL import Image

from common import serve
from common.apis import Preprocessing, inference_model, init_model, pixel_batches
from common.attention_maps import attention_maps
from common.convert import save
from common.core.errors import InputError
from common.export import export_model
from common.serving import guard, pictures
from common.serving import service as services
from common.serving.answers import Refused
from common.serving.guard import Exchange, Guard
from common.serving.pictures import read_picture, seen_box
from common.serving.server import hosts_of, listen, make_server
from common.serving.service import MAX_WAITING, Service
from common.zoo import create_model
from tests.conftest import ROOT, refusal, run_script
from tests.test_images import rle_bmp

for module in ('fastapi', 'uvicorn', 'python_multipart'):
    pytest.importorskip(module, reason="the extra 'serve' is not installed")

# A class's name is the checkpoint's or a file's: text that the page must not take for its own.
MARKUP = '<img src=x onerror="document.title=\'run\'"><script>document.title=\'run\'</script>'
CLASSES = [f'{MARKUP} {number}' for number in range(10)]
BOMB_BODY = 100 << 20


def png(width, height, mode='RGB', **options):
    stream = io.BytesIO()
    Image.new(mode, (width, height), 90).save(stream, 'PNG', **options)
    return stream.getvalue()


def picture(width=40, height=24, seed=0):
    """A PNG file of noise, and its Pillow image."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue(), Image.fromarray(pixels)


def form(content, name='picture.png', kind='image/png', field='file'):
    """A multipart/form-data body with one file, and its headers."""
    head = (f'--limit\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            f'Content-Type: {kind}\r\n\r\n').encode()
    return (head + content + b'\r\n--limit--\r\n',
            {'Content-Type': 'multipart/form-data; boundary=limit'})


class Client:
    """Speaks to a server of this machine."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, body=None, headers=None, method=None, timeout=20, **options):
        """(status, headers, body); the body of JSON is what it says."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method or ('POST' if body is not None else 'GET'), path, body,
                               headers or {}, **options)
            answer = connection.getresponse()
            content = answer.read()
        if answer.getheader('Content-Type') == 'application/json':
            content = json.loads(content)
        return answer.status, answer.headers, content

    def send(self, content, path='/api/predict', **names):
        return self.ask(path, *form(content, **names))

    def refused(self, status, *args, **options):
        """The one line of a refusal."""
        found, headers, content = self.ask(*args, **options)
        assert found == status, content
        assert list(content) == ['detail'], content
        assert 0 < len(content['detail']) < 400 and '\n' not in content['detail']
        check_headers(headers)
        return content['detail']

    def open(self, data):
        connection = socket.create_connection(('127.0.0.1', self.port), timeout=20)
        connection.sendall(data)
        return connection


class Server(Client):
    """python -m common.serve in a folder of its own, with its temporary files in there."""

    def __init__(self, folder, weights, *flags):
        self.folder = folder
        (folder / 'temporary').mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'common.serve', '-cfg', 'vit_digits',
             '-pretrained', weights, '-port', '0', *flags], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=open(folder / 'stderr', 'w'),  # noqa: SIM115
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'TMPDIR': str(folder / 'temporary')})
        line = self.process.stdout.readline()
        super().__init__(int(re.search(r'http://127\.0\.0\.1:(\d+)/', line)[1]))

    def memory(self, name):
        """A line of /proc/PID/status in MB."""
        with open(f'/proc/{self.process.pid}/status') as stream:
            return int(re.search(rf'{name}:\s+(\d+) kB', stream.read())[1]) / 1000

    def forget_peak(self):
        with open(f'/proc/{self.process.pid}/clear_refs', 'w') as stream:
            stream.write('5')

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


def check_headers(headers):
    assert headers['X-Content-Type-Options'] == 'nosniff'
    assert headers['Referrer-Policy'] == 'no-referrer'
    assert headers['Cache-Control'] == 'no-store'
    assert "frame-ancestors 'none'" in headers['Content-Security-Policy']
    assert 'Server' not in headers


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Random ones, larger than usual, so that classes and maps differ."""
    file = tmp_path_factory.mktemp('weights') / 'random.pdparams'
    paddle.seed(1)
    model = create_model('vit_digits')
    model.classifier.weight.set_value(paddle.randn(model.classifier.weight.shape))
    for cell in model.cells():
        cell.attn.qkv.weight.set_value(cell.attn.qkv.weight * 4)
    save(model, str(file))
    return str(file)


@pytest.fixture(scope='module')
def server(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp('server')
    names = folder / 'names.txt'
    names.write_text('\n'.join(CLASSES))
    server = Server(folder / 'run', weights, '-o', f'DATA.CLASS_NAMES={names}')
    yield server
    code = server.stop()
    assert (code, (server.folder / 'stderr').read_text()) == (0, '')  # no traceback of any test


@pytest.fixture(scope='module')
def model(weights):
    return init_model('vit_digits', weights)


@contextlib.contextmanager
def in_process(service):
    """A server in a thread of this process."""
    listener = listen('127.0.0.1', 0)
    server = make_server(service, {'127.0.0.1'})
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
    thread.start()
    try:
        yield Client(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)


# What it answers

def test_classes_are_those_of_the_python_interface(server, model):
    content, image = picture()
    status, headers, found = server.send(content, '/api/predict?topk=3')
    scores = inference_model(model, image)['pred_scores']
    best = scores.argsort()[::-1][:3]
    assert status == 200
    assert [one['label'] for one in found['classes']] == best.tolist()
    assert [one['name'] for one in found['classes']] == [CLASSES[label] for label in best]
    np.testing.assert_allclose([one['score'] for one in found['classes']], scores[best], 1e-4)
    check_headers(headers)
    assert len(server.send(content)[2]['classes']) == 5
    assert len(server.send(content, '/api/predict?topk=99')[2]['classes']) == 10


def test_maps_are_those_of_attention_maps(server, model):
    content, image = picture(32, 32)
    pixels, _ = next(pixel_batches(Preprocessing.of(model.config), [image], 1))
    expected = attention_maps(model, pixels, layer=1)                     # [4, 4, 4]
    for head, maps in (('all', expected), ('mean', expected.mean(axis=0, keepdims=True)),
                       ('2', expected[2:3]), ('-1', expected[3:])):
        status, _, found = server.send(content, f'/api/attention?layer=1&head={head}')
        assert (status, found['layer'], found['head']) == (200, 1, head)
        np.testing.assert_allclose(found['maps'], maps, atol=2e-6)
        assert found['box'] == [0, 0, 1, 1]
    assert server.send(content, '/api/attention')[2]['layer'] == 3


def test_model_and_description(server):
    status, headers, facts = server.ask('/api/model')
    assert status == 200
    assert facts == {
        'name': 'vit_digits', 'classes': 10, 'class_names': CLASSES, 'image_size': [32, 32],
        'layers': 4, 'heads': [4] * 4,
        'limits': {'bytes': 16 << 20, 'pixels': 12_500_000, 'side': 8192}, 'upright': True,
        'multi_label': False}
    paths = server.ask('/openapi.json')[2]['paths']
    assert set(paths) == {'/api/model', '/api/predict', '/api/attention'}


@pytest.mark.smoke
def test_box_is_what_the_preprocessing_leaves():
    """A white box on black, as large as is said, is all white to the model."""
    preprocessing = Preprocessing([32, 48], 0.8, 'bilinear', [0] * 3, [1] * 3)
    for width, height in ((400, 300), (300, 400), (900, 300)):
        left, top, across, down = seen_box(preprocessing, width, height)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[round(top * height):round((top + down) * height),
               round(left * width):round((left + across) * width)] = 255
        seen = preprocessing.transform()(Image.fromarray(pixels))         # [32, 48, 3]
        assert seen[1:-1, 1:-1].min() == 255
        assert 0 < across <= 1 and 0 < down <= 1 and min(left, top) >= 0
        # and no larger box is
        assert abs(across * width / (down * height) - 48 / 32) < 0.05


@pytest.mark.parametrize('path, said', [
    ('/api/predict?topk=0', 'topk: got 0, expected at least 1'),
    ('/api/predict?topk=many', 'topk: '),
    ('/api/attention?layer=4', 'layer: got 4, expected -4 to 3'),
    ('/api/attention?head=4', 'head: got 4, expected -4 to 3'),
    ('/api/attention?head=first', "head: expected a number, 'mean' or 'all'"),
])
def test_wrong_parameters(server, path, said):
    assert server.refused(422, path, *form(picture()[0])).startswith(said)


def test_model_without_a_map_says_why(model, monkeypatch):
    def refuse(*args):
        raise InputError('attention: this model has none')

    monkeypatch.setattr(services, 'attention_maps', refuse)
    with in_process(Service(model)) as client:
        said = client.refused(422, '/api/attention', *form(picture()[0]))
        assert said == 'attention: this model has none'
        assert client.send(picture()[0])[0] == 200


def test_an_export_is_served_without_maps(model, tmp_path):
    export_model(model, tmp_path / 'new', 'paddle')
    flags = serve.make_parser().parse_args(['-exported', str(tmp_path / 'new')])
    content, image = picture()
    with in_process(Service(serve.model_or_export(flags))) as client:
        facts = client.ask('/api/model')[2]
        assert (facts['name'], facts['classes']) == ('vit_digits', 10)
        assert (facts['layers'], facts['heads']) == (0, [])
        expected = inference_model(model, image)['pred_scores']
        for one in client.send(content)[2]['classes']:
            assert one['score'] == pytest.approx(expected[one['label']], rel=1e-3)
        said = client.refused(422, '/api/attention', *form(content))
        assert said == 'layer: an exported graph has no attention to show'


@pytest.mark.parametrize('flags, message', [
    ('', "-pretrained: got none, expected weights, a run's folder, or -exported"),
    ('-pretrained x -runtime onnx', '-runtime: got it without -exported: attention is shown by '
                                    'the model'),
    ('-exported x -pretrained y', '-exported: got -pretrained too, expected one of the two')])
def test_which_model_is_served(flags, message):
    assert refusal(serve.model_or_export, serve.make_parser().parse_args(flags.split())) == message


# Faults

def jpeg_of_many_scans(count=20_000):
    """A progressive JPEG whose last scan, 23 bytes, is repeated: two minutes for a decoder."""
    stream = io.BytesIO()
    Image.new('RGB', (3000, 3000), (20, 100, 200)).save(stream, 'JPEG', progressive=True)
    content = stream.getvalue()
    scan = content[content.rindex(b'\xff\xda'):-2]
    return content[:-2] + count * scan + content[-2:]


def png_that_claims(width, height):
    """A PNG file whose header says another size than its data has."""
    content = png(8, 8)
    header = content[12:16] + struct.pack('>II', width, height) + content[24:29]
    return content[:12] + header + struct.pack('>I', zlib.crc32(header)) + content[33:]


def other_format(name):
    """A good file of a format that Pillow knows and the page does not take."""
    stream = io.BytesIO()
    Image.new('RGB', (8, 8), 90).save(stream, name)
    return stream.getvalue()


def webp_of_one_colour():
    stream = io.BytesIO()
    Image.new('RGB', (3000, 3000), 90).save(stream, 'WEBP', lossless=True, method=0)
    return stream.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>1</script></svg>'
UPLOADS = {
    'bomb of 100 million pixels': (413, lambda: png(10_000, 10_000, '1'), 'image/png'),
    'bomb of 400 million pixels': (413, lambda: png_that_claims(20_000, 20_000), 'image/png'),
    'bomb within the sides': (413, lambda: png(8000, 8000, '1'), 'image/png'),
    'bomb of 16 bits': (413, lambda: png(3000, 3000, 'I;16'), 'image/png'),
    'bomb of 38 bytes': (413, webp_of_one_colour, 'image/webp'),
    'many scans': (413, jpeg_of_many_scans, 'image/jpeg'),
    'wide': (413, lambda: png(10_000, 1), 'image/png'),
    'high': (413, lambda: png(1, 10_000), 'image/png'),
    'body beyond the limit': (413, lambda: bytes(BOMB_BODY), 'image/png'),
    'text': (415, lambda: b'hello', 'text/plain'),
    'text that says it is a picture': (415, lambda: b'hello', 'image/png'),
    'empty': (415, lambda: b'', 'image/png'),
    'SVG': (415, lambda: SVG, 'image/svg+xml'),
    'EPS': (415, lambda: other_format('EPS'), 'image/eps'),  # Pillow would start Ghostscript
    'TIFF': (415, lambda: other_format('TIFF'), 'image/tiff'),
    'wrong content type': (415, lambda: png(8, 8), 'text/html'),
    'truncated': (400, lambda: picture(300, 300)[0][:-2000], 'image/png'),
}


@pytest.mark.parametrize('name', UPLOADS)
def test_hostile_upload_is_refused_and_costs_little_G1(server, name):
    status, make, kind = UPLOADS[name]
    body = form(make(), kind=kind)
    server.forget_peak()
    before = server.memory('VmRSS')
    server.refused(status, '/api/predict', *body, timeout=10)
    server.refused(status, '/api/attention', *body, timeout=10)
    assert server.memory('VmHWM') - before < 200
    assert server.send(picture()[0])[0] == 200


def test_body_is_counted_as_it_comes_G1(server):
    """Without a Content-Length the limit holds for what has come; the rest is not kept."""
    chunk = bytes(1 << 20)
    server.forget_peak()
    before = server.memory('VmRSS')
    head, headers = form(b'')
    server.refused(413, '/api/predict', (chunk if number else head[:-13] for number in range(100)),
                   headers, encode_chunked=True, timeout=20)
    assert server.memory('VmHWM') - before < 100
    assert not list((server.folder / 'temporary').iterdir())


@pytest.mark.parametrize('headers', [
    {'Content-Type': 'application/json'}, {'Content-Type': 'image/png'}, {},
    {'Content-Type': 'application/x-www-form-urlencoded'}])
def test_other_body_is_refused_G1(server, headers):
    server.refused(415, '/api/predict', b'{"file": "x.png"}', headers)


def test_broken_form_is_refused_G1(server):
    body, headers = form(picture()[0])
    server.refused(400, '/api/predict', body.replace(b'limit', b'lemon'), headers)
    server.refused(422, '/api/predict', *form(picture()[0], field='picture'))
    server.refused(400, '/api/predict', body, {'Content-Type': 'multipart/form-data'})


@pytest.mark.parametrize('kind, size, options', [
    ('PNG', (4032, 3024), {}), ('JPEG', (3024, 4032), {'progressive': True, 'subsampling': 0}),
    ('WEBP', (2880, 2160), {'lossless': True, 'method': 0})])
def test_largest_picture_is_taken_G1(server, kind, size, options):
    stream = io.BytesIO()
    Image.new('RGB', size, (200, 10, 10)).save(stream, kind, **options)
    server.forget_peak()
    before = server.memory('VmRSS')
    assert server.send(stream.getvalue())[0] == 200
    assert server.send(stream.getvalue(), '/api/attention')[0] == 200
    assert server.memory('VmHWM') - before < 200


NAMES = ('../../outside.png', '/tmp/outside.png', MARKUP.replace('"', '%22'), 'a\0b.png',
         'x' * 4096 + '.png', 'picture.png\\..\\outside')


@pytest.mark.parametrize('name', NAMES, ids=range(len(NAMES)))
def test_name_of_a_file_goes_nowhere_G2(server, name):
    def files():
        return sorted(server.folder.parent.rglob('*'))

    before = files()
    large = picture(800, 800)[0]  # beyond what is held in memory: goes through a temporary file
    assert len(large) > 1 << 20
    for content, statuses in ((large, (200,)), (b'hello', (415,))):
        status, _, found = server.send(content, name=name)
        # a form's reader may refuse the name itself
        assert status in statuses or (status, '\0' in name) == (400, True)
        assert 'outside' not in json.dumps(found) and MARKUP[:4] not in found.get('detail', '')
    assert files() == before
    assert not os.path.exists('/tmp/outside.png')


def test_many_uploads_broken_and_half_open_connections_G3(server):
    body, headers = form(png(3000, 3000))  # some tenths of a second each
    head = (f'POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n'
            f'Content-Type: {headers["Content-Type"]}\r\n\r\n').encode()
    half_open = [server.open(data) for data in
                 5 * [b'POST /api/pre', head + body[:1000]]]
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: server.ask('/api/predict', body, headers),
                                   range(50)))
    counts = {status: sum(found[0] == status for found in answers) for status in (200, 503)}
    assert sum(counts.values()) == 50 and min(counts.values()) > 0, counts
    for status, found_headers, content in answers:
        if status == 503:
            assert found_headers['Retry-After'] == '1'
            assert 'try again' in content['detail']
    for connection in [server.open(head + body) for _ in range(10)]:  # and gone
        connection.close()
    # the half-open connections are still there
    wait_for(lambda: server.ask('/api/predict', *form(picture()[0]), timeout=5)[0] == 200, 5)
    for connection in half_open:
        connection.close()
    assert server.ask('/api/model', timeout=5)[0] == 200


def test_silent_connection_and_slow_body_are_closed_G3(model, monkeypatch):
    monkeypatch.setattr('common.serving.server.HEADER_SECONDS', 0.3)
    monkeypatch.setattr(guard, 'BODY_SECONDS', 0.3)
    monkeypatch.setattr(guard, 'DRAIN_SECONDS', 0.1)
    with in_process(Service(model)) as client:
        for data in (b'', b'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: '):
            with client.open(data) as connection, contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b''
        head = (b'POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n'
                b'Content-Type: multipart/form-data; boundary=limit\r\n\r\n--limit')
        with client.open(head) as connection:
            assert connection.recv(100).startswith(b'HTTP/1.1 408 ')
        assert client.send(picture()[0])[0] == 200


def test_queue_has_an_end_and_who_has_gone_is_not_computed_for_G3(model, monkeypatch):
    """Some wait behind a slow one, and leave: the model sees the slow one and the last only."""
    seen, first, go_on = [], threading.Event(), threading.Event()
    service = Service(model)
    predict = service.predict

    def slow(content, topk, threshold):
        seen.append(topk)
        first.set()
        go_on.wait(20)
        return predict(content, topk, threshold)

    monkeypatch.setattr(service, 'predict', slow)
    body, headers = form(picture()[0])
    with in_process(service) as client, ThreadPoolExecutor(1) as threads:
        slow_one = threads.submit(client.send, picture()[0], '/api/predict?topk=1')
        assert first.wait(20)
        head = (f'POST /api/predict?topk=2 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: '
                f'{len(body)}\r\nContent-Type: {headers["Content-Type"]}\r\n\r\n').encode()
        waiting = [client.open(head + body) for _ in range(MAX_WAITING - 1)]
        wait_for(lambda: service.waiting == MAX_WAITING)
        assert 'busy' in client.refused(503, '/api/predict', body, headers)
        assert client.ask('/api/model')[0] == 200
        for connection in waiting:
            connection.close()
        time.sleep(0.2)
        go_on.set()
        assert slow_one.result()[0] == 200
        wait_for(lambda: service.waiting == 0)
        assert client.send(picture()[0], '/api/predict?topk=3')[0] == 200
    assert seen == [1, 3]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_uploads_have_an_end_G3(model, monkeypatch):
    monkeypatch.setattr(guard, 'MAX_UPLOADS', 2)
    body, headers = form(picture()[0])
    with in_process(Service(model)) as client:
        head = (b'POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n'
                b'Content-Type: multipart/form-data; boundary=limit\r\n\r\n--limit')
        slow = [client.open(head) for _ in range(2)]
        wait_for(lambda: client.ask('/api/predict', body, headers)[0] == 503)
        for connection in slow:
            connection.close()
        wait_for(lambda: client.ask('/api/predict', body, headers)[0] == 200, 5)


def chunk(kind, content):
    return struct.pack('>I', len(content)) + kind + content + struct.pack(
        '>I', zlib.crc32(kind + content))


def png_of_parts(part):
    content, start = png(8, 8), 33  # after the header
    return content[:start] + part * ((4 << 20) // len(part)) + content[start:]


def png_of_small_parts():
    data = zlib.compress(bytes(3001 * 3000), 0)[:300_000]
    header = struct.pack('>IIBBBBB', 3000, 3000, 8, 0, 0, 0, 0)
    return b''.join([b'\x89PNG\r\n\x1a\n', chunk(b'IHDR', header),
                     *(chunk(b'IDAT', data[i:i + 1]) for i in range(len(data)))])


def jpeg_of_parts(part):
    stream = io.BytesIO()
    Image.new('RGB', (8, 8), 90).save(stream, 'JPEG')
    content = stream.getvalue()
    return content[:2] + part * ((4 << 20) // len(part)) + content[2:]


def gif_of_parts():
    stream = io.BytesIO()
    Image.new('P', (8, 8)).save(stream, 'GIF')
    content = stream.getvalue()
    start = content.index(b',')
    return content[:start] + b'!\xfe' + b'\x01x' * (2 << 20) + b'\0' + content[start:]


SLOW = {
    'RLE BMP of 12 kB': (400, lambda: rle_bmp(3500, 3500, 2700 * b'\1\1\0\0')),
    'RLE BMP of 4 MB': (400, lambda: rle_bmp(3500, 3500, (2 << 20) * b'\0\0')),
    'PNG, empty parts': (413, lambda: png_of_parts(chunk(b'abCD', b''))),
    'PNG, small parts': (413, png_of_small_parts),
    'JPEG, empty parts': (413, lambda: jpeg_of_parts(b'\xff\xfe\0\2')),
    'JPEG, filled up': (413, lambda: jpeg_of_parts(b'\xff')),
    'GIF, small parts': (413, gif_of_parts),
}


@pytest.mark.smoke
@pytest.mark.parametrize('name', SLOW)
def test_picture_that_takes_long_to_read_is_refused_G5(name):
    """Seconds each, of 16 MB up to 16: Pillow goes through them step by step in Python."""
    status, make = SLOW[name]
    content, begin = make(), time.thread_time()
    with pytest.raises(Refused) as refused:
        read_picture(content)
    assert time.thread_time() - begin < 1
    assert refused.value.status == status
    assert 'run-length' in str(refused.value) or 'very many small parts' in str(refused.value)


@pytest.mark.smoke
@pytest.mark.parametrize('kind, size', [('PNG', (1200, 1000)), ('JPEG', (1200, 1000)),
                                        ('GIF', (500, 400)), ('BMP', (500, 400))])
def test_ordinary_picture_needs_few_steps_G5(kind, size, monkeypatch):
    """Of noise, so that the file is as large as it can be: half of the steps are enough."""
    pixels = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    monkeypatch.setattr(pictures, 'MIN_STEPS', pictures.MIN_STEPS // 2)
    monkeypatch.setattr(pictures, 'STEP_BYTES', pictures.STEP_BYTES * 2)
    assert read_picture(stream.getvalue()).size == size


def test_uploads_in_chunks_of_a_byte_are_cut_off_G5(model):
    """200,000 chunks each, of eight clients; others were to wait for all of them."""
    head = form(b'')[0][:-13]
    start = (b'POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n'
             b'Content-Type: multipart/form-data; boundary=limit\r\n\r\n'
             + b'%x\r\n%b\r\n' % (len(head), head))

    def upload(_):
        with client.open(start) as connection, \
                contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(200_000 * b'1\r\nx\r\n')
            return connection.recv(100)
        return b''

    with in_process(Service(model)) as client, ThreadPoolExecutor(8) as threads:
        uploads = threads.map(upload, range(8))
        assert client.ask('/api/model')[0] == 200
        assert client.send(picture()[0])[0] == 200
        assert list(uploads) == 8 * [b'']
        body, headers = form(picture()[0])
        pieces = [body[i:i + 300] for i in range(0, len(body), 300)]
        assert client.ask('/api/predict', iter(pieces), headers, encode_chunked=True)[0] == 200


@pytest.mark.smoke
def test_others_have_their_turn_while_a_form_is_read_G5():
    body = bytes(range(256)) * 1000
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def arrived():
        return {'type': 'http.request', 'body': body, 'more_body': False}

    async def read():
        other, exchange = asyncio.ensure_future(others()), Exchange(arrived, None)
        pieces, more = [], True
        while more:
            event = await exchange.receive()
            pieces.append(event['body'])
            more = event['more_body']
        other.cancel()
        return pieces

    pieces = asyncio.run(read())
    assert b''.join(pieces) == body and max(map(len, pieces)) <= guard.FORM_BYTES
    assert turns >= len(pieces) > 10


def test_this_machine_only_G4(server):
    assert serve.make_parser().parse_args(['-cfg', 'a', '-pretrained', 'b']).host == '127.0.0.1'
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(('127.0.0.2', server.port), timeout=5)


@pytest.mark.parametrize('host, status', [
    ('localhost', 200), ('127.0.0.1:1', 200), ('[::1]:8000', 200), ('LOCALHOST:8000', 200),
    ('evil.example', 400), ('127.0.0.1.evil.example', 400), ('localhost@evil.example', 400),
    ('192.0.2.1', 400), ('', 400)])
def test_other_names_are_not_served_G4(server, host, status):
    """Else a web site could have its own name point to this server, and read what it answers."""
    assert server.ask('/api/model', headers={'Host': host})[0] == status


@pytest.mark.smoke
def test_names_of_an_address_G4():
    own = Guard(None, hosts_of('box.example', '192.0.2.1'))
    assert all(map(own.serves, ('box.example:80', '192.0.2.1', 'localhost')))
    assert not own.serves('192.0.2.2')
    everywhere = Guard(None, hosts_of('0.0.0.0', '0.0.0.0'))
    assert all(map(everywhere.serves, ('192.0.2.2:8000', '[2001:db8::1]', socket.gethostname())))
    assert not everywhere.serves('evil.example')


def test_nothing_of_the_machine_can_be_asked_for_G4(server, weights):
    for path in ('/serve.py', '/etc/passwd', '/../../../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd',
                 '/static/..%2f..%2fetc/passwd', '/docs/../serve.py'):
        assert server.refused(404, path) == 'Not Found'
    content = picture()[0]
    expected = server.send(content)[2]
    body, headers = form(content)
    field = (f'--limit\r\nContent-Disposition: form-data; name="pretrained"\r\n\r\n{weights}\r\n'
             .encode())
    query = '/api/predict?pretrained=/etc/passwd&cfg=/etc/passwd&file=/etc/passwd'
    assert server.ask(query, field + body, headers)[2] == expected
    server.refused(422, '/api/predict', field + b'--limit--\r\n', headers)
    assert server.ask('/api/predict')[0] == 405


def test_other_web_site_cannot_send_G4(server):
    body, headers = form(picture()[0])
    for site, status in (('cross-site', 403), ('same-origin', 200), ('none', 200)):
        assert server.ask('/api/predict', body, {**headers, 'Sec-Fetch-Site': site})[0] == status
    answer = server.ask('/api/model', headers={'Origin': 'http://evil.example'})
    assert 'Access-Control-Allow-Origin' not in answer[1]


def test_security_headers_G4(server):
    for path in ('/', '/docs', '/openapi.json', '/api/model', '/nothing'):
        _, headers, _ = server.ask(path)
        check_headers(headers)
    _, headers, page = server.ask('/')
    policy = headers['Content-Security-Policy']
    assert policy.startswith("default-src 'self'") and 'unsafe' not in policy
    assert policy.count("'sha256-") == 2 and 'http' not in policy
    assert not re.search(rb'(src|href)="?(https?:)?//', page)  # one file, nothing of other hosts
    assert not re.search(rb'\.innerHTML|insertAdjacentHTML|document\.write| on\w+=', page)


def test_failure_is_not_shown_G4(model, monkeypatch, caplog):
    service = Service(model)
    monkeypatch.setattr(service, 'predict', lambda *args: {}['a secret'])
    with in_process(service) as client:
        said = client.refused(500, '/api/predict', *form(picture()[0]))
        assert said == 'the server has failed; its log says why'
        assert client.ask('/api/model')[0] == 200


# The command

def test_taken_port_and_wrong_flags_are_one_line(server, weights):
    said = refusal(listen, '127.0.0.1', server.port)
    assert f'-port {server.port}' in said and 'in use' in said
    assert '-port: got 70000' in refusal(listen, '127.0.0.1', 70000)
    assert '-host' in refusal(listen, 'no.such.host.invalid', 0)
    code, out, error = run_script(['-m', 'common.serve', '-cfg', 'vit_digits', '-pretrained',
                                   weights, '-port', server.port], folder='.')
    assert (code, out, error.count('\n')) == (1, '', 1) and error.startswith('error: ')


def test_missing_extra_is_named(tmp_path, weights):
    (tmp_path / 'fastapi.py').write_text('raise ImportError("none", name="fastapi")')
    code, out, error = run_script(
        ['-m', 'common.serve', '-cfg', 'vit_digits', '-pretrained', weights], folder='.',
        env={'PYTHONPATH': str(tmp_path)})
    assert (code, out) == (1, '')
    assert error == "error: the demo page needs fastapi: pip install 'paddle-vitae[serve]'\n"


def test_ctrl_c_ends_it_also_with_an_upload_under_way(tmp_path, weights):
    server = Server(tmp_path / 'run', weights)
    body, headers = form(picture()[0])
    with server.open(f'POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n'
                     f'Content-Type: {headers["Content-Type"]}\r\n\r\n'.encode() + body[:50]):
        time.sleep(0.2)
        assert server.stop(signal.SIGINT) == 0
    assert 'Traceback' not in (tmp_path / 'run' / 'stderr').read_text()


@pytest.mark.smoke
def test_drain_ends_with_the_client():
    """An answer before the end of the body: the rest is read and thrown away."""
    events = [{'type': 'http.request', 'body': b'x' * 10, 'more_body': True}] * 3 + \
        [{'type': 'http.disconnect'}]
    sent = []

    async def receive():
        return events.pop(0)

    async def send(event):
        sent.append(event)

    async def main():
        exchange = Exchange(receive, send)
        assert (await exchange.receive())['body'] == b'x' * 10
        assert (await exchange.refuse(413, 'no'))['type'] == 'http.disconnect'
        await exchange.send({'type': 'http.response.start', 'status': 200, 'headers': []})

    asyncio.run(main())
    assert events == []
    assert [event.get('status') for event in sent] == [413, None, None]
    assert [event.get('more_body') for event in sent] == [None, True, None]


# The page, in a browser

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or \
    shutil.which('google-chrome')


class Browser:
    """Headless Chromium, driven through a pair of pipes by its DevTools protocol."""

    def __init__(self, folder):
        (read_down, self.down), (up, write_up) = os.pipe(), os.pipe()
        # Chromium looks for the pipes at the descriptors 3 and 4
        move = ('import fcntl, os, sys\n'
                f'down = fcntl.fcntl({read_down}, fcntl.F_DUPFD, 10)\n'
                f'up = fcntl.fcntl({write_up}, fcntl.F_DUPFD, 10)\n'
                'os.dup2(down, 3), os.dup2(up, 4)\n'
                'os.execv(sys.argv[1], sys.argv[1:])')
        self.process = subprocess.Popen(
            [sys.executable, '-c', move, CHROMIUM, '--headless', '--no-sandbox',
             '--disable-gpu', '--disable-quic', '--no-first-run',
             '--disable-background-networking', '--disable-component-update', '--disable-sync',
             f'--user-data-dir={folder}', '--remote-debugging-pipe', 'about:blank'],
            pass_fds=(read_down, write_up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_down)
        os.close(write_up)
        self.up = os.fdopen(up, 'rb')
        self.number, self.session, self.complaints = 0, {}, []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = {'sessionId': self.call('Target.attachToTarget', targetId=target,
                                               flatten=True)['sessionId']}
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')

    def call(self, method, **params):
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': params, **self.session}
        os.write(self.down, json.dumps(message).encode() + b'\0')
        while True:
            answer = json.loads(self.read())
            if answer.get('id') == self.number:
                assert 'error' not in answer, answer
                return answer['result']
            if answer['method'] in ('Log.entryAdded', 'Runtime.exceptionThrown'):
                self.complaints.append(answer['params'])

    def read(self):
        message = bytearray()
        while (byte := self.up.read(1)) != b'\0':
            assert byte, 'Chromium has ended'
            message += byte
        return message

    def value(self, expression):
        """Of JavaScript."""
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True,
                           awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def wait(self, expression):
        wait_for(lambda: self.value(expression))

    def drop(self, file):
        data = {'items': [], 'files': [str(file)], 'dragOperationsMask': 1}
        for kind in ('dragEnter', 'dragOver', 'drop'):
            self.call('Input.dispatchDragEvent', type=kind, x=300, y=250, data=data)

    def press(self, key, code):
        for kind in ('keyDown', 'keyUp'):
            self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code)

    def texts(self, selector):
        return self.value(f'[...document.querySelectorAll({json.dumps(selector)})]'
                          '.map(element => element.textContent)')

    def close(self):
        self.session = {}
        with contextlib.suppress(AssertionError, BrokenPipeError):
            self.call('Browser.close')
        self.process.wait(20)
        os.close(self.down)
        self.up.close()


@pytest.fixture
def browser(tmp_path):
    if not CHROMIUM:
        pytest.skip('chromium is not installed')
    browser = Browser(tmp_path / 'profile')
    yield browser
    browser.close()


def test_picture_that_is_dropped_on_the_page_G2(server, model, browser, tmp_path):
    """The result is the model's, its words stay words, and no line of the console complains."""
    content, image = picture()
    file = tmp_path / '<img src=x onerror=document.title="run">.png'
    file.write_bytes(content)
    browser.call('Page.navigate', url=f'http://localhost:{server.port}/')
    browser.wait("document.title === 'What does vit_digits see?'")
    browser.drop(file)
    browser.wait("document.querySelectorAll('#heads canvas').length === 5")
    scores = inference_model(model, image)['pred_scores']
    best = scores.argsort()[::-1][:5]
    assert browser.texts('#classes .name') == [CLASSES[label] for label in best]
    shown = [float(text.strip('<% ')) for text in browser.texts('#classes .score')]
    np.testing.assert_allclose(shown, 100 * scores[best], atol=0.1)  # and '< 0.1%'
    assert browser.value("document.querySelector('#classes img, #classes script') === null")
    assert browser.value('document.title') == 'What does vit_digits see?'  # no script has run

    # the map: its lightest place is the largest value, but for the rounding of colours
    pixels, _ = next(pixel_batches(Preprocessing.of(model.config), [image], 1))
    for layer, head in ((3, 'mean'), (2, 'mean'), (2, 1)):
        if layer == 2 and head == 'mean':
            browser.value("document.getElementById('layer').focus()")
            browser.press('ArrowLeft', 37)
            browser.wait("document.getElementById('layer-number').textContent === '2'")
        if head == 1:
            browser.value("document.getElementById('head2').click()")
        maps = attention_maps(model, pixels, layer)                       # [4, 4, 4]
        chosen = maps.mean(axis=0) if head == 'mean' else maps[head]
        browser.wait("document.getElementById('most').textContent === "
                     f"'{100 * chosen.max():.1f}%'")
        lightest = chosen.flat[browser.value(LIGHTEST)]
        assert lightest > chosen.max() - 0.03 * np.ptp(chosen), (layer, head)
    assert browser.complaints == []

    # another file: one line, and the page goes on
    file = tmp_path / 'text.png'
    file.write_text('hello')
    browser.drop(file)
    browser.wait("!document.getElementById('error').hidden")
    assert 'expected one of JPEG' in browser.texts('#error')[0]
    assert browser.texts('#classes li') == []
    large = tmp_path / 'large.png'
    large.write_bytes(png(5000, 4000))
    browser.drop(large)  # beyond the server's limits: the page makes it smaller
    browser.wait("document.querySelectorAll('#classes li').length === 5")
    assert 'made smaller' in browser.texts('#status')[0]
    browser.wait("document.querySelectorAll('#heads canvas').length === 5")

    # a phone's photo: the page shows it as the model sees it, upright
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / 'turned.jpg'
    Image.new('RGB', (90, 60), 'red').save(turned, exif=exif)
    browser.drop(turned)
    browser.wait('Math.abs(state.ratio - 2 / 3) < 0.01')
    browser.wait("document.querySelectorAll('#heads canvas').length === 5")
    assert browser.value("getComputedStyle(document.querySelector('#map img'))"
                         ".imageOrientation") == 'from-image'


LIGHTEST = '''(() => {
    const canvas = document.querySelector('#map canvas');
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const light = Array.from({length: data.length / 4}, (_, index) =>
        data[4 * index] + data[4 * index + 1] + data[4 * index + 2]);
    return light.indexOf(Math.max(...light));
})()'''


def test_page_on_a_phone_has_no_sideways_scrolling(server, browser, tmp_path):
    file = tmp_path / 'wide.png'
    file.write_bytes(png(2000, 20))
    browser.call('Emulation.setDeviceMetricsOverride', width=360, height=700,
                 deviceScaleFactor=2, mobile=True)
    browser.call('Page.navigate', url=f'http://127.0.0.1:{server.port}/')
    browser.wait("document.title === 'What does vit_digits see?'")
    assert browser.value('document.documentElement.scrollWidth') == 360
    browser.drop(file)
    browser.wait("document.querySelectorAll('#heads canvas').length === 5")
    assert browser.value('document.documentElement.scrollWidth') == 360
    shot = base64.b64decode(browser.call('Page.captureScreenshot')['data'])
    assert Image.open(io.BytesIO(shot)).size == (720, 1400)


def test_page_of_a_multi_label_model(browser, tmp_path):
    """All classes from one half on, however many; and none."""
    model = init_model('vit_digits', num_classes=3, options=['DATA.MULTI_LABEL=True'])
    head = getattr(model, model.classifier_name)
    head.weight.set_value(paddle.zeros_like(head.weight))
    file = tmp_path / 'picture.png'
    file.write_bytes(png(64, 64))
    with in_process(Service(model)) as client:
        assert client.ask('/api/model')[2]['multi_label'] is True
        browser.call('Page.navigate', url=f'http://127.0.0.1:{client.port}/')
        browser.wait("document.title === 'What does vit_digits see?'")
        for biases, said in (([2.0, -1.0, 3.0], 'class 2, 95.3%; class 0, 88.1%, in '),
                             ([-2.0, -1.0, -3.0], 'None of its classes, in ')):
            head.bias.set_value(paddle.to_tensor(biases))
            browser.value("document.getElementById('status').textContent = ''")
            browser.drop(file)
            browser.wait(f"document.getElementById('status').textContent.startsWith('{said}')")
            assert len(browser.texts('#classes .name')) == sum(bias > 0 for bias in biases)
            browser.wait("document.querySelectorAll('#heads canvas').length === 5")
        assert client.send(file.read_bytes(), '/api/predict?threshold=0.04')[2]['classes'] \
            == [{'label': 1, 'name': '1', 'score': pytest.approx(0.2689, abs=1e-3)},
                {'label': 0, 'name': '0', 'score': pytest.approx(0.1192, abs=1e-3)},
                {'label': 2, 'name': '2', 'score': pytest.approx(0.0474, abs=1e-3)}]
        assert 'threshold: got 2.0' in client.refused(422, '/api/predict?threshold=2',
                                                      *form(file.read_bytes()))
    assert not browser.complaints
