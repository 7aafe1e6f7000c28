"""A file that knows its model needs no name: own checkpoints, others' weights, every tool."""
import json
import os
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

from common import export, features, predict, serve, visualize, zoo
from common.apis import inference_model, init_model
from common.config import plain_config
from common.convert import convert
from common.export import export_model
from common.model_flags import model_of
from common.train.checkpoint import save_weights, write_atomically
from common.weights.load import Weights
from common.zoo import build_model, config_of_weights, create_model, list_models, model_config
from tests.conftest import ROOT, refusal, run_script

# {model: keys that no yaml of the zoo has}
OWN = {
    'vit_digits': {'depth': 3, 'embed_dim': 64, 'mlp_ratio': 3.0, 'num_heads': 2, 'image_size': 64},
    'vitae_digits': {'groups': [1, 1, 8], 'num_heads': [1, 1, 2]},
    'vitaev2_vsa_digits': {'wide_pcm': True, 'qkv_bias': False},
    'swin_tiny': {'token_dims': [16, 32, 64, 128], 'depths': [1, 1, 2, 1], 'window_size': 4,
                  'num_heads': [1, 2, 2, 4], 'image_size': 128}}
NAMES = [f'火箭 {number}' for number in range(7)]


def run_of(folder, name='vit_digits', said=(), names=NAMES, options=(), **keys):
    """A run's folder with the best weights of a model under a name of its own, and the model.

    said: {key: value}, which the file's config says instead of what is true.
    """
    folder.mkdir(exist_ok=True)
    model = create_model(name, num_classes=len(names), options=['MODEL.NAME=mine', *options],
                         **keys)
    config = plain_config(model.config)
    for key, value in dict(said).items():
        node, _, leaf = key.partition('.')
        config[node][leaf] = value
    save_weights(str(folder / 'best.pdparams'), model,
                 {'epoch': 1, 'config': config, 'class_names': list(names)})
    return str(folder), model


def logits_of(model):
    model.eval()
    side = model.config.DATA.IMAGE_SIZE
    pixels = np.random.RandomState(0).standard_normal([2, 3, side, side]).astype('float32')
    return model(paddle.to_tensor(pixels)).numpy()


def weights_of(name, layout='paddle', **keys):
    """Weights with the names and shapes of a model's, of no size in memory."""
    config = model_config(name).clone()
    config.defrost()
    for key, value in keys.items():
        node = config.DATA if key == 'IMAGE_SIZE' else config.MODEL
        node[key] = value
    with paddle.LazyGuard():
        model = build_model(config)
    state = {key: np.broadcast_to(np.float32(0), value.shape)
             for key, value in model.state_dict().items()}
    return Weights(layout, state, [], {})


# Checkpoints of this project

@pytest.mark.smoke
@pytest.mark.parametrize('name', OWN)
def test_own_checkpoint_makes_its_model_whether_in_the_zoo_or_not(name, tmp_path):
    folder, model = run_of(tmp_path / 'run', name, **OWN[name],
                           options=['DATA.CROP_PCT=0.77', 'DATA.INTERPOLATION=bilinear'])
    assert 'mine' not in list_models()
    for file in (folder, f'{folder}/best.pdparams'):
        found = init_model(checkpoint=file)
        assert found.config.MODEL == model.config.MODEL
        for key in ('IMAGE_SIZE', 'CROP_PCT', 'INTERPOLATION', 'IMAGENET_MEAN'):
            assert found.config.DATA[key] == model.config.DATA[key]
        assert found.class_names == NAMES
        assert found.notes[0] == 'model mine, as the config in the file says'
    assert np.array_equal(logits_of(found), logits_of(model))


@pytest.mark.smoke
def test_user_s_word_wins_over_the_file_s(tmp_path):
    folder, _ = run_of(tmp_path / 'run')
    model = create_model(pretrained=folder, num_classes=3, image_size=64,
                         options=['DATA.CROP_PCT=0.5'])
    assert model.config.MODEL.NUM_CLASSES == 3 and model.class_names is None
    assert (model.config.DATA.IMAGE_SIZE, model.config.DATA.CROP_PCT) == (64, 0.5)
    assert create_model(pretrained=folder, num_classes=0).config.MODEL.NUM_CLASSES == 0
    assert 'MODEL.DEPTH=5' not in refusal(lambda: create_model(pretrained=folder, depth=5))


