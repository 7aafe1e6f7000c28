"""Files across Paddle's versions, checkpoint formats, hostile sizes, and a short fuzz."""
import subprocess
import sys

import numpy as np
import paddle
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.train.checkpoint import resume, write_atomically
from common.train.optim import build_optimizer
from common.weights.unpickle import load_pickle
from common.zoo import create_model
from tests.conftest import ROOT
from tests.fuzz_weights import fuzz
from tests.reference import FIXTURES

pytestmark = pytest.mark.smoke
FOLDER = FIXTURES / 'checkpoints'
VERSIONS = ['2.6.2', '3.3.1']


def small():
    return create_model('vit_digits', depth=1, embed_dim=16, num_heads=2)


def logits(model):
    model.eval()
    return model(paddle.ones([1, 3, 32, 32])).numpy()


@pytest.mark.parametrize('version', VERSIONS)
def test_weights_of_either_paddle_load_L11(version):
    model = create_model('vit_digits', depth=1, embed_dim=16, num_heads=2,
                         pretrained=str(FOLDER / f'plain_paddle{version}.pdparams'))
    expected = np.load(FOLDER / f'logits_paddle{version}.npy')
    np.testing.assert_allclose(logits(model), expected, atol=1e-6)


@pytest.mark.parametrize('version', VERSIONS)
def test_checkpoint_of_either_paddle_resumes_L9_L11(version):
    small()  # shifts Paddle's automatic names
    model = small()
    optimizer = build_optimizer(base_config().TRAIN, model)
    facts = resume(str(FOLDER / f'format1_paddle{version}.pdparams'), model, optimizer, None)
    assert facts['epoch'] == 1
    expected = np.load(FOLDER / f'logits_paddle{version}.npy')
    np.testing.assert_allclose(logits(model), expected, atol=1e-6)
    model.train()
    (model(paddle.ones([1, 3, 32, 32])) ** 2).sum().backward()
    optimizer.step()  # with the moments of the file


@pytest.mark.parametrize('change', ['empty', 'a parameter less', 'a slot less'])
def test_partial_optimizer_state_is_refused_L10(change, tmp_path):
    content = load_pickle(str(FOLDER / 'format1_paddle3.3.1.pdparams'))
    if change == 'empty':
        content['optimizer'] = {}
    elif change == 'a parameter less':
        del content['optimizer']['cls_token']
    else:
        del content['optimizer']['cls_token']['moment1_0']
    write_atomically(content, str(tmp_path / 'a.pdparams'))
    model = small()
    before = logits(model)
    with pytest.raises(InputError, match='optimizer state: '):
        resume(str(tmp_path / 'a.pdparams'), model,
               build_optimizer(base_config().TRAIN, model), None)
    np.testing.assert_array_equal(logits(model), before)


HOSTILE = {
    # numpy's array constructor with a size, 91 bytes that ask for 18.6 GiB
    'size': 'b"cnumpy.core.multiarray\\n_reconstruct\\n(cnumpy\\nndarray\\n(L20000000000L\\nt'
            'c_codecs\\nencode\\n(Vb\\nVlatin1\\ntRtR."',
    'nesting': 'b"\\x80\\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."',
    'list': 'b"\\x80\\x04](" + b"K\\x01" * 10_000_000 + b"e."',
    'memo': 'b"\\x80\\x04]r\\xff\\xff\\xff\\xff."',  # an entry far behind the others
}
LOAD = '''
import resource, sys, time
from common.core.errors import InputError
from common.weights.unpickle import load_pickle
file, content = sys.argv[1], eval(sys.argv[2])
with open(file, 'wb') as stream:
    stream.write(content)
del content
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print('loaded', load_pickle(file))
except InputError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, 'MiB')
'''


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_size_costs_little_W4(name, tmp_path):
    file = tmp_path / 'a.pdparams'
    done = subprocess.run([sys.executable, '-c', LOAD, file, HOSTILE[name]], cwd=ROOT,
                          capture_output=True, text=True, timeout=30)
    answer, growth = done.stdout.splitlines()
    assert int(growth.split()[0]) < 100
    assert answer.startswith(f'{file}: ') or (name == 'memo' and answer == 'loaded []')


def test_fuzz_400_files_W9_W10():
    """200 mutated and 200 built ones."""
    loaded, refused = fuzz(400)
    assert loaded + refused == 400 and refused > 350
