"""The table of models, the counting behind it, conversion, and what a wrong file is known as."""
import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from common.checkpoint import write_atomically
from common.errors import InputError
from common.macs import count_macs
from common.zoo import (
    ALIASES,
    FAMILIES,
    build_model,
    create_model,
    list_models,
    model_config,
    table,
)
from tests.conftest import ROOT, run_script
from tests.reference import Case

README = (ROOT / 'vit' / 'README.md').read_text()


@pytest.mark.smoke
@pytest.mark.parametrize('case, name', [
    ('paddlevit_vit_tiny_patch16_224', 'vit_tiny_patch16_224'),
    ('paddlevit_vit_small_patch32_384', 'vit_small_patch32_384'),
    ('paddlevit_vit_base_patch16_224', 'vit_base_patch16_224'),
    ('npz_R50+ViT-B_16_224', 'vit_base_r50_s16_224')])
def test_macs_are_the_reference_s(case, name):
    config = model_config(name)
    macs = count_macs(lambda: build_model(config), config.DATA.IMAGE_SIZE)
    assert macs == Case('fidelity', case).meta['macs_per_image']


@pytest.mark.smoke
def test_counting_leaves_everything_as_it_was():
    before = paddle.matmul
    model = create_model('vit_digits')
    model.eval()
    x = paddle.randn([1, 3, 32, 32])
    logits = model(x).numpy()
    count_macs(lambda: create_model('vit_digits'), 32)
    assert paddle.matmul is before
    np.testing.assert_array_equal(model(x).numpy(), logits)
    assert np.isfinite(create_model('vit_digits')(x).numpy()).all()  # not lazy any more


@pytest.mark.smoke
def test_readme_has_the_table_of_the_program():
    for pattern in ('vit_tiny*', 'vit_digits'):
        assert all(line in README.splitlines() for line in table(pattern).splitlines())
    for family in FAMILIES:
        readme = (ROOT / family / 'README.md').read_text()
        rows = re.findall(r'^\| (\w+) \|', readme, re.M)
        own = {path.stem for path in (ROOT / family / 'configs').glob('[!_]*.yaml')}
        assert set(rows) & set(list_models()) == own


def test_command_line():
    code, out, err = run_script(['-m', 'common.zoo', 'vit_digits'], folder='.')
    assert code == 0, err
    assert out.strip() == table('vit_digits')


@pytest.mark.smoke
def test_aliases_lead_to_models():
    assert set(ALIASES.values()) <= set(list_models())
    assert model_config('ViT-B_16').MODEL.NAME == 'vit_base_patch16_224'


def tiny_file(folder, name='vit_digits', **options):
    file = str(folder / f'{name}.pdparams')
    model = create_model(name, **options)
    write_atomically(model.state_dict(), file)
    return file, model


@pytest.mark.smoke
@pytest.mark.parametrize('there, here', [
    ('vit_tiny_patch16_224', 'vit_digits'), ('vit_digits', 'vit_tiny_patch16_224'),
    ('vit_small_patch32_224', 'vit_tiny_patch16_224')])
def test_file_of_another_model_is_named_L4(there, here, tmp_path):
    file, _ = tiny_file(tmp_path, there)
    with pytest.raises(InputError, match=f'nothing was loaded: .*; the file fits to .*{there}'):
        create_model(here, pretrained=file)
    with pytest.raises(InputError, match='nothing was loaded'):
        create_model(here, pretrained=file, depth=5)


@pytest.mark.smoke
@pytest.mark.parametrize('suffix', ['.pdparams', '.safetensors'])
def test_conversion_W8(suffix, tmp_path):
    source, model = tiny_file(tmp_path)
    target = tmp_path / f'out{suffix}'
    code, out, err = run_script(['load_pytorch_weights.py', '-cfg=./configs/vit_digits.yaml',
                                 f'-src={source}', f'-dst={target}', '-check'])
    assert code == 0, err
    assert re.search(r'check: the logits are equal, hash [0-9a-f]{16}$', out.strip())
    copy = create_model('vit_digits', pretrained=str(target))
    for name, value in copy.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[name].numpy())
    if suffix == '.pdparams':
        assert copy.set_state_dict(paddle.load(str(target))) == ([], [])


@pytest.mark.smoke
def test_conversion_refuses(tmp_path):
    source, _ = tiny_file(tmp_path)
    for arguments, message in [
            (['-cfg=vit_digits', f'-src={source}', '-dst=a.onnx'], '-dst: got a.onnx, expected'),
            (['-cfg=vit_tiny_patch16_224', f'-src={source}', '-dst=a.pdparams'], 'nothing was lo'),
            (['-cfg=vit_digits', '-src=none', '-dst=a.pdparams'], 'none: no such weight file')]:
        code, _, err = run_script(['load_pytorch_weights.py', *arguments])
        assert code == 1 and err.startswith('error: ') and message in err, err
        assert not (ROOT / 'vit' / 'a.pdparams').exists()


@pytest.mark.smoke
def test_flipped_byte_is_noticed_W7(tmp_path):
    file, _ = tiny_file(tmp_path, depth=1)
    content = Path(file).read_bytes()
    random = np.random.RandomState(0)
    for place in random.randint(0, len(content), 50):
        flipped = bytearray(content)
        flipped[place] ^= 1 << random.randint(8)
        Path(file).write_bytes(flipped)
        with pytest.raises(InputError, match=f'{file}: (damaged|refused|not a weight file)'):
            create_model('vit_digits', pretrained=file, depth=1)
