"""Weights into a model, all or none; and checkpoints, which a run goes on from to the bit."""
import hashlib
import os

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.train import checkpoint
from common.train.checkpoint import resume, save_checkpoint, save_weights, write_atomically
from common.train.optim import build_optimizer
from common.weights.load import load_pretrained
from common.weights.unpickle import load_pickle

from vit.vit import VisionTransformer

pytestmark = pytest.mark.smoke

POSITION = 'position_embedding'
HEAD = ('classifier.weight', 'classifier.bias')


def small_vit(seed=0, image_size=32, num_classes=10, **options):
    paddle.seed(seed)
    return VisionTransformer(image_size=image_size, patch_size=8, embed_dim=32, depth=2,
                             num_heads=2, num_classes=num_classes, **options)


def arrays(model):
    """The weights as {name: numpy array}, copied."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(arrays(model).items()):
        digest.update(f'{name} {value.dtype} {value.shape}'.encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def write(folder, state):
    file = str(folder / 'weights.pdparams')
    paddle.save(state, file)
    return file


def assert_equal(model, state, but=()):
    """The model's weights equal `state` to the bit, but for some."""
    for name, value in arrays(model).items():
        if name not in but:
            assert value.dtype == state[name].dtype and np.array_equal(value, state[name]), name


def refusal(model, file, new_head=False):
    """The message of the InputError; the model is as before."""
    before = fingerprint(model)
    with pytest.raises(InputError) as caught:
        load_pretrained(model, file, new_head)
    assert fingerprint(model) == before
    message = str(caught.value)
    assert message.startswith(f'{file}: ') and '\n' not in message
    return message


# Files that fit

@pytest.mark.parametrize('wrap', [lambda state: state, lambda state: {'model': state, 'epoch': 1}])
@pytest.mark.parametrize('new_head', [False, True])
def test_weights_load_to_the_bit(tmp_path, wrap, new_head):
    source, model = small_vit(1), small_vit(2)
    assert fingerprint(source) != fingerprint(model)
    file = write(tmp_path, wrap(source.state_dict()))
    assert load_pretrained(model, file, new_head) == []
    assert fingerprint(model) == fingerprint(source)


def test_loaded_model_computes_the_same(tmp_path):
    source, model = small_vit(1), small_vit(2)
    load_pretrained(model, write(tmp_path, source.state_dict()))
    image = paddle.randn([2, 3, 32, 32])
    source.eval()
    model.eval()
    assert np.array_equal(source(image).numpy(), model(image).numpy())


def test_model_does_not_share_memory_with_the_source(tmp_path):
    source, model = small_vit(1), small_vit(2)
    load_pretrained(model, write(tmp_path, source.state_dict()))
    before = fingerprint(source)
    model.cls_token.set_value(model.cls_token + 1)
    assert fingerprint(source) == before


@pytest.mark.parametrize('dtype', ['float16', 'float64'])
def test_other_float_is_cast_with_a_note_L5(tmp_path, dtype):
    model = small_vit(2)
    state = {name: value.astype(dtype) for name, value in arrays(small_vit(1)).items()}
    notes = load_pretrained(model, write(tmp_path, state))
    assert len(notes) == 1 and dtype in notes[0] and str(len(state)) in notes[0]
    assert_equal(model, {name: value.astype('float32') for name, value in state.items()})


# Files that do not fit

def test_missing_unexpected_and_mismatched_weights_are_listed_L1(tmp_path):
    state = arrays(small_vit(1))
    state['class_token'] = state.pop('cls_token')
    state['patch_embedding.patch_embedding.weight'] = np.zeros([32, 3, 4, 4], 'float32')
    message = refusal(small_vit(2), write(tmp_path, state))
    for text in ('1 missing (cls_token)', '1 unexpected (class_token)', '1 of another shape',
                 'patch_embedding.patch_embedding.weight [32, 3, 4, 4] instead of [32, 3, 8, 8]'):
        assert text in message


@pytest.mark.parametrize('name', ['cls_token', 'classifier.bias', 'encoder.layers.1.attn.qkv.bias',
                                  POSITION])