@pytest.mark.smoke
@pytest.mark.parametrize('name, said, message', [
    ('vit_digits', {'MODEL.TYPE': 'resnet'}, "MODEL.TYPE: got 'resnet', expected one of vit, "),
    ('vit_digits', {'MODEL.TYPE': ['vit']}, 'MODEL.TYPE: got'),
    ('vit_digits', {'MODEL.TYPE': 'vitae'}, 'MODEL.'),  # has no such keys
    ('vit_digits', {'MODEL.DEPTH': 10 ** 9},
     'its config says MODEL.DEPTH 1000000000, its arrays are those of 4'),
    ('vit_digits', {'MODEL.EMBED_DIM': 10 ** 9}, 'its config says MODEL.EMBED_DIM 1000000000'),
    ('vit_digits', {'MODEL.MLP_RATIO': 1e9}, 'its config says MODEL.MLP_RATIO'),
    ('vit_digits', {'MODEL.NUM_HEADS': 7}, 'its config makes no model: '),
    ('vit_digits', {'MODEL.NUM_CLASSES': 1 << 62}, 'its config '),  # Paddle refuses, or we
    ('vit_digits', {'MODEL.ATTN_HEAD_SIZE': 10 ** 30}, 'its config makes no model: '),
    ('vitae_digits', {'MODEL.GROUPS': [7, 7, 7]}, 'its config makes no model: '),
    ('vit_digits', {'MODEL.NUM_CLASSES': 10 ** 9}, 'its config says MODEL.NUM_CLASSES 1000000000'),
    ('vit_digits', {'DATA.IMAGE_SIZE': 16384}, 'DATA.IMAGE_SIZE'),
    ('vit_digits', {'DATA.IMAGE_SIZE': 64}, 'its config says DATA.IMAGE_SIZE 64'),
    ('vit_digits', {'MODEL.NAME': '../../x'}, 'MODEL.NAME: got'),
    ('vit_digits', {'MODEL.GATE': 1}, 'unknown key MODEL.GATE'),
    ('vitae_digits', {'MODEL.DEPTHS': [0, 0, 10 ** 9]}, 'its config says MODEL.DEPTHS'),
    ('vitae_digits', {'MODEL.TOKEN_DIMS': [64, 64, 1 << 30]}, 'its config makes no model: '),
    ('vitaev2_vsa_digits', {'MODEL.WINDOW_SIZE': 60}, 'its config says MODEL.WINDOW_SIZE 60'),
    ('vitaev2_vsa_digits', {'MODEL.TYPE': 'swin'}, 'its arrays are not those'),
])
def test_what_a_file_says_is_compared_with_its_arrays(name, said, message, tmp_path):
    folder, _ = run_of(tmp_path / 'run', name, said)
    said = refusal(lambda: create_model(pretrained=folder))
    assert message in said and said.startswith(folder)


@pytest.mark.smoke
def test_neither_name_nor_weights():
    for door in (create_model, init_model):
        assert refusal(door) == 'model: got neither a name nor weights, expected one of them'


# Weights of another code

@pytest.mark.smoke
@pytest.mark.parametrize('name', [
    'vit_digits', 'vit_tiny_patch16_384', 'vit_base_r50_s16_224', 'vit_large_patch32_224',
    'vitae_13m', 'vitaev2_s', 'vitaev2_vsa_b_ws12', 'vitaev2_window_s', 'swin_tiny',
    'swin_small_vsa'])
def test_weights_of_one_model_alone_are_known(name):
    config, weights = config_of_weights(weights_of(name, NUM_CLASSES=21), 'a.pth')
    found = config.MODEL.NAME, config.MODEL.NUM_CLASSES
    assert found == (name, 21)
    assert weights.notes[0].startswith(f'model {name}, by the names and shapes of the weights')
    config, _ = config_of_weights(weights_of(name, NUM_CLASSES=0), 'a.pth')
    assert config.MODEL.NUM_CLASSES == 0  # features are all that it can give


@pytest.mark.smoke
def test_recipes_of_one_model_are_one():
    """vit_base_patch16_384_finetune differs in its training only."""
    config, _ = config_of_weights(weights_of('vit_base_patch16_384_finetune'), 'a.pth')
    assert config.MODEL.NAME == 'vit_base_patch16_384'


