"""Keys: each is checked by what its own line says, in every copy of a config."""
import copy
import dataclasses
import inspect
import multiprocessing
import pickle

import pytest
from yacs.config import CfgNode

from common.config import (
    base_config,
    check_value,
    leaf_keys,
    load_config,
    model_arguments,
    set_key,
    update_config,
)
from common.core.config_keys import Key
from common.core.config_nodes import ConfigNode
from common.zoo import FAMILIES, MODELS, list_models, load_family_file, model_config
from tests.conftest import refusal

pytestmark = pytest.mark.smoke

SET = {'MODEL.DEPTH': 0, 'MODEL.ATTN_HEAD_SIZE': 1.5, 'TRAIN.OPTIMIZER.BETAS': [0.9],
       'AUG.SCALE': [1, 0.5], 'DEVICE': 'tpu', 'SEED': None, 'MODEL.NAME': 'a/b'}


def value_of(config, key):
    for part in key.split('.'):
        config = config[part]
    return config


def refusals(config):
    """What a config says about the values of SET."""
    config = config.clone()
    config.defrost()
    return [refusal(set_key, config, key, value, 'a') for key, value in SET.items()]


def vit_config():
    return model_config('vit_digits')


# Key

@pytest.mark.parametrize('key, value, expected', [
    (Key(2, low=1), 3, 3),
    (Key(2.0, low=1), 3, 3.0),
    (Key(None, kind=int, low=1), None, None),
    (Key(None, kind=int, low=1), 3, 3),
    (Key(None, kind=float), '1e-3', 1e-3),
    (Key(None, kind=str, choices=('a', 'b')), None, None),
    (Key([1, 2], low=1), [3], [3]),
    (Key([1, 2], low=1), (3, 4), [3, 4]),
    (Key([0.5], length=2), '(1, 2)', [1.0, 2.0]),
    (Key([]), ['a'], ['a']),
    (Key(224, pair=True), [32, 64], [32, 64]),
    (Key('a', choices=('a', 'b')), 'b', 'b'),
])
def test_value_in_the_type_of_its_key(key, value, expected):
    found = key.check('X', value, 'a')
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize('key, value, expected', [
    (Key(2, low=1), 0, 'at least 1'),
    (Key(2, low=1, high=4), 5, '1 to 4'),
    (Key([2, 2], low=1, high=4), [1, 5], '1 to 4'),
    (Key(2), 2.0, 'whole number'),
    (Key(2), None, 'whole number'),
    (Key(2.0), 'fast', 'a number'),
    (Key(None, kind=int), '5', 'whole number'),
    (Key(True), 1, 'true or false'),
    (Key('a', choices=('a', 'b')), 'c', 'one of a, b'),
    (Key([1]), [1.0], 'a list of whole numbers'),
    (Key([1]), 1, 'a list'),
    (Key([1, 2], length=2), [1], '2 numbers'),
    (Key([1.0, 2.0], length=2, ascending=True), [2, 1], 'the smaller one first'),
    (Key(224, pair=True), [1, 2, 3], 'a whole number or [height, width]'),
])
def test_other_values_are_refused_with_what_is_expected(key, value, expected):
    message = refusal(key.check, 'X', value, 'a.yaml:3')
    assert message.startswith('a.yaml:3: X: got ') and message.endswith(f', expected {expected}')


@pytest.mark.parametrize('default, kind', [(None, None), (3, int)])
def test_kind_stands_with_a_default_of_none_only(default, kind):
    with pytest.raises(TypeError, match='expected a kind'):
        Key(default, kind=kind)


# What a config knows of its keys

@pytest.mark.parametrize('family', FAMILIES)
def test_every_default_is_a_value_that_its_key_takes(family):
    config = load_family_file(family, 'config').get_config().clone()
    config.defrost()
    before = config.clone()
    for key in leaf_keys(before):
        set_key(config, key, value_of(before, key), 'a')
    assert config == before


def test_plain_value_is_a_key_of_its_type_and_a_new_default_keeps_the_key():
    node = ConfigNode()
    node.DEPTH, node.BIAS = Key(12, low=1), True
    node.DEPTH = 4
    assert (node.DEPTH, node.BIAS) == (4, True)
    assert node.key('DEPTH').low == 1 and node.key('BIAS') == Key(True)


def spawned(config, queue):
    queue.put((config, refusals(config)))


