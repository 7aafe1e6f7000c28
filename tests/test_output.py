"""What users see: names in any encoding, readers that go, files that are passed over, outputs that
cannot be written, warnings of other packages."""
import csv
import io
import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import paddle
import pytest
from PIL import Image

from common import benchmark, convert, export, features, predict, visualize
from common.apis import inference_model, init_model, list_images
from common.config import base_config
from common.core import devices, quiet_paddle
from common.core.devices import pick_device
from common.core.errors import OUTPUT_LOST, InputError, errors_of_a_tool, printable, set_up_output
from common.core.figures import save
from common.core.files import replace_atomically
from common.data.folders import read_flat_val, read_folder
from common.data.image_names import EXTENSIONS, READABLE, PassedOver
from common.data.images import load_image
from common.inspection.batch_pictures import batch_figure
from common.inspection.predictions import predict as predictions_of
from common.inspection.predictions import write_json
from common.train.describe import describe
from common.train.log import RunLog
from common.train.plot import runs_figure
from common.zoo import create_model
from tests.conftest import ROOT, refusal, run_script

GBK = '\u6d4b\u8bd5.png'.encode('gbk')
# names of files, and what is shown of them everywhere
NAMES = {b'a.png': 'a.png', GBK: r'\xb2\xe2\xca\xd4.png', b'a$_$b.png': 'a$_$b.png',
         '\u6d4b\u8bd5.png'.encode(): '\u6d4b\u8bd5.png', b'\x1b[2Jx\ny.png': r'\x1b[2Jx\x0ay.png',
         '\u202egnp.a.png'.encode(): r'\xe2\x80\xaegnp.a.png', b'50% ^{\\x.png': '50% ^{\\x.png'}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp('weights') / 'w.pdparams'
    paddle.seed(0)
    paddle.save(create_model('vit_digits').state_dict(), str(file))
    return str(file)


@pytest.fixture(scope='module')
def names(tmp_path_factory):
    """A folder with an image of each of NAMES."""
    folder = tmp_path_factory.mktemp('names')
    stream = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)).save(
        stream, 'png')
    for name in NAMES:
        with open(os.path.join(os.fsencode(folder), name), 'wb') as file:
            file.write(stream.getvalue())
    return str(folder)


# ---- names

@pytest.mark.smoke
def test_printable_keeps_which_name_it_was_O1():
    random = np.random.RandomState(0)
    for _ in range(500):
        raw = bytes(random.randint(1, 256, 12, np.uint8)).replace(b'\\', b'/')
        shown = printable(os.fsdecode(raw))
        assert not re.search('[\0-\x1f\x7f-\x9f]', shown)
        assert printable(shown) == shown and len(shown.splitlines()) == 1
        # a reader of the json finds the file
        back = re.sub(rb'\\x([0-9a-f]{2})', lambda found: bytes([int(found[1], 16)]),
                      shown.encode())
        assert back == raw
    assert printable('\ud800\u2028\n') == r'\xed\xa0\x80\xe2\x80\xa8\x0a'
    # other spaces stay: a screenshot's name on a Mac has one
    assert printable('\u3000 \u202f\xe9') == '\u3000 \u202f\xe9'
    # the same name in a process whose locale knows ASCII only
    assert printable('\udce6\udcb5\udc8b') == '\u6d4b' and printable('abcdef', 5) == 'ab...'


def test_names_are_the_same_on_terminal_in_json_and_in_csv_O1_O6(weights, names, tmp_path):
    code, out, err = run_script(
        ['-m', 'common.predict', '-cfg', 'vit_digits', '-pretrained', weights, names, '-topk', '1',
         '-json', tmp_path / 'a.json', '-csv', tmp_path / 'a.csv'], folder='.',
        env={'PYTHONIOENCODING': 'ascii'})
    assert code == 0 and err == ''
    expected = sorted(f'{names}/{shown}' for shown in NAMES.values())
    found = json.loads((tmp_path / 'a.json').read_text(encoding='utf-8'))
    assert sorted(one['file'] for one in found) == expected and all(one['classes'] for one in found)
    with open(tmp_path / 'a.csv', encoding='utf-8', newline='') as stream:
        assert sorted(row[0] for row in list(csv.reader(stream))[1:]) == expected
    assert sorted(line.partition('  class')[0] for line in out.splitlines()) == sorted(
        name.encode('ascii', 'backslashreplace').decode() for name in expected)