def test_one_missing_weight_is_refused_L1(tmp_path, name):
    state = arrays(small_vit(1))
    del state[name]
    message = refusal(small_vit(2), write(tmp_path, state))
    assert f'1 missing ({name})' in message and '0 unexpected' in message


def test_one_unexpected_weight_is_refused_L1(tmp_path):
    state = {**arrays(small_vit(1)), 'extra': np.zeros(3, 'float32')}
    message = refusal(small_vit(2), write(tmp_path, state))
    assert '0 missing' in message and '1 unexpected (extra)' in message


@pytest.mark.parametrize('shape', [[32], [1, 32], [1, 1, 1, 32], [1, 1, 33], [1, 2, 32], []])
def test_weight_of_another_shape_is_refused(tmp_path, shape):
    state = {**arrays(small_vit(1)), 'cls_token': np.zeros(shape, 'float32')}
    message = refusal(small_vit(2), write(tmp_path, state))
    assert f'cls_token {shape} instead of [1, 1, 32]' in message


def test_long_lists_are_cut_L1(tmp_path):
    message = refusal(small_vit(1), write(tmp_path, {'a': np.zeros(3, 'float32')}))
    assert f'{len(arrays(small_vit()))} missing' in message and message.count(',') < 20


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', ['cls_token', POSITION, 'encoder.layers.1.mlp.fc2.bias'])
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'float64'])
def test_value_that_is_not_finite_is_refused_L6(tmp_path, name, value, dtype):
    state = arrays(small_vit(1))
    state[name] = state[name].astype(dtype)
    state[name].reshape(-1)[-1] = value
    assert name in refusal(small_vit(2), write(tmp_path, state))


def test_float64_beyond_float32_is_refused_L5(tmp_path):
    """It is finite in the file, and infinite in the model."""
    state = arrays(small_vit(1))
    state['cls_token'] = np.full([1, 1, 32], 1e300)
    assert 'cls_token' in refusal(small_vit(2), write(tmp_path, state))


@pytest.mark.parametrize('dtype', ['int32', 'int64', 'uint8', 'int8', 'bool', 'complex64'])
@pytest.mark.parametrize('name', ['cls_token', 'encoder.encoder_norm.weight'])
def test_value_that_is_no_float_is_refused_L5(tmp_path, dtype, name):
    state = arrays(small_vit(1))
    state[name] = np.ones(state[name].shape, dtype)
    message = refusal(small_vit(2), write(tmp_path, state))
    assert name in message and dtype in message


@pytest.mark.parametrize('content', [
    [np.zeros(3)], {'cls_token': 'text'}, {'cls_token': 1.0}, {'cls_token': {'a': np.zeros(3)}},
    {'model': {'cls_token': None}}, 'text', 5, {}, {'model': {}},
], ids=['list', 'text in it', 'number in it', 'dict in it', 'None in it', 'text', 'number',
        'empty dict', 'empty model'])
def test_file_that_is_no_state_dict_is_refused_W5(tmp_path, content):
    refusal(small_vit(), write(tmp_path, content))


@pytest.mark.parametrize('new_head', [False, True])
def test_name_that_is_no_text_is_refused_W5(tmp_path, new_head):
    state = {**arrays(small_vit(1)), 5: np.zeros(3, 'float32')}
    refusal(small_vit(2), write(tmp_path, state), new_head)


def test_more_names_than_any_model_has_are_refused_W10(tmp_path):
    """Each would be compared with the names of every model."""
    state = dict.fromkeys((f'x{number}' for number in range(10_001)), np.zeros(3, 'float32'))
    assert 'got 10001 names' in refusal(small_vit(), write(tmp_path, state))


# Another classifier