@pytest.mark.parametrize('copied', [
    lambda config: config.clone(),
    copy.deepcopy,
    lambda config: pickle.loads(pickle.dumps(config)),
    load_config,
    update_config,
], ids=['clone', 'deepcopy', 'pickle', 'load_config', 'update_config'])
def test_copies_know_their_keys(copied):
    config = vit_config()
    again = copied(config)
    assert again == config and again is not config and again.is_frozen()
    assert isinstance(again, CfgNode)
    assert refusals(again) == refusals(config)
    again.defrost()
    again.MODEL.DEPTH = Key(3, low=3)
    assert refusals(config)[0] == 'a: MODEL.DEPTH: got 0, expected at least 1'
    assert refusals(again)[0] == 'a: MODEL.DEPTH: got 0, expected at least 3'


def test_spawned_process_knows_the_keys():
    context = multiprocessing.get_context('spawn')
    queue, config = context.Queue(), vit_config()
    process = context.Process(target=spawned, args=(config, queue))
    process.start()
    again, said = queue.get(timeout=120)
    process.join()
    assert again == config and said == refusals(config) == refusals(again)


def test_configs_share_no_values():
    first, second = base_config(), base_config()
    first.TRAIN.FREEZE.append('a')
    first.MODEL.NEW = Key(1)
    assert second == base_config() != first and 'NEW' not in second.MODEL


def test_merges_of_yacs_keep_the_keys():
    config = vit_config().clone()
    config.defrost()
    config.merge_from_list(['MODEL.DEPTH', 3])
    config.merge_from_other_cfg(CfgNode({'SEED': 5, 'AUG': {'HFLIP': 0.25}}))
    assert (config.MODEL.DEPTH, config.SEED, config.AUG.HFLIP) == (3, 5, 0.25)
    assert refusals(config) == refusals(vit_config())


def test_single_value_without_a_config():
    assert check_value('DATA.CROP_PCT', 1, 'a') == 1.0
    assert check_value('DATA.IMAGENET_STD', (1, 2, 3), 'a') == [1.0, 2.0, 3.0]
    assert refusal(check_value, 'DATA.CROP_PCT', 2, 'a') == \
        'a: DATA.CROP_PCT: got 2.0, expected 0.01 to 1.0'
    assert refusal(check_value, 'DATA.CROP', 2, 'a').startswith('a: unknown key DATA.CROP; ')


# model_arguments

def arguments_of(model, module):
    """The arguments of a model's constructor: its own, and those of the spec of its parts."""
    own = [name for name, parameter in inspect.signature(model).parameters.items()
           if parameter.kind is not parameter.VAR_KEYWORD]
    spec = module.BlockSpec if model.__name__ == 'VisionTransformer' else module.StageSpec
    return {*own, *(field.metadata.get('argument', field.name)
                    for field in dataclasses.fields(spec))}


def constructor_of(config, monkeypatch):
    """The names of a constructor's arguments, and what the model's build function gives it."""
    folder, file, build = MODELS[config.MODEL.TYPE]
    module = load_family_file(folder, file)
    name = {'vit': 'VisionTransformer', 'vitae': 'ViTAE', 'vitaev2_vsa': 'ViTAEv2',
            'swin': 'Swin'}[config.MODEL.TYPE]
    model = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda **arguments: arguments)
        return arguments_of(model, module), getattr(module, build)(config)


@pytest.mark.parametrize('name', list_models())
def test_arguments_are_those_of_the_constructor(name, monkeypatch):
    config = model_config(name)
    names, given = constructor_of(config, monkeypatch)
    arguments = model_arguments(config)
    if config.MODEL.TYPE == 'swin':
        arguments['dims'] = arguments.pop('token_dims')
    assert arguments.keys() == names
    assert arguments == given


def test_new_key_reaches_the_constructor():
    config = base_config()
    config.MODEL.TYPE = 'mine'
    config.MODEL.LAYER_SCALE = Key(1e-5, low=0.0)
    config.MODEL.OTHERS = Key(1, only_in='other')
    set_key(config, 'MODEL.LAYER_SCALE', 1, 'a')
    arguments = model_arguments(config)
    assert arguments == {'image_size': 224, 'in_channels': 3, 'num_classes': 1000, 'dropout': 0.0,
                         'attention_dropout': 0.0, 'drop_path': 0.0, 'layer_scale': 1.0}