@pytest.mark.smoke
def test_several_models_are_listed():
    """Both have published weights, and the pixels are normalised in another way."""
    for name in ('vit_base_patch16_224', 'vit_base_patch16_224_scratch'):
        assert refusal(config_of_weights, weights_of(name), 'a.pth') == (
            'a.pth: the weights fit to vit_base_patch16_224 and vit_base_patch16_224_scratch, '
            'which differ in DATA.IMAGENET_MEAN, DATA.IMAGENET_STD; expected one of these names '
            '(-cfg)')


@pytest.mark.smoke
def test_what_no_model_has_is_said():
    said = refusal(config_of_weights, weights_of('vit_digits', DEPTH=7), 'a.pth')
    assert said == ("a.pth: the weights do not tell which model they are of; the file fits to "
                    "vit_digits with -o MODEL.DEPTH=7; expected the model's name or yaml (-cfg)")
    said = refusal(config_of_weights, weights_of('vit_digits', IMAGE_SIZE=64), 'a.pth')
    assert 'fit to vit_digits, but are for another image size' in said
    state = {'a': np.zeros(3, np.float32)}
    assert 'no model has these names' in refusal(
        config_of_weights, Weights('torch', state, [], {}), 'a.pth')
    distilled = {'cls_token': np.zeros([1, 1, 8], np.float32),
                 'dist_token': np.zeros([1, 1, 8], np.float32)}
    distilled |= {f'blocks.0.{name}': np.zeros(8, np.float32)
                  for name in ('norm1.weight', 'attn.qkv.bias', 'mlp.fc1.bias')}
    assert 'distilled DeiT' in refusal(
        config_of_weights, Weights('torch', distilled, [], {}), 'a.pth')


@pytest.mark.smoke
def test_file_of_another_code_predicts_as_with_its_name(tmp_path):
    paddle.seed(1)
    file = str(tmp_path / 'w.pdparams')
    model = create_model('vitae_digits', num_classes=4)
    paddle.save(model.state_dict(), file)
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, [40, 50, 3], np.uint8))
    expected = inference_model(model, image)['pred_scores']
    assert np.array_equal(inference_model(init_model(checkpoint=file), image)['pred_scores'],
                          expected)


@pytest.mark.smoke
def test_incomplete_config_is_no_config(tmp_path):
    """As a file has it that was made by hand: classes are said, the model is not."""
    file = str(tmp_path / 'w.pdparams')
    write_atomically({'model': create_model('vit_digits', num_classes=3).state_dict(),
                      'format_version': 2, 'config': {'MODEL': {'NUM_CLASSES': 3}}}, file)
    model = create_model(pretrained=file)
    assert (model.config.MODEL.NAME, model.config.MODEL.NUM_CLASSES) == ('vit_digits', 3)


# The tools

TOOLS = {'predict': (predict, ['a.png']), 'features': (features, ['a.png']),
         'attention': (visualize, ['attention', 'a.png']),
         'windows': (visualize, ['windows', 'a.png']),
         'embedding': (visualize, ['embedding']), 'export': (export, ['-output', 'out']),
         'serve': (serve, [])}


@pytest.mark.smoke
@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_takes_a_run_s_folder(tool, tmp_path, capsys):
    module, arguments = TOOLS[tool]
    folder, _ = run_of(tmp_path / 'run', depth=2)
    names = tmp_path / "it's: \"odd\" 火.txt"
    names.write_text('\n'.join('abcdefg'))
    shows_names = tool in ('predict', 'export', 'serve')
    given = ['--class_names', str(names)] if shows_names else []
    for flags, expected in ([], NAMES), (given, list('abcdefg') if shows_names else NAMES):
        args = module.make_parser().parse_args([*arguments, '-pretrained', folder, *flags])
        model = model_of(args)
        assert (model.config.MODEL.NAME, model.config.MODEL.DEPTH) == ('mine', 2)
        assert model.class_names == expected and not model.training
        assert capsys.readouterr().err == (
            f'{folder}: model mine, as the config in the file says\n')
    args = module.make_parser().parse_args([*arguments, '-pretrained', folder, '-cfg',
                                            'vit_digits', '-o', 'MODEL.DEPTH=2'])
    assert model_of(args).config.MODEL.NAME == 'vit_digits'
    assert capsys.readouterr().err == ''
    names.write_text('a\nb')
    if shows_names:
        args = module.make_parser().parse_args([*arguments, '-pretrained', folder, *given])
        assert 'got 2 class names, expected 7' in refusal(model_of, args)