def test_other_classifier_is_refused_by_default_L2(tmp_path):
    message = refusal(small_vit(2, num_classes=7), write(tmp_path, small_vit(1).state_dict()))
    assert 'classifier.weight [32, 10] instead of [32, 7]' in message
    assert 'classifier.bias [10] instead of [7]' in message
    assert message.endswith('; only the classifier differs: MODEL.NUM_CLASSES=10 takes that of the '
                            'file, fine-tuning starts with a new one')
    state = {name: value for name, value in arrays(small_vit(1)).items() if name not in HEAD}
    message = refusal(small_vit(2), write(tmp_path, state))
    assert message.endswith('; the file has no classifier: fine-tuning starts with a new one')


def test_other_classifier_is_left_out_for_fine_tuning_L2(tmp_path):
    source, model = arrays(small_vit(1)), small_vit(2, num_classes=7)
    fresh = arrays(model)
    notes = load_pretrained(model, write(tmp_path, source), new_head=True)
    assert len(notes) == 1 and '[32, 10]' in notes[0] and '[32, 7]' in notes[0]
    assert_equal(model, {**source, **{name: fresh[name] for name in HEAD}})


def test_file_without_a_classifier_serves_for_fine_tuning(tmp_path):
    source, model = arrays(small_vit(1)), small_vit(2)
    fresh = arrays(model)
    for name in HEAD:
        del source[name]
    file = write(tmp_path, source)
    refusal(model, file)
    assert len(load_pretrained(model, file, new_head=True)) == 1
    assert_equal(model, {**source, **{name: fresh[name] for name in HEAD}})


def test_new_head_forgives_nothing_else(tmp_path):
    state = arrays(small_vit(1))
    del state['cls_token']
    message = refusal(small_vit(2, num_classes=7), write(tmp_path, state), new_head=True)
    assert '1 missing (cls_token)' in message and '0 of another shape' in message


# Another image size

def cubic_matrix(old, new):
    """Interpolation weights [new, old]: cubic convolution with a = -0.75, pixel centres, edges
    repeated."""
    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
        return a * x ** 3 - 5 * a * x ** 2 + 8 * a * x - 4 * a if x < 2 else 0.0

    matrix = np.zeros([new, old])
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[i, min(max(tap, 0), old - 1)] += kernel(centre - tap)
    return matrix


@pytest.mark.parametrize('image_size, grid', [(64, (8, 8)), ([32, 64], (4, 8)), ([64, 32], (8, 4)),
                                              (16, (2, 2))])
def test_position_embedding_is_resized_L3(tmp_path, image_size, grid):
    source, model = arrays(small_vit(1)), small_vit(2, image_size)
    notes = load_pretrained(model, write(tmp_path, source))
    assert len(notes) == 1
    for text in (POSITION, '4x4', f'{grid[0]}x{grid[1]}'):
        assert text in notes[0]
    assert_equal(model, source, but=[POSITION])
    old, new = source[POSITION], arrays(model)[POSITION]
    assert new.shape == (1, 1 + grid[0] * grid[1], 32)
    assert np.array_equal(new[:, 0], old[:, 0])  # the class token
    rows, columns = cubic_matrix(4, grid[0]), cubic_matrix(4, grid[1])
    expected = np.einsum('ih,jw,hwc->ijc', rows, columns, old[0, 1:].reshape(4, 4, 32))
    np.testing.assert_allclose(new[0, 1:].reshape(*grid, 32), expected, rtol=0, atol=1e-6)


def test_other_size_and_classifier_at_once(tmp_path):
    source, model = arrays(small_vit(1)), small_vit(2, 64, 7)
    notes = load_pretrained(model, write(tmp_path, source), new_head=True)
    assert len(notes) == 2
    assert_equal(model, source, but=[POSITION, *HEAD])


@pytest.mark.parametrize('tokens', [1, 3, 16, 18, 33])
def test_token_count_that_is_no_square_grid_is_refused_L3(tmp_path, tokens):
    state = {**arrays(small_vit(1)), POSITION: np.zeros([1, tokens, 32], 'float32')}
    message = refusal(small_vit(2), write(tmp_path, state))
    assert f'{POSITION}: got {tokens} tokens' in message