def test_names_in_features_errors_and_the_log_O1(weights, names, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, 'set_up_cpu', lambda: None)  # it acts on the whole process
    features.main(['-cfg', 'vit_digits', '-pretrained', weights, names, '-output',
                   str(tmp_path / 'a.npz')])
    assert sorted(np.load(tmp_path / 'a.npz')['names'].tolist()) == sorted(
        f'{names}/{shown}' for shown in NAMES.values())
    missing = os.fsdecode(b'none' + GBK)
    model = init_model('vit_digits', weights)
    with pytest.raises(InputError, match=re.escape(f'none{NAMES[GBK]}: cannot read the image')):
        inference_model(model, missing)
    model.class_names = [f'\x1b\ud800{label}' for label in range(10)]
    predictions = list(predictions_of(model, [f'{names}/a.png'], topk=1))
    write_json(str(tmp_path / 'a.json'), predictions)
    found, = json.loads((tmp_path / 'a.json').read_text(encoding='utf-8'))[0]['classes']
    assert found['name'] == rf'\x1b\xed\xa0\x80{found["label"]}'
    with pytest.raises(SystemExit) as end, errors_of_a_tool():
        raise InputError(f'{missing}: got a\nb')
    assert str(end.value) == rf'error: none{NAMES[GBK]}: got a\x0ab'
    log = RunLog(str(tmp_path))
    log.info(f'weights: {missing}\n \u6d4b')
    log.close()
    assert (tmp_path / 'log.txt').read_bytes().decode('utf-8').endswith(
        f' weights: none{NAMES[GBK]}\\x0a \u6d4b\n')


def test_names_in_pictures_are_drawn_as_they_are_O1(weights, names, tmp_path):
    flags = ['attention', '-cfg', 'vit_digits', '-pretrained', weights, names, '-output']
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        visualize.draw_attention(visualize.make_parser().parse_args(
            [*flags, str(tmp_path / 'a.png')]))
        figure = runs_figure({'$^{$_$': [{'kind': 'eval', 'epoch': 1, 'acc1': 0.5}]})
        save(figure, str(tmp_path / 'b.png'))
    assert not [one for one in caught if 'Glyph' in str(one.message)]
    with Image.open(tmp_path / 'a.png') as picture:
        assert picture.size[0] > 500
    # a formula would have another width than its characters
    picture = np.zeros((32, 32, 3), np.uint8)
    for name in ('a$_$b', '$x$', r'\$x$', '$', '$^{$'):
        figure = batch_figure(picture[np.newaxis], [name], '')
        title, plain = figure.axes[0].title, figure.text(0, 0, name, fontsize=8, parse_math=False)
        figure.canvas.draw()
        assert title.get_window_extent().width == plain.get_window_extent().width, name


# ---- readers that go

