"""Wrong input: what the tests of the single parts leave out of the table in README.md.

Limits of seconds only tell an end from none; they are of this thread's own time, so that it does
not matter what else runs.
"""
import os
import pickle
import time

import numpy as np
import paddle
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.data.images import load_image
from common.data.lists import read_list
from common.train.checkpoint import resume, write_atomically
from common.train.optim import build_optimizer
from common.weights.load import load_pretrained
from common.zoo import create_model
from tests.conftest import ROOT, refused_run, run_script
from tests.fuzz_weights import fuzz
from tests.test_images import BACKENDS, picture, png_of_size

from vit.config import get_config

SMALL = {'depth': 1, 'embed_dim': 16, 'num_heads': 2}


class Evil:
    """Pickles as an order to make a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f'touch {self.canary}',)


@pytest.mark.smoke
@pytest.mark.parametrize('place', ['weights', 'model', 'optimizer', 'ema'])
@pytest.mark.parametrize('reader', ['-pretrained', '-resume'])
def test_command_in_any_part_of_a_checkpoint_W1_W3(place, reader, tmp_path, monkeypatch):
    """Refused with the name of what it asks for, and no other loader tries it after that."""
    def fallback(*args, **options):
        pytest.fail('another loader was asked')

    evil = Evil(tmp_path / 'canary')
    weights = {'cls_token': np.ones([1, 1, 16], 'float32')}
    content = {**weights, 'x': evil} if place == 'weights' else {'model': weights, place: evil}
    file = tmp_path / 'a.pdparams'
    file.write_bytes(pickle.dumps(content, 4))
    model = create_model('vit_digits', **SMALL)
    for module, name in ((paddle, 'load'), (pickle, 'load'), (pickle, 'loads'), (np, 'load')):
        monkeypatch.setattr(module, name, fallback)
    with pytest.raises(InputError, match=f'{file}: .*(posix|os).system'):
        if reader == '-resume':
            resume(str(file), model, build_optimizer(base_config().TRAIN, model), None)
        else:
            load_pretrained(model, str(file))
    assert not (tmp_path / 'canary').exists()


@pytest.mark.long
def test_fuzz_5000_files_W9_W10():
    begin = time.monotonic()
    loaded, refused = fuzz(5000, seed=1)
    print(f'{time.monotonic() - begin:.0f} s')
    assert loaded + refused == 5000


MODELS = ['vit_digits', 'vitae_digits', 'vitaev2_vsa_digits']


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A weight file of a small model of each family."""
    folder, found = tmp_path_factory.mktemp('weights'), {}
    for name in MODELS:
        found[name] = str(folder / f'{name}.pdparams')
        write_atomically(create_model(name).state_dict(), found[name])
    return found


@pytest.mark.smoke
@pytest.mark.parametrize('here', MODELS)
@pytest.mark.parametrize('there', MODELS)
def test_file_of_each_family_in_each_other_L4(there, here, files):
    if there == here:
        model = create_model(here, pretrained=files[there])
        assert all(np.isfinite(value.numpy()).all() for value in model.state_dict().values())
        return
    model = create_model(here)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    begin = time.thread_time()
    with pytest.raises(InputError, match=f'nothing was loaded: .*the file fits to .*{there}'):
        load_pretrained(model, files[there])
    assert time.thread_time() - begin < 20
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def refused_config(tmp_path, text):
    """The message of a yaml that is refused, and the seconds that it takes."""
    file = tmp_path / 'a.yaml'
    file.write_text(text)
    begin = time.thread_time()
    with pytest.raises(InputError) as caught:
        get_config(str(file))
    assert '\n' not in str(caught.value) and str(caught.value).startswith(str(file))
    assert time.thread_time() - begin < 10
    return str(caught.value)


BOMB = 'MODEL:\n  A: &a0 [x, x]\n' + ''.join(
    f'  A{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n' for n in range(1, 40))


@pytest.mark.smoke
@pytest.mark.parametrize('text', [
    BOMB, 'SEED: !!python/tuple [1, 2]\n', '#' * 10_000_000,
], ids=['aliases', 'tuple', '10 MB'])
def test_hostile_yaml_C3_C6(text, tmp_path):
    refused_config(tmp_path, text)


@pytest.mark.smoke
def test_chain_of_50_bases_C4(tmp_path):
    """A base may have no base of its own, so that the second is already refused."""
    for number in range(50):
        (tmp_path / f'{number}.yaml').write_text(f'BASE: {number + 1}.yaml\n')
    (tmp_path / '50.yaml').write_text('SEED: 1\n')
    assert '0.yaml' in refused_config(tmp_path, 'BASE: 0.yaml\n')


@pytest.mark.smoke
@pytest.mark.parametrize('line', ['# a comment', '#', '// a comment'])
def test_comment_in_a_list_is_named_D1(line, tmp_path):
    file = tmp_path / 'train_list.txt'
    file.write_text(f'a.jpg 0\n\n{line}\nb.jpg 1\n')
    with pytest.raises(InputError, match=f'^{file}:3: got '):
        read_list(str(file))


@pytest.mark.parametrize('arguments, message', [
    (['-eval', '-pretrained={file}', '-resume={file}'], '-pretrained and -resume: got both'),
    (['-eval', '-resume=none'], '-resume: no such file or folder: none'),
    (['-last_epoch=-1'], '-last_epoch: TRAIN.LAST_EPOCH: got -1'),
])
def test_flags_that_do_not_go_together_C7(arguments, message, small_data, files, tmp_path, capfd):
    error = refused_run([
        f'-cfg={ROOT}/vit/configs/vit_digits.yaml', f'-data_path={small_data}',
        f'-output={tmp_path}', *(argument.format(file=files['vit_digits'])
                                 for argument in arguments)], capfd)
    assert error.startswith(f'error: {message}')


@pytest.mark.smoke
@pytest.mark.parametrize('backend', BACKENDS)
def test_images_cut_at_every_tenth_I1(backend, tmp_path):
    """Each is an error, and a quick one; the loaders with workers are in test_loader.py."""
    picture(size=(320, 240)).save(tmp_path / 'whole.jpg')
    content = (tmp_path / 'whole.jpg').read_bytes()
    for size in [len(content) * tenth // 10 for tenth in range(10)] + [
            int(0.99 * len(content)), len(content) - 2]:
        file = tmp_path / 'cut.jpg'
        file.write_bytes(content[:size])
        begin = time.thread_time()
        with pytest.raises((OSError, ValueError, SyntaxError)):
            load_image(file, backend)
        assert time.thread_time() - begin < 5


BOMB_READER = '''
import resource, sys, time
from common.data.images import load_image
load_image(sys.argv[1], sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.thread_time()
try:
    load_image(sys.argv[2], sys.argv[3])
    print('loaded')
except Exception as error:
    print(type(error).__name__)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
      time.thread_time() - begin)
'''


@pytest.mark.parametrize('side', [10_000, 20_000])
@pytest.mark.parametrize('backend', BACKENDS)
def test_bomb_costs_little_I4(side, backend, tmp_path):
    picture().save(tmp_path / 'good.jpg')
    png_of_size(side, side)(tmp_path / 'bomb.png')
    code, out, err = run_script(
        ['-c', BOMB_READER, tmp_path / 'good.jpg', tmp_path / 'bomb.png', backend], folder='.')
    assert code == 0, err
    answer, figures = out.splitlines()
    megabytes, seconds = map(float, figures.split())
    assert answer != 'loaded' and megabytes < 200 and seconds < 5