@pytest.mark.parametrize('shape', [[17, 32], [1, 65, 16], [1, 0, 32], [2, 65, 32], [32]])
def test_position_embedding_of_another_layout_is_refused_L3(tmp_path, shape):
    state = {**arrays(small_vit(1)), POSITION: np.zeros(shape, 'float32')}
    assert POSITION in refusal(small_vit(2), write(tmp_path, state))


@pytest.mark.parametrize('value', [np.full([1, 17, 32], np.nan, 'float32'),
                                   np.ones([1, 17, 32], 'int64')], ids=['nan', 'integer'])
def test_bad_position_embedding_of_another_size_is_refused_L6(tmp_path, value):
    state = {**arrays(small_vit(1)), POSITION: value}
    assert POSITION in refusal(small_vit(2, 64), write(tmp_path, state))


# Checkpoints

def train_settings(optimizer):
    train = base_config().TRAIN
    train.OPTIMIZER.NAME = optimizer
    return train


def train_step(model, optimizer, step):
    random = np.random.default_rng(step)
    image = paddle.to_tensor(random.standard_normal([4, 3, 32, 32]).astype('float32'))
    labels = paddle.to_tensor(random.integers(0, 10, [4]))
    F.cross_entropy(model(image), labels).backward()
    optimizer.step()
    optimizer.clear_grad()


def trained(optimizer_name, steps=2):
    model = small_vit(1)
    optimizer = build_optimizer(train_settings(optimizer_name), model)
    for step in range(steps):
        train_step(model, optimizer, step)
    return model, optimizer


BEST = {'epoch': 2, 'loss': 1.0, 'acc1': 0.5, 'acc5': 0.9, 'seen': 10}
FACTS = {'epoch': 3, 'best': BEST, 'seed': 0, 'config': {'SEED': 0}}


@pytest.mark.parametrize('name', ['AdamW', 'SGD'])
def test_checkpoint_goes_on_to_the_bit_L9(tmp_path, name):
    path = str(tmp_path / 'last.pdparams')
    model, optimizer = trained(name)
    save_checkpoint(path, model, optimizer, None, FACTS)
    small_vit(5)  # so that Paddle's automatic names of the parameters differ
    other = small_vit(2)
    assert {p.name for p in model.parameters()}.isdisjoint(p.name for p in other.parameters())
    other_optimizer = build_optimizer(train_settings(name), other)
    facts = resume(path, other, other_optimizer, None)
    assert {key: facts[key] for key in FACTS} == FACTS
    assert fingerprint(other) == fingerprint(model)
    for step in (2, 3):
        before = fingerprint(model)
        train_step(model, optimizer, step)
        train_step(other, other_optimizer, step)
        assert fingerprint(other) == fingerprint(model) != before


@pytest.mark.parametrize('name', ['AdamW', 'SGD'])
def test_next_checkpoint_is_the_same_too_L9(tmp_path, name):
    path = str(tmp_path / 'last.pdparams')
    model, optimizer = trained(name)
    save_checkpoint(path, model, optimizer, None, FACTS)
    other = small_vit(2)
    other_optimizer = build_optimizer(train_settings(name), other)
    resume(path, other, other_optimizer, None)
    states = []
    for one, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        train_step(one, its_optimizer, 2)
        save_checkpoint(path, one, its_optimizer, None, FACTS)
        states.append(paddle.load(path, return_numpy=True)['optimizer'])
    first, second = states
    assert first.keys() == second.keys() == arrays(other).keys()
    for weight, slots in first.items():
        assert slots and slots.keys() == second[weight].keys()
        for slot, value in slots.items():
            assert np.array_equal(value, second[weight][slot])


def refused_checkpoint(path, model, optimizer):
    """The message of the InputError; the model is as before."""
    before = fingerprint(model)
    with pytest.raises(InputError) as caught:
        resume(path, model, optimizer, None)
    assert fingerprint(model) == before
    assert str(caught.value).startswith(f'{path}: ')
    return str(caught.value)


def new_optimizer(kind, model):
    return build_optimizer(train_settings(kind), model) if kind else None


