"""CONTRIBUTING.md's family, made in a temporary folder from the blocks of that page: a folder, a
model file, a config, and one line in the registry."""
import os
import re
import shutil
import subprocess
import sys

import pytest

from common.zoo import FAMILIES
from tests.conftest import ROOT, write_image_list
from tests.pages import all_blocks

USE = '''
import pickle
import numpy as np, paddle
from common.attention_maps import attention_maps, rollout
from common.export import export_model
from common.runtimes import load_exported
from common.zoo import create_model, list_models
from toy.toy import Toy

assert list_models('toy*') == ['toy_tiny']
model = create_model('toy_tiny', drop_path=0.1)
assert type(model) is Toy and pickle.loads(pickle.dumps(Toy)) is Toy
model.eval()
image = paddle.randn([1, 3, 32, 64])
assert model(image).shape == [1, 10]
assert [len(feature.shape) for feature in model.extract_feat(image)] == [4]
weights, = model.get_attention(image, [-1])
assert weights.shape == [1, 2, 128, 128]
np.testing.assert_allclose(weights.sum(-1).numpy(), 1, rtol=1e-5)
assert create_model('toy_tiny', num_classes=0)(image).shape == [1, 32]
paddle.save(model.state_dict(), 'toy.pdparams')
again = create_model('toy_tiny', pretrained='toy.pdparams')
again.eval()
assert (again(image) == model(image)).all()
'''


def blocks(language):
    return [block.text for block in all_blocks(language, [ROOT / 'CONTRIBUTING.md'])]


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the project with the new family."""
    root = tmp_path_factory.mktemp('checkout')
    for folder in ('common', 'paddle_vitae', *FAMILIES):
        shutil.copytree(ROOT / folder, root / folder,
                        ignore=shutil.ignore_patterns('__pycache__', 'output'))
    line = next(block for block in blocks('') if "'build_toy'" in block)
    zoo = root / 'common' / 'zoo.py'
    table = 'MODELS = {\n'
    assert table in zoo.read_text()
    zoo.write_text(zoo.read_text().replace(table, table + line))
    model, config = blocks('python')
    toy = root / 'toy'
    (toy / 'configs').mkdir(parents=True)
    (toy / 'toy.py').write_text(model)
    (toy / 'config.py').write_text(config)
    (toy / 'configs' / 'toy_tiny.yaml').write_text(*blocks('yaml'))
    shutil.copy(ROOT / 'vit' / 'datasets.py', toy)
    main = (ROOT / 'vit' / 'main_multi_gpu.py').read_text()
    (toy / 'main_multi_gpu.py').write_text(main.replace('from vit import build_vit',
                                                        'from toy import build_toy'))
    return root


def run(checkout, *command, folder='.'):
    """The standard output of Python in the copy."""
    done = subprocess.run([sys.executable, *command], cwd=checkout / folder, text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': str(checkout)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.smoke
def test_model_of_a_new_family_is_made_and_used(checkout):
    run(checkout, '-c', USE)
    row = run(checkout, '-m', 'common.zoo', 'toy*').splitlines()[-1]
    assert re.match(r'\| toy_tiny \| - .*\| 0\.0M \| 0\.00\d+G \| 32 ', row), row


def test_model_of_a_new_family_is_trained_drawn_and_exported(checkout, tmp_path):
    data = write_image_list(tmp_path / 'data', train=16, val=8, classes=10)
    run(checkout, 'main_multi_gpu.py', '-cfg=./configs/toy_tiny.yaml', f'-data_path={data}',
        f'-output={tmp_path / "out"}', '-dataset=list', '-batch_size=4', '-o',
        'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o', 'TRAIN.RECOMPUTE=True', '-o',
        'TRAIN.LAYER_DECAY=0.5', folder='toy')
    weights, = (tmp_path / 'out').glob('*/best.pdparams')
    image = next((data / 'val').rglob('*.jpg'))
    flags = ['-cfg', 'toy_tiny', '-pretrained', weights]
    run(checkout, '-m', 'common.predict', *flags, image)
    run(checkout, '-m', 'common.visualize', 'attention', *flags, image, '-output',
        tmp_path / 'a.png')
    assert (tmp_path / 'a.png').stat().st_size > 1000
    run(checkout, '-m', 'common.export', *flags, '-format', 'paddle', '-output',
        tmp_path / 'exported')
    run(checkout, '-m', 'common.predict', '-exported', tmp_path / 'exported', image)