def without_reader(arguments, folder='.', both=False):
    """(exit code, standard error or None) of a process whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=ROOT / folder, stdout=writing,
            stderr=writing if both else subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writing)
    return result.returncode, result.stderr


def test_tool_ends_quietly_when_its_reader_has_gone_O2(weights, names, tmp_path):
    assert without_reader(['-m', 'common.zoo', 'vit_tiny*']) == (OUTPUT_LOST, '')
    flags = ['-m', 'common.predict', '-cfg', 'vit_digits', '-pretrained', weights, names]
    assert without_reader(flags) == (OUTPUT_LOST, '')
    # nothing is lost of a file that was asked for
    assert without_reader([*flags, '-json', tmp_path / 'a.json']) == (0, '')
    assert len(json.loads((tmp_path / 'a.json').read_text())) == len(NAMES)


def test_run_outlives_its_terminal_O2(small_data, tmp_path):
    code, _ = without_reader(
        ['main_multi_gpu.py', '-cfg=./configs/vit_digits.yaml', '-dataset=list', '-batch_size=4',
         f'-data_path={small_data}', f'-output={tmp_path}', '-o', 'MODEL.DEPTH=1',
         '-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o', 'DATA.NUM_WORKERS=0'],
        folder='vit', both=True)
    folder, = tmp_path.iterdir()
    assert code == 0 and json.loads((folder / 'result.json').read_text())['epoch'] == 1
    log = (folder / 'log.txt').read_text()
    assert log.count('standard output cannot be written (Broken pipe); the run goes on') == 1
    assert 'best, epoch 1: acc@1' in log.splitlines()[-1]


# ---- files that are passed over

def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'')
    return str(folder)


@pytest.mark.smoke
def test_closed_streams_are_nothing_O2(tmp_path):
    """`>&- 2>&-`: what the program opens next must not become its standard output."""
    code = ('import sys\nfrom common.core.errors import complain, say, set_up_output\n'
            'set_up_output()\nfile = open(sys.argv[1], "w")\nsay("a")\ncomplain("b")\n'
            'print("c", flush=True)\nfile.write(f"{file.fileno() > 2}")')
    file = tmp_path / 'file'
    result = subprocess.run(['sh', '-c', '"$0" -c "$1" "$2" >&- 2>&-', sys.executable, code,
                             str(file)], cwd=ROOT)
    assert result.returncode == 0 and file.read_text() == 'True'


def test_files_that_are_no_images_are_counted_and_named_O3(tmp_path, capsys):
    folder = touch(tmp_path / 'a', 'b.txt', 'c.heic', 'd/e.mp4', '._x.png', '.DS_Store', '.h/y.png',
                   'g.JPG', 'd/z.gif')
    (tmp_path / 'a' / 'link').symlink_to(tmp_path)
    passed_over = PassedOver()
    assert list_images([folder, 'x.txt'], passed_over) == [
        f'{folder}/d/z.gif', f'{folder}/g.JPG', 'x.txt']
    assert str(passed_over) == (
        f'passed over 4 that are not named as images: {folder}/b.txt, {folder}/c.heic, '
        f'{folder}/d/e.mp4, {folder}/link (a link to a folder)')
    touch(tmp_path / 'a', *(f'{number}.txt' for number in range(9)))
    passed_over = PassedOver()
    list_images([folder], passed_over)
    assert passed_over.count == 13 and str(passed_over).endswith(', ...')
    path = touch(tmp_path / 'data', 'train/x/1.jpg', 'train/x/2.gif', 'train/y/1.png',
                 'train/y/n.txt', 'train/y/._1.png')
    assert len(read_folder(path)[0]) == 2
    assert capsys.readouterr().err == (
        'passed over 2 that are not named as images: train/x/2.gif, train/y/n.txt\n')
    (tmp_path / 'labels').write_text('0\n')
    touch(tmp_path / 'data', 'val/a.png', 'val/b.gif')
    assert len(read_flat_val(path, str(tmp_path / 'labels'))[0]) == 1
    assert capsys.readouterr().err == 'passed over 1 that are not named as images: val/b.gif\n'
    # a data set's images stay those of torchvision's ImageFolder
    assert EXTENSIONS == ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


@pytest.mark.parametrize('name, kind', [('a.gif', 'GIF'), ('a.mpo', 'MPO'), ('a.jfif', 'JPEG'),
                                        ('a.jpe', 'JPEG'), ('a.JP2', 'JPEG2000'), ('a.pbm', 'PPM')])
def test_pillow_s_images_are_found_and_read_O3(name, kind, tmp_path):
    Image.new('RGB', (20, 10), (200, 100, 50)).save(tmp_path / name, kind)
    file, = list_images([tmp_path])
    assert load_image(file).size == (20, 10) and name.lower().endswith(READABLE)


def test_folder_in_python_warns_of_what_it_passes_over_O3(weights, tmp_path):
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')
    touch(tmp_path, 'b.txt')
    with pytest.warns(UserWarning, match='passed over 1 that are not named as images: .*b.txt'):
        assert len(inference_model(init_model('vit_digits', weights), tmp_path)) == 1


# ---- outputs

MODEL = ['-cfg', 'vit_digits', '-pretrained', 'none.pdparams']


@pytest.mark.smoke
@pytest.mark.parametrize('main, arguments, flag', [
    (predict.main, [*MODEL, 'x.png'], '-json'), (predict.main, [*MODEL, 'x.png'], '-csv'),
    (features.main, [*MODEL, 'x.png'], '-output'),
    (visualize.main, ['attention', *MODEL, 'x.png'], '-output'),
    (export.main, MODEL, '-output'),
    (convert.main, ['-cfg', 'vit_digits', '-src', 'none.pdparams'], '-dst'),
    (benchmark.main, ['model', 'vit_digits'], '-json')])
def test_outputs_are_checked_before_the_work_O5(main, arguments, flag, tmp_path, monkeypatch):
    """The weights are missing, too: that would be found later."""
    for module in (predict, features, visualize, export, benchmark):
        monkeypatch.setattr(module, 'set_up_cpu', lambda: None)  # it acts on the whole process
    suffix = {'-json': '.json', '-csv': '.csv', '-dst': '.pdparams', '-output': ''}[flag]
    suffix = {features.main: '.npz', visualize.main: '.png'}.get(main, suffix)
    (tmp_path / 'file').write_text('')
    wrong = [tmp_path / 'file' / f'a{suffix}']
    if main is not export.main:
        (tmp_path / f'folder{suffix}').mkdir()
        wrong += [tmp_path / 'missing' / f'a{suffix}', tmp_path / f'{"a" * 250}{suffix}']
        wrong += [tmp_path / f'folder{suffix}'] if main is not visualize.main else []
    before = sorted(tmp_path.iterdir())
    for path in wrong:
        with pytest.raises(SystemExit) as end:
            main([*arguments, flag, str(path)])
        message = str(end.value)
        assert message.startswith(f'error: {flag}: got {path}') and '.tmp' not in message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.smoke
def test_output_is_no_file_that_is_read_O5(weights, tmp_path, monkeypatch):
    """A forgotten name, as in `-json *.png`, and one name for two things."""
    for module in (predict, features, visualize):
        monkeypatch.setattr(module, 'set_up_cpu', lambda: None)
    image = str(tmp_path / 'a.png')
    Image.new('RGB', (32, 32)).save(image)
    os.symlink(image, tmp_path / 'b')
    os.link(weights, tmp_path / 'w.npz')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = ['-cfg', 'vit_digits', '-pretrained', str(weights)]
    for main, arguments, said in (
            (predict.main, ['-json', image], '-json: got .*/a.png, the name of an image'),
            (predict.main, ['-json', 'no.JPEG'], '-json: got no.JPEG, the name of an image'),
            (predict.main, ['-csv', str(tmp_path / 'b')], '-csv: got .*/b, which is read too'),
            (predict.main, ['-json', weights], '-json: got .*, which is read too'),
            (predict.main, ['-json', f'{tmp_path}/x', '-csv', f'{tmp_path}/./x'], 'for both'),
            (predict.main, ['-json', ''], '-json: got nothing'),
            (features.main, ['-output', str(tmp_path / 'w.npz')], 'w.npz, which is read too'),
            (visualize.main, ['-output', image], '-output: got .*/a.png, which is read too'),
            (visualize.main, ['-output', ''], '-output: got nothing')):
        with pytest.raises(SystemExit) as end:
            main([*(['attention'] if main is visualize.main else []), image, *model, *arguments])
        assert re.search(f'^error: .*{said}', str(end.value))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.smoke
def test_closed_and_full_outputs_lose_no_file_O2(weights, tmp_path):
    Image.new('RGB', (32, 32)).save(tmp_path / 'a.png')
    for number, (closing, said) in enumerate((
            ('>&- 2>&-', ''), ('>/dev/full', 'the output cannot be written: No space left'))):
        file = tmp_path / f'{number}.json'
        done = subprocess.run(
            ['/bin/sh', '-c', f'"$0" "$@" {closing}', sys.executable, '-m', 'common.predict',
             '-cfg', 'vit_digits', '-pretrained', weights, '-json', str(file),
             str(tmp_path / 'a.png')], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0 and said in done.stderr and 'Traceback' not in done.stderr
        assert len(json.loads(file.read_text())) == 1


@pytest.mark.smoke
def test_error_of_a_file_names_the_user_s_path_O5(tmp_path):
    path = str(tmp_path / 'missing' / 'x.json')
    with pytest.raises(FileNotFoundError) as caught, replace_atomically(path) as temporary, \
            open(temporary, 'w'):
        pass
    assert caught.value.filename == path
    with pytest.raises(OSError) as caught, replace_atomically(str(tmp_path / 'x')):
        raise OSError(28, 'No space left on device')
    assert caught.value.filename == str(tmp_path / 'x')


# ---- warnings

@pytest.mark.smoke
def test_import_hides_its_own_warnings_only_O6():
    """With several threads too, of which Paddle says more."""
    code, out, err = run_script(['-c', '''
import sys, warnings
filters = list(warnings.filters)
import common
assert warnings.filters == filters
import paddle
assert not [rule for rule in warnings.filters if rule[1] and 'ccache' in rule[1].pattern]
assert 'QuietPaddle' not in [getattr(finder, '__name__', '') for finder in sys.meta_path]
print(paddle.__version__)
warnings.warn('No word of mine is hidden')
'''], folder='.', env={'OMP_NUM_THREADS': '2'})
    assert code == 0 and out and 'UserWarning: No word of mine is hidden' in err
    assert err.count('Warning') == 1 and 'OMP_NUM_THREADS' not in err


def test_other_words_of_an_import_are_shown_O6(capsys):
    with pytest.warns(UserWarning, match='mine'), quiet_paddle.without_remarks():
        warnings.warn('No ccache found. Be aware', stacklevel=1)
        warnings.warn('mine', stacklevel=1)
        print('WARNING: OMP_NUM_THREADS set to 4, not 1.', file=sys.stderr)
        print('another line', file=sys.stderr)
    assert capsys.readouterr().err == 'another line\n'


@pytest.mark.smoke
def test_programs_hide_pillow_s_warnings_only_O6(tmp_path):
    file = tmp_path / 'a.png'
    image = Image.new('P', (2, 2))
    image.putpalette(range(9))
    image.save(file, transparency=b'\0\x80\x90')
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        load_image(file)
        assert 'Palette images with Transparency' in str(caught.pop().message)
        set_up_output()
        load_image(file)
        warnings.warn('mine', stacklevel=1)
        assert [str(one.message) for one in caught] == ['mine']
        warnings.filterwarnings('error', module='PIL')  # as by -W of the user
        set_up_output()
        with pytest.raises(UserWarning):
            load_image(file)


def test_training_prints_no_warning_O6(small_data, tmp_path):
    """With the average of the weights, two processes, and the curves."""
    code, _, err = run_script(
        ['main_multi_gpu.py', '-cfg=./configs/vit_digits.yaml', '-dataset=list', '-batch_size=4',
         f'-data_path={small_data}', f'-output={tmp_path}', '-o', 'MODEL.DEPTH=1', '-nprocs=2',
         '-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o', 'DATA.NUM_WORKERS=0'])
    assert code == 0 and 'Warning' not in err and 'warnings.warn' not in err, err


def test_pictures_leave_matplotlib_as_it_is(tmp_path):
    code, out, err = run_script(['-c', f'''
import sys
import matplotlib
matplotlib.use('svg')
from common import curves, visualize
from common.core.figures import save
from common.train.plot import run_figure, runs_figure
lines = [{{'kind': 'eval', 'epoch': 1, 'loss': 1.0, 'acc1': 0.5, 'acc5': 0.6}}]
for name, figure in (('a', run_figure(lines)), ('b', runs_figure({{'r': lines}}))):
    save(figure, {str(tmp_path)!r} + '/' + name + '.png')
print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)
'''], folder='.')
    assert (code, out, err) == (0, 'svg False\n', '')
    assert all(Image.open(tmp_path / f'{name}.png').format == 'PNG' for name in 'ab')


def test_gpu_paddle_without_a_gpu_says_so_loudly(monkeypatch, capsys):
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(paddle.version, 'cuda', lambda: '12.6')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '7')
    config = base_config()
    config.MODEL.NAME = 'x'
    assert pick_device(config) == 'cpu'
    for device, times in (('auto', 3), ('cpu', 0)):
        config.DEVICE = device
        describe(RunLog(), config, create_model('vit_digits', depth=1), 'float32', 'cpu', None)
        found = re.findall('WARNING: .*', capsys.readouterr().out)
        assert len(found) == times
        assert not found or all(word in ' '.join(found) for word in (
            'THE RUN IS ON THE CPU', 'CUDA 12.6', 'sees 0 GPUs', 'driver',
            "CUDA_VISIBLE_DEVICES is '7'", '-o DEVICE=gpu', '-o DEVICE=cpu'))
    config.DEVICE = 'gpu'
    assert "CUDA_VISIBLE_DEVICES is '7'" in refusal(pick_device, config)


def test_cpu_paddle_beside_a_gpu_driver_says_so(monkeypatch, capsys, tmp_path):
    """The file is what NVIDIA's driver shows under Linux."""
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: False)
    monkeypatch.setattr(devices, 'DRIVER', str(tmp_path / 'version'))
    config = base_config()
    model = create_model('vit_digits', depth=1)
    describe(RunLog(), config, model, 'float32', 'cpu', None)
    assert 'WARNING' not in capsys.readouterr().out
    (tmp_path / 'version').write_text('NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  '
                                      'Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12.2.0\n')
    describe(RunLog(), config, model, 'float32', 'cpu', None)
    said = capsys.readouterr().out
    assert 'is one for CPUs: THE RUN IS ON THE CPU' in said and 'NVIDIA driver 535.104.05' in said
    config.DEVICE = 'gpu'
    assert 'is built for CPUs; NVIDIA driver 535.104.05' in refusal(pick_device, config)
