"""The table of models, the counting behind it, conversion, and what a wrong file is known as."""
import importlib
import logging
import pickle
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from common import zoo
from common.apis import inference_model, init_model
from common.config import plain_config
from common.convert import convert
from common.core.errors import InputError
from common.export import export_model, runtime_of
from common.layers.macs import count_macs
from common.train.checkpoint import save_weights, write_atomically
from common.zoo import (
    ALIASES,
    FAMILIES,
    build_model,
    check_family,
    create_model,
    describe,
    list_models,
    load_family_file,
    model_config,
    table,
)
from tests.conftest import ROOT, refusal, run_script
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


def run_s_file(path, name='vit_digits', config=None, **options):
    """A run's best.pdparams, and the model; `config` changes what the file says about itself."""
    model = create_model(name, **options)
    said = plain_config(model.config)
    for key, value in (config or {}).items():
        node, leaf = key.split('.')
        said[node][leaf] = value
    names = [f'class {k}' for k in range(model.config.MODEL.NUM_CLASSES)]
    save_weights(str(path), model, {'epoch': 1, 'config': said, 'class_names': names})
    return str(path), model


# What a checkpoint says about itself

@pytest.mark.smoke
@pytest.mark.parametrize('name, config, message', [
    ('vit_digits', {'MODEL.NUM_CLASSES': 20_000_000},
     'NUM_CLASSES 20000000, for which classifier.weight is .96, 20000000.; the file has .96, 10.$'),
    ('vit_digits', {'DATA.IMAGE_SIZE': 4096},
     'IMAGE_SIZE 4096, for which position_embedding is .1, 262145, 96.; the file has .1, 17, 96.$'),
    ('vit_digits', {'DATA.IMAGE_SIZE': 16384}, 'IMAGE_SIZE 16384 and .* at most 4096 pixels'),
    ('vitae_digits', {'DATA.IMAGE_SIZE': [64, 16384]}, 'expected images of at most 4096 pixels'),
    ('vitae_digits', {'DATA.CROP_PCT': 0.01, 'DATA.IMAGE_SIZE': 64}, 'at most 4096 pixels'),
])
def test_size_that_a_checkpoint_only_says_costs_nothing_L14(name, config, message, tmp_path):
    file, _ = run_s_file(tmp_path / 'best.pdparams', name, config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.thread_time()
    for load in (lambda: init_model(name, file), lambda: create_model(name, pretrained=file),
                 lambda: convert(name, file, str(tmp_path / 'a.pdparams'))):
        with pytest.raises(InputError, match=f'^{file}: its config says .*{message}'):
            load()
    assert time.thread_time() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert not (tmp_path / 'a.pdparams').exists()


@pytest.mark.smoke
def test_user_s_size_wins_over_the_checkpoint_s_L14(tmp_path):
    file, _ = run_s_file(tmp_path / 'best.pdparams', config={'DATA.IMAGE_SIZE': 16384})
    assert create_model('vit_digits', pretrained=file, image_size=64).grid == (8, 8)
    file, _ = run_s_file(tmp_path / 'best.pdparams', 'vitae_digits', {'DATA.IMAGE_SIZE': 16384})
    model = create_model('vitae_digits', pretrained=file, image_size=16384)
    assert model.config.DATA.IMAGE_SIZE == 16384
    assert create_model('vitae_digits', pretrained=file, image_size=32).config.DATA.IMAGE_SIZE == 32


@pytest.mark.smoke
def test_what_another_code_says_is_not_believed_L14(tmp_path):
    """Other codes keep a `config` beside their weights, too, with other values under our keys."""
    source, file = create_model('vit_digits'), str(tmp_path / 'a.pdparams')
    for beside in ({'config': {'MODEL': {'NUM_CLASSES': '1000'}, 'DATA': {'DATASET': 'imagenet'}}},
                   {'class_names': {'0': 'zero'}}):
        write_atomically({'model': source.state_dict(), **beside}, file)
        model = create_model('vit_digits', pretrained=file)
        assert np.array_equal(model.cls_token.numpy(), source.cls_token.numpy())
        assert (model.config.MODEL.NUM_CLASSES, model.class_names) == (10, None)


# The front doors

@pytest.mark.smoke
def test_number_of_classes_by_either_name_L17(tmp_path):
    file, _ = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    for argument in ('num_classes', 'NUM_CLASSES'):
        model = create_model('vit_digits', pretrained=file, **{argument: 5})
        assert model.classifier.weight.shape == [96, 5] and model.class_names is None
        assert model.notes == ['classifier: new, [96, 5]; the file has [96, 3]']


@pytest.mark.smoke
def test_features_are_no_classes_by_any_door_L17(tmp_path):
    model = create_model('vit_digits', num_classes=0)
    folder = str(tmp_path / 'export')
    for use in (lambda: inference_model(model, np.zeros((32, 32, 3), np.uint8)),
                lambda: export_model(model, folder, 'paddle'), lambda: runtime_of(model)):
        assert refusal(use).startswith('model: got one without a classifier')
    assert not list(tmp_path.iterdir())


@pytest.mark.smoke
def test_checkpoint_is_not_converted_in_its_place_O5(tmp_path):
    """What it says and its training state would be lost."""
    file, _ = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    before = Path(file).read_bytes()
    (tmp_path / 'link.pdparams').symlink_to(file)
    for source, target in ((file, file), (str(tmp_path), file),
                           (file, str(tmp_path / 'link.pdparams'))):
        assert refusal(convert, 'vit_digits', source, target).startswith(
            f'-dst: got {target}, the source itself, which holds more than weights')
    assert Path(file).read_bytes() == before


@pytest.mark.smoke
def test_run_s_own_file_loads_by_every_door_L17(tmp_path):
    file, source = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    target = str(tmp_path / 'a.safetensors')
    notes, digest = convert('vit_digits', file, target, check=True)
    assert digest and notes == ['the result holds weights only; load it with '
                                '-o MODEL.NUM_CLASSES=3']
    assert refusal(convert, 'vit_digits', target, target)
    convert('vit_digits', target, target, options=['MODEL.NUM_CLASSES=3'])
    models = [init_model('vit_digits', file), create_model('vit_digits', pretrained=file),
              create_model('vit_digits', pretrained=target, num_classes=3)]
    for model in models:
        assert np.array_equal(model.classifier.weight.numpy(), source.classifier.weight.numpy())
    assert models[0].class_names == models[1].class_names == ['class 0', 'class 1', 'class 2']
    assert create_model('vit_digits', pretrained=str(tmp_path)).notes == [f'read from {file}']
    fresh = create_model('vit_digits', pretrained=file, num_classes=5)
    assert fresh.notes == ['classifier: new, [96, 5]; the file has [96, 3]']
    (tmp_path / 'empty').mkdir()
    assert "expected a run's folder" in refusal(init_model, 'vit_digits', str(tmp_path / 'empty'))


@pytest.mark.smoke
def test_command_converts_a_run_s_file_L17(tmp_path):
    file, _ = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    write_atomically(create_model('vit_digits', pretrained=file).state_dict(), file)
    code, out, err = run_script(['-m', 'common.convert', '-cfg=vit_digits', f'-src={file}',
                                 f'-dst={tmp_path}/a.safetensors', '-o', 'MODEL.NUM_CLASSES=3'],
                                folder='.')
    assert code == 0 and 'a.safetensors' in out, err


@pytest.mark.smoke
@pytest.mark.parametrize('name, size', [('vit_digits', 32), ('vitae_digits', 32),
                                        ('vitaev2_vsa_digits', 32), ('swin_tiny', 56)])
def test_model_without_a_classifier_gives_the_features_L17(name, size, tmp_path):
    small = {'depths': [1, 1, 1, 1]} if name == 'swin_tiny' else {}
    file, source = tiny_file(tmp_path, name, num_classes=10, image_size=size, **small)
    model = create_model(name, pretrained=file, num_classes=0, image_size=size, drop_path=0.0,
                         **small)
    head = list(getattr(source, source.classifier_name).weight.shape)
    assert getattr(model, model.classifier_name) is None and model.class_names is None
    assert model.notes == [f'{model.classifier_name}: left out; the file has {head}']
    image = paddle.randn([2, 3, size, size])
    source.eval()
    model.eval()
    with paddle.no_grad():
        features = model(image).numpy()
        assert features.shape == (2, model.num_features)
        assert np.array_equal(features, source.forward_features(image).numpy())
    assert 'a classifier (MODEL.NUM_CLASSES 0)' in refusal(inference_model, model, 'x.png')


@pytest.mark.smoke
def test_constructor_s_own_names_are_known_L17():
    model = create_model('vit_digits', drop_path=0.2, depth=2)
    assert model.config.MODEL.DROPPATH == 0.2
    assert create_model('vit_digits', drop_path_rate=0.3, depth=1).config.MODEL.DROPPATH == 0.3
    dims = create_model('swin_tiny', dims=[8, 16, 32, 64], num_heads=[1, 1, 1, 1], image_size=32)
    assert dims.num_features == 64
    with pytest.raises(InputError, match='^DROPPATH, drop_path: got both'):
        create_model('vit_digits', DROPPATH=0.1, drop_path=0.2)


@pytest.mark.smoke
@pytest.mark.parametrize('door, training', [(create_model, True), (init_model, False)])
def test_both_doors_take_the_same_keywords_L17(door, training, tmp_path, caplog):
    file, source = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    for keyword in ('pretrained', 'checkpoint'):
        model = door('vit_digits', **{keyword: file}, device='cpu', drop_path=0.2,
                     options=['DATA.CROP_PCT=0.7'])
        assert np.array_equal(model.classifier.weight.numpy(), source.classifier.weight.numpy())
        assert model.class_names == ['class 0', 'class 1', 'class 2']
        assert (model.config.MODEL.DROPPATH, model.config.DATA.CROP_PCT) == (0.2, 0.7)
        assert model.training is training
    with caplog.at_level(logging.INFO, logger='paddle_vitae'):
        model = door('vit_digits', pretrained=file, image_size=64, num_classes=0)
    assert tuple(model(paddle.zeros([1, 3, 64, 64])).shape) == (1, 96) and model.class_names is None
    assert [record.getMessage() for record in caplog.records] == [
        f'{file}: {note}' for note in model.notes] and len(model.notes) == 2
    assert door('vit_digits', num_classes=7).notes == []


@pytest.mark.smoke
@pytest.mark.parametrize('door', [create_model, init_model])
def test_one_thing_said_twice_is_refused_at_both_doors_L17(door, tmp_path):
    assert refusal(lambda: door('vit_digits', pretrained='a', checkpoint='b')) == (
        'pretrained, checkpoint: got both, expected one of them')
    assert refusal(lambda: door('vit_digits', num_classes=3, options=['MODEL.NUM_CLASSES=4'])) == (
        'num_classes, -o MODEL.NUM_CLASSES: got both, expected one of them')
    assert refusal(lambda: door('vit_digits', depth=3, DEPTH=4)) == (
        'depth, DEPTH: got both, expected one of them')
    assert "device: got 'tpu'" in refusal(lambda: door('vit_digits', device='tpu'))
    file, _ = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    assert 'of another shape' in refusal(  # an option is no wish for a new classifier
        lambda: door('vit_digits', pretrained=file, options=['MODEL.NUM_CLASSES=5']))


@pytest.mark.smoke
def test_positions_of_arguments_are_those_that_they_were_L17(tmp_path):
    file, _ = run_s_file(tmp_path / 'best.pdparams', num_classes=3)
    model = create_model('vit_digits', file, 3, 64)
    assert (model.config.MODEL.NUM_CLASSES, model.config.DATA.IMAGE_SIZE) == (3, 64)
    model = init_model('vit_digits', file, 'cpu', ['DATA.CROP_PCT=0.7'])
    assert model.config.DATA.CROP_PCT == 0.7


# What a file is

@pytest.mark.smoke
def test_sizes_of_a_file_are_named_with_the_options_that_fit_L16(tmp_path):
    with paddle.LazyGuard():
        state = create_model('swin_tiny', window_size=12).state_dict()
    state = {name: np.broadcast_to(np.float32(0), value.shape) for name, value in state.items()}
    assert describe(state, 'paddle') == '; the file fits to swin_tiny with -o MODEL.WINDOW_SIZE=12'
    file, _ = tiny_file(tmp_path, 'vit_digits', depth=3, embed_dim=64)
    with pytest.raises(InputError, match='fits to vit_digits with -o MODEL.EMBED_DIM=64 '
                                         '-o MODEL.DEPTH=3$'):
        create_model('vit_digits', pretrained=file)


@pytest.mark.smoke
def test_naming_a_model_builds_no_other_L16(monkeypatch):
    built = []
    build = zoo.without_weights.__wrapped__
    monkeypatch.setattr(zoo, 'without_weights', lambda name: built.append(name) or build(name))
    for name in ('vit_digits', 'vitae_digits', 'vitaev2_vsa_digits', 'swin_tiny'):
        state = {key: np.empty(value.shape, np.float32)
                 for key, value in build(name).state_dict().items()}
        assert describe(state, 'paddle') == f'; the file fits to {name}'
    assert len(built) < 8
    assert describe({'a': np.zeros(3, np.float32)}, 'torch') == ''


@pytest.mark.smoke
def test_yaml_of_another_family_is_named_L16():
    config = model_config('vit_digits')
    check_family(str(ROOT / 'vit/configs/vit_digits.yaml'), config)
    check_family(None, config)
    file = str(ROOT / 'vitae/configs/vitae_digits.yaml')
    assert re.search('vitae_digits.yaml:[0-9]+: MODEL.TYPE: got vitae, a model of vitae/; expected '
                     'one of vit/ here: cd ../vitae', refusal(check_family, file, config))
    code, _, err = run_script(['main_multi_gpu.py', f'-cfg={file}'])
    assert code == 1 and 'a model of vitae/' in err and len(err.splitlines()) == 1


# One copy of each class

@pytest.mark.smoke
def test_models_are_of_the_classes_that_users_import_L17():
    import vit.vit
    import vitaev2_vsa.swin
    import vitaev2_vsa.vitaev2_vsa
    import vitaev2_vsa.vsa
    assert isinstance(create_model('vit_digits', depth=1), vit.vit.VisionTransformer)
    assert issubclass(vitaev2_vsa.vitaev2_vsa.TokenVSA, vitaev2_vsa.vsa.VSAWindowAttention)
    assert vitaev2_vsa.swin.TokenVSA is vitaev2_vsa.vitaev2_vsa.TokenVSA
    for family, file, build in zoo.MODELS.values():
        module = load_family_file(family, file)
        assert sys.modules[module.__name__] is module
        assert pickle.loads(pickle.dumps(getattr(module, build))) is getattr(module, build)


@pytest.mark.smoke
@pytest.mark.parametrize('name, module, class_name', [
    ('vit_digits', 'vit.vit', 'VisionTransformer'), ('vitae_digits', 'vitae.vitae', 'ViTAE'),
    ('vitaev2_vsa_digits', 'vitaev2_vsa.vitaev2_vsa', 'ViTAEv2'),
    ('swin_tiny', 'vitaev2_vsa.swin', 'Swin')])
def test_model_of_each_family_is_of_the_class_that_users_import_L17(name, module, class_name):
    with paddle.LazyGuard():
        model = create_model(name)
    cls = getattr(importlib.import_module(module), class_name)
    assert type(model) is cls
    assert pickle.loads(pickle.dumps(cls)) is cls


IN_THE_FOLDER = """
import pickle
from common.zoo import create_model
models = [create_model('vit_digits', depth=1), create_model('vitae_digits')]
from config import get_config
from vit import VisionTransformer
assert isinstance(models[0], VisionTransformer)
for model in models:
    assert pickle.loads(pickle.dumps(type(model))) is type(model)
assert get_config('./configs/vit_digits.yaml').MODEL.NAME == 'vit_digits'
"""


@pytest.mark.smoke
def test_classes_are_the_same_inside_of_a_family_s_folder_L17():
    code, _, err = run_script(['-c', IN_THE_FOLDER], env={'PYTHONPATH': str(ROOT)})
    assert code == 0, err


IN_THE_FOLDER_OF_VSA = """
import importlib, pickle
from common.zoo import create_model
models = [create_model('vitaev2_vsa_digits'), create_model('swin_tiny_vsa', image_size=32)]
from vsa import VSAWindowAttention
for model in models:
    assert any(isinstance(layer, VSAWindowAttention) for layer in model.sublayers())
assert pickle.loads(pickle.dumps(VSAWindowAttention)) is VSAWindowAttention
"""


@pytest.mark.smoke
def test_attention_of_vsa_is_one_class_inside_of_its_folder_L17():
    code, _, err = run_script(['-c', IN_THE_FOLDER_OF_VSA], folder='vitaev2_vsa',
                              env={'PYTHONPATH': str(ROOT)})
    assert code == 0, err


@pytest.mark.smoke
def test_attention_of_vsa_is_one_class_from_the_root_L17():
    from vitaev2_vsa.vsa import VSAWindowAttention
    model = create_model('vitaev2_vsa_digits')
    assert any(isinstance(layer, VSAWindowAttention) for layer in model.sublayers())


@pytest.mark.smoke
def test_names_in_another_code_s_checkpoint_say_how_many_classes_there_are_L17(tmp_path):
    """Its config is left alone: DATA.IMAGE_SIZE may be another key there."""
    state = create_model('vit_digits', num_classes=3).state_dict()
    file, target = str(tmp_path / 'other.pdparams'), str(tmp_path / 'a.safetensors')
    paddle.save({'model': state, 'epoch': 1, 'class_names': ['alpha', 'beta', 'gamma'],
                 'config': {'MODEL': {'NUM_CLASSES': 7}, 'DATA': {'IMAGE_SIZE': 99}}}, file)
    for model in (create_model('vit_digits', file), init_model('vit_digits', file)):
        assert (model.num_classes, model.class_names) == (3, ['alpha', 'beta', 'gamma'])
        assert model.config.DATA.IMAGE_SIZE == 32
    assert convert('vit_digits', file, target)[0][-1].endswith('-o MODEL.NUM_CLASSES=3')
    with pytest.raises(InputError, match='its class names say MODEL.NUM_CLASSES 2'):
        paddle.save({'model': state, 'class_names': ['alpha', 'beta']}, file)
        create_model('vit_digits', file)


@pytest.mark.smoke
@pytest.mark.parametrize('class_names', [5, 'abc', [1, 2, 3], [['a']]])
def test_class_names_that_are_no_names_are_refused_L17(class_names, tmp_path):
    file = str(tmp_path / 'a.pdparams')
    state = create_model('vit_digits', num_classes=3).state_dict()
    paddle.save({'model': state, 'format_version': 2, 'class_names': class_names}, file)
    with pytest.raises(InputError, match=f'^{file}: '):
        create_model('vit_digits', file)