def test_weights_without_a_training_state_are_no_checkpoint(tmp_path):
    path, model = str(tmp_path / 'best.pdparams'), small_vit(1)
    save_weights(path, model, FACTS)
    other = small_vit(2)
    assert '-pretrained' in refused_checkpoint(path, other, new_optimizer('AdamW', other))
    assert load_pretrained(other, path) == []
    assert fingerprint(other) == fingerprint(model)


@pytest.mark.parametrize('version', [0, 3, '2', None])
def test_checkpoint_of_another_format_is_refused_L11(tmp_path, version):
    path = str(tmp_path / 'last.pdparams')
    save_checkpoint(path, *trained('AdamW', 1), None, {**FACTS, 'format_version': version})
    other = small_vit(2)
    assert 'format' in refused_checkpoint(path, other, new_optimizer('AdamW', other))


@pytest.mark.parametrize('options', [{'num_classes': 7}, {'image_size': 64}, {'qkv_bias': False}],
                         ids=['classes', 'image size', 'bias'])
@pytest.mark.parametrize('kind', ['AdamW', 'SGD', None])
def test_checkpoint_of_another_model_is_refused_L4(tmp_path, options, kind):
    path = str(tmp_path / 'last.pdparams')
    save_checkpoint(path, *trained(kind or 'AdamW', 1), None, FACTS)
    other = small_vit(2, **options)
    refused_checkpoint(path, other, new_optimizer(kind, other))


@pytest.mark.parametrize('kind', ['AdamW', 'SGD'])
def test_checkpoint_with_a_moment_of_another_shape_is_refused_L10(tmp_path, kind):
    path = str(tmp_path / 'last.pdparams')
    save_checkpoint(path, *trained(kind, 1), None, FACTS)
    content = paddle.load(path, return_numpy=True)
    slots = content['optimizer']['cls_token']
    slots.update({slot: np.zeros([3], 'float32') for slot, value in slots.items()
                  if value.size > 1})
    paddle.save(content, path)
    other = small_vit(2)
    assert 'cls_token' in refused_checkpoint(path, other, new_optimizer(kind, other))


@pytest.mark.parametrize('change', [
    {'epoch': True}, {'epoch': -1}, {'epoch': 1 << 64}, {'step': -1}, {'bad_images': None},
    {'sums': []}, {'sums': ['a', 'b', 'c']}, {'sums': [[1.0], [2.0], [3.0]]},
    {'best': {}}, {'best': {'epoch': 1}}, {'best': {**BEST, 'acc1': None}},
    {'best': {**BEST, 'acc1': float('nan')}}, {'best': {**BEST, 'at': 1}}, {'unsaved': {'acc1': 1}},
    {'amp_grad_scaler': []}, {'cores': -1}, {'cores': '2'}, {'class_names': 5},
    {'class_names': [1]}, {'data': None}, {'data': {}},
    {'data_sets': 'x'}, {'data_sets': {'train': 1}}, {'config': {1: 2}}, {'config': {'DATA': 'x'}},
    {'config': {'DATA': {'AUG': {1: 2}}}}], ids=lambda change: str(change)[:40])
def test_fact_that_no_run_writes_is_refused_W5(tmp_path, change):
    path, (key,) = str(tmp_path / 'last.pdparams'), change
    save_checkpoint(path, *trained('SGD', 1), None, {**FACTS, **change})
    write_atomically({**load_pickle(path), **change}, path)
    other = small_vit(2)
    assert f': {key}: got ' in refused_checkpoint(path, other, new_optimizer('SGD', other))


class Scaler:
    """As paddle.amp.GradScaler, which a CPU has not."""

    def state_dict(self):
        return {'scale': np.ones(1, 'float32'), 'incr_count': 0}

    def load_state_dict(self, state):
        raise AssertionError('it was not checked')