def test_commands_with_a_run_and_nothing_else(tmp_path):
    """As a user types them: predict, and the others one after the other in a second process."""
    folder, model = run_of(tmp_path / 'run', depth=2, embed_dim=32)
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'a.png')
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join('abcdefg'))
    code, out, error = run_script(
        ['-m', 'common.predict', '-pretrained', folder, tmp_path / 'a.png', '-json',
         tmp_path / 'a.json', '-topk', 7, '-class_names', names], folder=ROOT)
    assert code == 0, error
    assert error == f'{folder}: model mine, as the config in the file says\n'
    found, = json.loads((tmp_path / 'a.json').read_text())
    assert {one['name'] for one in found['classes']} == set('abcdefg')
    best = inference_model(model, str(tmp_path / 'a.png'))
    assert found['classes'][0]['label'] == best['pred_label']
    flags = f"'-pretrained', {folder!r}"
    code = '\n'.join([
        'from common import convert, export, features, predict, visualize',
        f"features.main([{flags}, 'a.png', '-output', 'a.npz'])",
        f"visualize.main(['attention', {flags}, 'a.png', '-output', 'a_map.png'])",
        f"export.main([{flags}, '-output', 'graph'])",
        "predict.main(['-exported', 'graph', 'a.png', '-class_names', 'names.txt', '-json', "
        "'b.json'])",
        f"convert.main(['-src', {folder!r}, '-dst', 'c.safetensors', '-check'])"])
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "load it with a yaml of mine as -cfg, such as the run's config.yaml" in done.stdout
    for file in ('a.npz', 'a_map.png', 'graph/export.json', 'c.safetensors'):
        assert (tmp_path / file).is_file(), file
    exported, = json.loads((tmp_path / 'b.json').read_text())
    assert exported['classes'][0]['name'] == found['classes'][0]['name']


@pytest.mark.smoke
def test_no_tool_writes_over_the_weights(tmp_path):
    folder, _ = run_of(tmp_path / 'run')
    before = (tmp_path / 'run' / 'best.pdparams').read_bytes()
    with pytest.raises(SystemExit, match='which is read too'):
        predict.main(['-pretrained', folder, '-json', f'{folder}/best.pdparams', 'a.png'])
    assert (tmp_path / 'run' / 'best.pdparams').read_bytes() == before


@pytest.mark.smoke
def test_convert_says_what_the_result_lacks(tmp_path):
    folder, _ = run_of(tmp_path / 'run', options=['MODEL.NAME=vit_digits'])
    notes, _ = convert(None, folder, str(tmp_path / 'a.pdparams'))
    assert notes[0] == 'model vit_digits, as the config in the file says'
    assert notes[-1] == 'the result holds weights only; load it with -o MODEL.NUM_CLASSES=7'
    assert create_model(pretrained=str(tmp_path / 'a.pdparams')).config.MODEL.NUM_CLASSES == 7


@pytest.mark.smoke
def test_names_for_an_export_are_counted(tmp_path):
    export_model(create_model('vit_digits'), str(tmp_path / 'graph'), 'paddle')
    (tmp_path / 'names.txt').write_text('a\nb')
    args = predict.make_parser().parse_args(['a.png', '-exported', str(tmp_path / 'graph'),
                                             '-class_names', str(tmp_path / 'names.txt')])
    assert re.search('got 2 class names, expected 10', refusal(predict.classifier_of, args))


@pytest.mark.smoke
def test_identifying_is_of_the_zoo(monkeypatch):
    """Whatever the zoo has is looked at: a model that is taken out of it is not found."""
    weights = weights_of('vitae_digits')
    keep = zoo.models_of
    monkeypatch.setattr(zoo, 'models_of',
                        lambda family: [name for name in keep(family) if name != 'vitae_digits'])
    assert 'do not tell' in refusal(config_of_weights, weights, 'a.pth')