@pytest.mark.parametrize('state', [{'x': 1}, {'scale': 'x', 'incr_count': []}])
def test_loss_scaling_that_no_run_writes_is_refused_W5(tmp_path, state):
    path, model = str(tmp_path / 'last.pdparams'), small_vit(1)
    save_checkpoint(path, *trained('SGD', 1), None, FACTS)
    write_atomically({**load_pickle(path), 'amp_grad_scaler': state}, path)
    with pytest.raises(InputError, match='amp_grad_scaler: got a dict of'):
        resume(path, model, new_optimizer('SGD', model), Scaler())


@pytest.mark.parametrize('slot, value', [
    ('moment1_0', lambda value: value.astype('float16')),
    ('moment1_0', lambda value: value.astype('>f4')),
    ('moment1_0', lambda value: value[..., :1]), ('moment2_0', lambda value: np.float32(1)),
    ('beta1_pow_acc_0', lambda value: np.zeros([0], 'float32')), (5, lambda value: [1.0])])
def test_value_that_no_optimiser_has_is_refused_L10(tmp_path, slot, value):
    path = str(tmp_path / 'last.pdparams')
    save_checkpoint(path, *trained('AdamW', 1), None, FACTS)
    content = load_pickle(path)
    for slots in content['optimizer'].values():
        slots[slot] = value(slots.get(slot))
    write_atomically(content, path)
    other = small_vit(2)
    message = refused_checkpoint(path, other, new_optimizer('AdamW', other))
    assert 'optimizer state' in message and str(slot) in message


def test_optimiser_without_its_second_moment_is_refused_L10(tmp_path):
    path = str(tmp_path / 'last.pdparams')
    save_checkpoint(path, *trained('AdamW', 1), None, FACTS)
    content = load_pickle(path)
    for slots in content['optimizer'].values():
        del slots['moment2_0']
    write_atomically(content, path)
    other = small_vit(2)
    optimizer = new_optimizer('AdamW', other)
    assert 'expected that of AdamW' in refused_checkpoint(path, other, optimizer)


# Writing

class Unpicklable:
    def __reduce__(self):
        raise RuntimeError('cannot be pickled')


def interrupted(content, stream):
    stream.write(b'half of')
    raise KeyboardInterrupt


@pytest.mark.parametrize('there', [False, True])
@pytest.mark.parametrize('how', ['unpicklable', 'lambda', 'interrupt', 'rename'])
def test_failed_write_leaves_the_old_file_and_nothing_else_K4(tmp_path, monkeypatch, there, how):
    path = tmp_path / 'last.pdparams'
    content = {'model': small_vit(1).state_dict(), 'epoch': 1}
    if there:
        write_atomically(content, str(path))
    old = path.read_bytes() if there else None
    last = {'unpicklable': Unpicklable(), 'lambda': lambda: None}.get(how, 2)
    if how == 'interrupt':
        monkeypatch.setattr(checkpoint, 'dump', interrupted)
    elif how == 'rename':
        monkeypatch.setattr(os, 'replace', lambda *args: os.stat(tmp_path / 'missing'))
    with pytest.raises(BaseException):  # noqa: B017 - whatever Paddle raises
        write_atomically({**content, 'epoch': last}, str(path))
    assert [file.name for file in tmp_path.iterdir()] == ['last.pdparams'] * there
    if there:
        assert path.read_bytes() == old


def test_write_replaces_the_old_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2):
        write_atomically({'epoch': epoch}, 'last.pdparams')
        assert paddle.load('last.pdparams') == {'epoch': epoch}
        assert os.listdir() == ['last.pdparams']


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_checkpoint_of_a_half_precision_model(tmp_path, dtype):
    """What O2 trains: weights of 16 bits, which numpy partly lacks."""
    model = small_vit()
    model.to(dtype=dtype)
    file = str(tmp_path / 'last.pdparams')
    save_weights(file, model, {'epoch': 1, 'optimizer': {}, 'best': None, 'config': {},
                               'amp_grad_scaler': {}})
    copy = small_vit(seed=1)
    copy.to(dtype=dtype)
    resume(file, copy, None, None)
    for name, value in model.state_dict().items():
        assert copy.state_dict()[name].dtype == value.dtype
        assert (copy.state_dict()[name].astype('float32') == value.astype('float32')).all(), name
