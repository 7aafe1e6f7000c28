"""Configuration: what is taken, what is refused with which message, and what wins over what."""
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.apis import init_model
from common.config import set_key
from common.core.errors import printable
from common.zoo import create_model, model_config
from tests.conftest import refusal

from vit.config import get_config, update_config

pytestmark = pytest.mark.smoke

CONFIGS = Path(__file__).resolve().parent.parent / 'vit' / 'configs'
YAMLS = sorted(file for file in CONFIGS.glob('*.yaml') if not file.name.startswith('_'))


def write(folder, text, name='a.yaml'):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def nested(key, text):
    """The yaml of one dotted key; the key is in the last line."""
    *parents, leaf = key.split('.')
    lines = [f'{"  " * depth}{parent}:' for depth, parent in enumerate(parents)]
    return '\n'.join([*lines, f'{"  " * len(parents)}{leaf}: {text}'])


def value_of(config, key):
    for part in key.split('.'):
        config = config[part]
    return config


def with_flags(config=None, **flags):
    return update_config(config or get_config(), SimpleNamespace(**flags))


# Unknown and repeated keys

@pytest.mark.parametrize('text, line, key, nearest', [
    ('SEED: 1\nSEEED: 2\n', 2, 'SEEED', 'SEED'),
    ('DATA:\n  BATCH_SIZE: 8\n\n  # a comment\n  BATCHSIZE: 8\n', 5,
     'DATA.BATCHSIZE', 'DATA.BATCH_SIZE'),
    ('TRAIN:\n  OPTIMIZER:\n    BETA: [0.9, 0.99]\n', 3,
     'TRAIN.OPTIMIZER.BETA', 'TRAIN.OPTIMIZER.BETAS'),
    ('MODEL:\n  PATCHSIZE: 8\n', 2, 'MODEL.PATCHSIZE', 'MODEL.PATCH_SIZE'),
    ('BATCH_SIZE: 8\n', 1, 'BATCH_SIZE', 'DATA.BATCH_SIZE'),
    ('data:\n  BATCH_SIZE: 8\n', 2, 'data.BATCH_SIZE', 'DATA.BATCH_SIZE'),
    ('SEED:\n  VALUE: 8\n', 2, 'SEED.VALUE', None),
    ('DATA: 8\n', 1, 'DATA', None),
    ('DATA:\n', 1, 'DATA', None),
    ('DATA: [8]\n', 1, 'DATA', None),
    ('5: 8\n', 1, '5', None),
])
def test_unknown_key_names_the_line_and_the_nearest_key_C1(tmp_path, text, line, key, nearest):
    file = write(tmp_path, text)
    message = refusal(get_config, file)
    assert message.startswith(f'{file}:{line}: unknown key {key}; the nearest key is ')
    assert nearest is None or message.endswith(f' {nearest}')


@pytest.mark.parametrize('text, line, key', [
    ('SEED: 1\nAMP: true\nSEED: 1\n', 3, 'SEED'),
    ('DATA:\n  BATCH_SIZE: 8\nDATA:\n  IMAGE_SIZE: 8\n', 3, 'DATA'),
    ('DATA:\n  BATCH_SIZE: 8\n  BATCH_SIZE: 9\n', 3, 'DATA.BATCH_SIZE'),
    ('DATA:\n  BATCH_SIZE: 8\nDATA.BATCH_SIZE: 9\n', 3, 'DATA.BATCH_SIZE'),
], ids=['flat', 'node', 'nested', 'nested and dotted'])
def test_repeated_key_names_the_line_C6(tmp_path, text, line, key):
    file = write(tmp_path, text)
    assert refusal(get_config, file) == f'{file}:{line}: {key} is given twice'


# Values

BAD_VALUES = {
    'DATA.BATCH_SIZE': ['0', '-1', 'null', '', '.nan', '[8]', '"10"', '224.0', 'many', 'true',
                        '1e3'],
    'DATA.BATCH_SIZE_EVAL': ['0', '"10"', '8.0', '[8]'],
    'DATA.IMAGE_SIZE': ['0', '-224', 'null', '.nan', '"10"', '224.0', 'large', '16385', '[]',
                        '[224]', '[224, 224, 3]', '[0, 224]', '[224.0, 224]', '["32", 32]'],
    'DATA.CROP_PCT': ['0', '-0.5', '1.5', 'null', '.nan', '.inf', '[0.9]', 'high', 'true', '1e999'],
    'DATA.DATASET': ['imagenet', 'null', '2012', '[list]'],
    'DATA.IMAGENET_MEAN': ['0.5', '[0.5, 0.5]', 'null', '[0.5, 0.5, .nan]', '[a, b, c]'],
    'DATA.IMAGENET_STD': ['[0.5, 0, 0.5]', '[0.5, -0.5, 0.5]', '[0.5, 0.5, null]'],
    'DATA.NUM_WORKERS': ['-1', '1.0', '"2"'],
    'AUG.SCALE': ['[0, 1]', '[0.5, 1.5]', '0.5', '[]'],
    'AUG.HFLIP': ['-0.1', '1.1', '.nan'],
    'MODEL.NAME': ['null', '5', '[vit]', '2020-01-01'],
    'MODEL.PRETRAINED': ['5', 'true', '[a, b]'],
    'MODEL.QKV_BIAS': ['1', '0', '"true"', 'null'],
    'MODEL.DEPTH': ['0', '1.5', 'null'],
    'MODEL.ATTN_HEAD_SIZE': ['0', '1.5', '"64"'],
    'MODEL.MLP_RATIO': ['0', '-4', '.nan', 'null'],
    'TRAIN.BASE_LR': ['-1e-3', '.nan', '.inf', '-.inf', 'null', '[1e-3]', 'fast', 'true', '1e-3x'],
    'TRAIN.GRAD_CLIP': ['0', '-1', '.nan', 'none'],
    'TRAIN.LR_BASE_BATCH': ['0', '512.0', '"512"'],
    'TRAIN.OPTIMIZER.NAME': ['Adam', 'adamw', 'null'],
    'TRAIN.OPTIMIZER.BETAS': ['0.9', '[0.9]', '[0.9, 0.99, 0.999]', '[0.9, 1.0]', '[-0.1, 0.9]',
                              '[0.9, null]', '[.nan, 0.9]', '[]', 'null', '(0.9,', 'high',
                              '[[0.9, 0.99]]'],
    'EVAL': ['1', '"false"', 'null'],
    'SEED': ['-1', '2147483648', '0.5', '"1"', 'null'],
}


@pytest.mark.parametrize('key, text', [(k, text) for k, texts in BAD_VALUES.items()
                                       for text in texts])
def test_bad_value_names_the_line_and_the_key_C2(tmp_path, key, text):
    yaml = nested(key, text)
    file = write(tmp_path, '\n' + yaml)
    message = refusal(get_config, file)
    assert message.startswith(f'{file}:{yaml.count(chr(10)) + 2}: {key}')
    assert ': got ' in message and ', expected ' in message


@pytest.mark.parametrize('key, text, expected', [
    ('TRAIN.BASE_LR', '1e-3', 1e-3),  # a string in YAML 1.1
    ('TRAIN.BASE_LR', '"1e-3"', 1e-3),
    ('TRAIN.BASE_LR', '1', 1.0),
    ('TRAIN.GRAD_CLIP', '1', 1.0),
    ('TRAIN.GRAD_CLIP', 'null', None),
    ('TRAIN.LR_BASE_BATCH', '4096', 4096),
    ('TRAIN.OPTIMIZER.BETAS', '(0.9, 0.999)', [0.9, 0.999]),  # so is this
    ('TRAIN.OPTIMIZER.BETAS', '[0, 1e-3]', [0.0, 1e-3]),
    ('DATA.IMAGE_SIZE', '32', 32),
    ('DATA.IMAGE_SIZE', '[32, 64]', [32, 64]),
    ('DATA.BATCH_SIZE_EVAL', '7', 7),
    ('MODEL.PRETRAINED', 'a b.pdparams', 'a b.pdparams'),
    ('MODEL.NAME', '"5"', '5'),
    ('EVAL', 'true', True),
])
def test_good_value_has_the_type_of_its_key(tmp_path, key, text, expected):
    value = value_of(get_config(write(tmp_path, nested(key, text))), key)
    assert value == expected and type(value) is type(expected)
    if isinstance(value, list):
        assert [type(item) for item in value] == [type(item) for item in expected]


@pytest.mark.parametrize('flags', [
    {'o': ['TRAIN.WARMUP_EPOCHS=5', 'TRAIN.NUM_EPOCHS=4']},
    {'o': ['AUG.SCALE=[0.9, 0.1]']},
    {'o': ['AUG.RATIO=[2, 1]']},
    {'o': ['TRAIN.TO_STATIC=True', 'TRAIN.RECOMPUTE=True']},
])
def test_values_that_do_not_go_together_are_refused(flags):
    assert flags['o'][0].partition('=')[0] in refusal(lambda: with_flags(**flags))


@pytest.mark.parametrize('yaml, said', [
    ('AUG:\n  SCALE: [1.0, 0.1]\n', '{file}:2: AUG.SCALE: got [1.0, 0.1], expected the smaller'),
    ('AUG:\n  RATIO: [2, 1]\n', '{file}:2: AUG.RATIO: got [2.0, 1.0], expected the smaller'),
    ('TRAIN:\n  NUM_EPOCHS: 4\n  WARMUP_EPOCHS: 5\n',
     '{file}: TRAIN.WARMUP_EPOCHS: got 5.0, expected at most TRAIN.NUM_EPOCHS 4'),
    ('TRAIN:\n  TO_STATIC: true\n  RECOMPUTE: true\n',
     '{file}: TRAIN.TO_STATIC, TRAIN.RECOMPUTE: got both'),
])
@pytest.mark.parametrize('read', [get_config, model_config, create_model, init_model])
def test_values_that_do_not_go_together_are_refused_at_every_door_C10(tmp_path, read, yaml, said):
    file = write(tmp_path, f'{yaml}MODEL: {{TYPE: vit}}\n')
    assert refusal(read, file).startswith(said.format(file=file))


def test_options_that_do_not_go_together_are_refused_in_python_C10():
    for option in ('AUG.SCALE=[1, 0.1]', 'TRAIN.WARMUP_EPOCHS=1000'):
        assert option.partition('=')[0] in refusal(
            lambda option=option: init_model('vit_digits', options=[option]))


# Files that are no config

@pytest.mark.parametrize('tag', [
    '!!python/object/apply:os.system ["touch {canary}"]',
    '!!python/object/new:os.system ["touch {canary}"]',
    '!!python/object/apply:subprocess.call [["touch", "{canary}"]]',
    '!!python/name:os.system',
])
def test_python_tags_are_refused_and_not_run_C3(tmp_path, tag):
    canary = tmp_path / 'canary'
    text = tag.format(canary=canary)
    file = write(tmp_path, f'SEED: 1\nMODEL:\n  NAME: {text}\n')
    assert refusal(get_config, file).startswith(f'{file}:3: ')
    assert refusal(lambda: with_flags(o=[f'MODEL.NAME={text}'])).startswith('-o MODEL.NAME=')
    assert not canary.exists()


@pytest.mark.parametrize('text, line', [
    ('', 1),
    ('# only a comment\n', 1),
    ('just words\n', 1),
    ('5', 1),
    ('- SEED\n- AMP\n', 1),
    ('SEED: 1\nDATA:\n\tBATCH_SIZE: 8\n', 3),
    ('SEED: 1\nDATA: [8\n', 3),
    ('SEED: "1\n', 2),
    ('SEED: 1\n  AMP: true\n', 2),
    ('SEED: *nowhere\n', 1),
    ('SEED: 1\n---\nSEED: 2\n', 2),
])
def test_file_that_is_no_mapping_names_the_line_C6(tmp_path, text, line):
    file = write(tmp_path, text)
    assert refusal(get_config, file).startswith(f'{file}:{line}: ')


@pytest.mark.parametrize('text', [
    pytest.param('MODEL:\n  NAME: caf\xe9\n'.encode('latin-1'), id='latin-1'),
    pytest.param(b'MODEL:\n  NAME: a\0b\n', id='nul'),
    pytest.param(b'MODEL:\n  NAME: a\x07b\n', id='control character'),
    pytest.param(bytes(range(256)), id='binary'),
    pytest.param('MODEL:\n  NAME: 2020-13-45\n', id='date that does not exist'),
    pytest.param(f'SEED: {"9" * 5000}\n', id='5000 digits'),
    pytest.param(f'TRAIN:\n  BASE_LR: {"9" * 400}\n', id='beyond float'),
    pytest.param('TRAIN:\n  BASE_LR: "{[]: 1}"\n', id='unhashable literal'),
    pytest.param('MODEL: &a\n  NAME: *a\n', id='alias of itself'),
    pytest.param('SEED: ' + '[' * 5000, id='deep'),
    pytest.param('BASE: 5\n', id='BASE is a number'),
    pytest.param('#' * ((1 << 20) + 1), id='too large'),
])
def test_hostile_file_names_the_file_C3_C6(tmp_path, text):
    file = write(tmp_path, text)
    assert refusal(get_config, file).startswith(file)


BOMB = 'a0: &a0 {x: 1}\n' + ''.join(
    f'a{number}: &a{number} {{' + ', '.join(f'k{k}: *a{number - 1}' for k in range(9)) + '}\n'
    for number in range(1, 12))
MULTIPLIED = {  # what is repeated: (before, part, after), as often as fits into the file
    'sexagesimal number': ('SEED: 1', ':59', '\n'),
    'sexagesimal fraction': ('TRAIN: {BASE_LR: 1', ':59', '.5}\n'),
    'long number': ('SEED: ', '9', '\n'),
    'long hexadecimal number': ('SEED: 0x', 'f', '\n'),
    'long key': ('', 'k', ': 1\n'),
    'many values': ('SEED: [', '1,', ']\n'),
    'many keys': ('', '? {}\n', '\n'),
    'nested keys': ('', '{a: ', '\n'),
    'long text': ('SAVE: "', '\\x41', '"\n'),
    'tag': ('SEED: !', 'b', ' 1\n'),
}


@pytest.mark.parametrize('text', [BOMB, 'a: &a [x]\n? *a\n: 1\n',
                                  'SEED: &a 1\nSAVE_FREQ: *a\n'],
                         ids=['mappings', 'as a key', 'as a value'])
def test_alias_is_refused_before_anything_is_made_of_it_C8(tmp_path, text):
    file, begin = write(tmp_path, text), time.thread_time()
    assert refusal(get_config, file) == \
        f'{file}:2: not safe yaml: got an alias (*), expected the value itself'
    assert time.thread_time() - begin < 5
    assert 'got an alias' in refusal(lambda: with_flags(o=['SAVE=[&a x, *a]']))


@pytest.mark.parametrize('parts', MULTIPLIED.values(), ids=MULTIPLIED)
def test_reading_costs_no_more_than_the_file_C8(tmp_path, parts):
    """Each has a cost of the square of the file, or makes millions of objects, when it is read to
    the end."""
    before, part, after = parts
    text = before + part * ((200_000 - len(before + after)) // len(part)) + after
    file, begin = write(tmp_path, text), time.thread_time()
    message = refusal(get_config, file)
    assert time.thread_time() - begin < 5
    assert message.startswith(f'{file}:') and ': not safe yaml: ' in message
    assert len(message) < 400


@pytest.mark.parametrize('text', ['<<: {SEED: 1}', 'SAVE: !!binary aGk=', 'SAVE: !!set {a, b}',
                                  'SAVE: !!omap [a: b]', 'SAVE: !x y', '[SEED]: 1', '{a: b}: 1'])
def test_what_no_config_needs_is_refused_C8(tmp_path, text):
    file = write(tmp_path, f'AMP: true\n{text}\n')
    message = refusal(get_config, file)
    assert message.startswith(f'{file}:2: ') and 'got ' in message and 'expected ' in message


@pytest.mark.parametrize('value', ['0x' + 'f' * 4000, '"0x' + 'f' * 4000 + '"'])
@pytest.mark.parametrize('key', ['SEED', 'TRAIN.BASE_LR', 'TRAIN.OPTIMIZER.BETAS', 'MODEL.NAME'])
def test_number_that_python_does_not_write_is_one_line_C8(tmp_path, key, value):
    file = write(tmp_path, nested(key, value))
    message = refusal(get_config, file)
    assert message.startswith(file) and f' {key}' in message and len(message) < 400
    assert 'MODEL.NAME: got ' in refusal(lambda: create_model('vit_digits', NAME=16 ** 4000))


def test_number_of_bases_is_bounded_C8(tmp_path):
    write(tmp_path, 'SEED: 1\n', 'base.yaml')
    names = ', '.join(['base.yaml'] * 1000)
    assert 'expected at most 8 files' in refusal(get_config, write(tmp_path, f'BASE: [{names}]\n'))


@pytest.mark.parametrize('text', ['a\0b', '\ud800'])
def test_text_that_no_file_can_be_called_C9(tmp_path, text):
    for key in ('SAVE', 'DATA: {DATA_PATH', 'DATA: {CLASS_NAMES', 'MODEL: {PRETRAINED'):
        file = write(tmp_path, f'{key}: {json.dumps(text)}{"}" * ("{" in key)}\n')
        assert f'{file}:1: ' in refusal(get_config, file)
    file = write(tmp_path, f'BASE: {json.dumps(text)}\n')
    assert f'{file}: BASE: got ' in refusal(get_config, file)
    assert 'SAVE: got' in refusal(lambda: with_flags(o=[f'SAVE={json.dumps(text)}']))


def test_file_that_cannot_be_read_is_one_line_C6(tmp_path):
    link = tmp_path / 'a.yaml'
    link.symlink_to('/proc/self/mem')  # may be opened, and not be read
    assert refusal(get_config, str(link)) == f'{link}: cannot read it: Input/output error'


@pytest.mark.parametrize('name', ['../../../x', 'a/b', '/tmp/x', '..', '.x', '-x', 'a b', 'x' * 101,
                                  'a\x1b[31mb', 'a\nb', 'a\\b', 'a\0b', '\u202eb', 'caf\xe9'])
def test_name_of_a_model_stays_in_its_folder_C9(tmp_path, name):
    """Through yaml, flag and Python; it becomes a part of the name of a run's folder."""
    file = write(tmp_path, f'MODEL:\n  TYPE: vit\n  NAME: {json.dumps(name)}\n')
    for found in (refusal(get_config, file), refusal(create_model, file),
                  refusal(lambda: with_flags(o=[f'MODEL.NAME={json.dumps(name)}'])),
                  refusal(lambda: create_model('vit_digits', NAME=name))):
        assert 'MODEL.NAME: got ' in found and 'expected up to 100 letters' in found
        assert found.isprintable()


@pytest.mark.parametrize('make', [
    lambda folder: get_config(write(folder, '"a\\e[2Jb\\nc": 1\n')),
    lambda folder: get_config(write(folder, 'SEED: -1\n', 'a\x1b[2Jb\nc.yaml')),
    lambda folder: get_config(str(folder / 'a\x1b[2Jb\nc.yaml')),
    lambda folder: with_flags(o=['a\x1b[2Jb\nc=1']),
    lambda folder: with_flags(o=['DATA.DATASET="a\\e[2Jb\\nc"']),
    lambda folder: create_model('a\x1b[2Jb\nc'),
    lambda folder: create_model('vit_digits', **{'a\x1b[2Jb\nc': 1}),
], ids=['key', 'file', 'missing file', 'option', 'value', 'model', 'override'])
def test_what_a_terminal_would_obey_is_shown_as_text_C9(tmp_path, make):
    message = refusal(make, tmp_path)
    assert message.isprintable()
    assert 'a\\x1b[2jb\\x0ac' in message.lower() or 'a\\x1b[2jb\\nc' in message.lower()


def test_type_that_is_no_name_is_one_line_C9(tmp_path):
    for text in ('[vit]', '{a: b}', '5', 'null'):
        assert 'MODEL.TYPE' in refusal(create_model, write(tmp_path, f'MODEL: {{TYPE: {text}}}\n'))


@pytest.mark.parametrize('name', ['missing.yaml', 'folder', 'missing/a.yaml'])
def test_missing_file_is_named(tmp_path, name):
    (tmp_path / 'folder').mkdir()
    assert str(tmp_path / name) in refusal(get_config, str(tmp_path / name))


def test_byte_order_mark_is_fine_C6(tmp_path):
    assert get_config(write(tmp_path, b'\xef\xbb\xbfSEED: 3\n')).SEED == 3


def test_crlf_is_fine(tmp_path):
    config = get_config(write(tmp_path, b'SEED: 3\r\nDATA:\r\n  BATCH_SIZE: 8\r\n'))
    assert (config.SEED, config.DATA.BATCH_SIZE) == (3, 8)


# BASE

@pytest.mark.parametrize('base', ['base.yaml', '[base.yaml]', './base.yaml'])
def test_base_is_read_first(tmp_path, base):
    write(tmp_path, 'SEED: 1\nDATA:\n  BATCH_SIZE: 8\n', 'base.yaml')
    config = get_config(write(tmp_path, f'BASE: {base}\nSEED: 2\n'))
    assert (config.SEED, config.DATA.BATCH_SIZE) == (2, 8)


def test_later_base_wins(tmp_path):
    write(tmp_path, 'SEED: 1\nSAVE_FREQ: 7\n', 'one.yaml')
    write(tmp_path, 'SEED: 2\n', 'two.yaml')
    config = get_config(write(tmp_path, 'BASE: [one.yaml, two.yaml]\n'))
    assert (config.SEED, config.SAVE_FREQ) == (2, 7)


def test_base_is_relative_to_its_file(tmp_path, monkeypatch):
    (tmp_path / 'folder').mkdir()
    write(tmp_path / 'folder', 'SEED: 1\n', 'base.yaml')
    write(tmp_path / 'folder', 'BASE: base.yaml\n')
    monkeypatch.chdir(tmp_path)
    assert get_config('folder/a.yaml').SEED == 1
    monkeypatch.chdir(tmp_path / 'folder')
    assert get_config('a.yaml').SEED == 1


@pytest.mark.parametrize('base', ['../base.yaml', 'other/base.yaml', '.', '..', 'link.yaml',
                                  '{root}/base.yaml', '{root}/other/base.yaml'])
def test_base_outside_of_the_folder_is_refused_C5(tmp_path, base):
    folder = tmp_path / 'folder'
    (folder / 'other').mkdir(parents=True)
    for place in (tmp_path, folder / 'other'):
        write(place, 'SEED: 1\n', 'base.yaml')
    (folder / 'link.yaml').symlink_to(tmp_path / 'base.yaml')
    file = write(folder, f'BASE: {base.format(root=tmp_path)}\n')
    message = refusal(get_config, file)
    assert message.startswith(file) and 'same folder' in message


@pytest.mark.parametrize('base', ['chain.yaml', 'a.yaml'])
def test_base_with_a_base_of_its_own_is_refused_C4(tmp_path, base):
    write(tmp_path, 'SEED: 1\n', 'base.yaml')
    write(tmp_path, 'BASE: base.yaml\n', 'chain.yaml')
    file = write(tmp_path, f'BASE: {base}\n')
    message = refusal(get_config, file)
    assert message.startswith(file) and base in message


def test_missing_base_is_named_C4(tmp_path):
    assert 'gone.yaml' in refusal(get_config, write(tmp_path, 'BASE: gone.yaml\n'))


def test_bad_value_in_a_base_names_the_base(tmp_path):
    base = write(tmp_path, 'AMP: true\nSEED: -1\n', 'base.yaml')
    message = refusal(get_config, write(tmp_path, 'BASE: base.yaml\n'))
    assert message.startswith(f'{base}:2: SEED')


# Order

def test_default_yaml_flag_option(tmp_path):
    file = write(tmp_path, 'DATA:\n  BATCH_SIZE: 8\n')
    assert get_config().DATA.BATCH_SIZE == 256
    assert get_config(file).DATA.BATCH_SIZE == 8
    assert with_flags(get_config(file)).DATA.BATCH_SIZE == 8
    assert with_flags(get_config(file), batch_size=16).DATA.BATCH_SIZE == 16
    both = with_flags(get_config(file), batch_size=16, o=['DATA.BATCH_SIZE=32'])
    assert both.DATA.BATCH_SIZE == 32


def test_last_option_wins():
    assert with_flags(o=['SEED=1', 'SEED=2']).SEED == 2


def test_flags_set_their_keys():
    config = with_flags(dataset='list', data_path='d', output='out', batch_size=4, image_size=32,
                        accum_iter=2, pretrained='w', resume='r', last_epoch=0, eval=True, amp=True)
    assert (config.DATA.DATASET, config.DATA.DATA_PATH, config.SAVE) == ('list', 'd', 'out')
    assert (config.DATA.BATCH_SIZE, config.DATA.BATCH_SIZE_EVAL) == (4, 4)
    assert (config.DATA.IMAGE_SIZE, config.TRAIN.ACCUM_ITER) == (32, 2)
    assert (config.MODEL.PRETRAINED, config.MODEL.RESUME) == ('w', 'r')
    assert (config.TRAIN.LAST_EPOCH, config.EVAL, config.AMP) == (0, True, True)


def test_batch_size_eval_wins_over_batch_size():
    data = with_flags(batch_size=4, batch_size_eval=5).DATA
    assert (data.BATCH_SIZE, data.BATCH_SIZE_EVAL) == (4, 5)


def test_absent_flags_change_nothing():
    config = get_config()
    assert with_flags(config, batch_size=None, eval=False, o=None) == config


@pytest.mark.parametrize('flags, key', [
    ({'batch_size': 0}, 'DATA.BATCH_SIZE'),
    ({'image_size': -1}, 'DATA.IMAGE_SIZE'),
    ({'last_epoch': -1}, 'TRAIN.LAST_EPOCH'),
    ({'dataset': 'cifar'}, 'DATA.DATASET'),
])
def test_bad_flag_is_named_C7(flags, key):
    assert refusal(lambda: with_flags(**flags)).startswith(f'-{[*flags][0]}: {key}: got ')


@pytest.mark.parametrize('item', [
    'SEED', 'SEED=', 'SEED=-1', 'SEED="1"', 'SEED=1.0', 'SEED=null', 'SEED=[1', 'SEED=a: b: c',
    'SEEED=1', '=1', 'DATA=1', 'DATA.=1', '.SEED=1', 'DATA.BATCH_SIZE.X=1', 'seed=1',
    'DATA.IMAGE_SIZE=[32]', 'DATA.DATASET=cifar', 'TRAIN.BASE_LR=.nan', 'TRAIN.BASE_LR=fast',
    'TRAIN.BASE_LR=1e999', 'MODEL.DEPTH=0', 'MODEL.NAME={a: b}',
    pytest.param('MODEL.NAME=2020-13-45', id='date that does not exist'),
    pytest.param('MODEL.NAME=a\x07b', id='control character'),
    pytest.param('MODEL.NAME=a\udce9b', id='argument that is not UTF-8'),
    pytest.param(f'TRAIN.BASE_LR={"9" * 400}', id='beyond float'),
    pytest.param('BASE=5', id='BASE is a number'),
])
def test_bad_option_is_named_C2(item):
    assert refusal(lambda: with_flags(o=[item])).startswith(f'-o {printable(item)}: ')


@pytest.mark.parametrize('item, key, expected', [
    ('TRAIN.BASE_LR=1e-3', 'TRAIN.BASE_LR', 1e-3),
    ('TRAIN.OPTIMIZER.BETAS=(0.9, 0.99)', 'TRAIN.OPTIMIZER.BETAS', [0.9, 0.99]),
    ('DATA.IMAGE_SIZE=[32, 64]', 'DATA.IMAGE_SIZE', [32, 64]),
    ('MODEL.PRETRAINED=', 'MODEL.PRETRAINED', None),
    ('MODEL.NAME=a=b', 'MODEL.NAME', 'a=b'),
])
def test_good_option(item, key, expected):
    assert value_of(with_flags(o=[item]), key) == expected


def test_image_size_takes_either_form_whichever_it_has_C2():
    config = get_config().clone()
    config.defrost()
    for size in ([32, 64], 48, [64, 32], 32):
        set_key(config, 'DATA.IMAGE_SIZE', size, 'a')
        assert size == config.DATA.IMAGE_SIZE


# Frozen

@pytest.mark.parametrize('make', [get_config, with_flags])
def test_config_is_frozen(make):
    config = make()
    for node, key in ((config, 'SEED'), (config.DATA, 'BATCH_SIZE'),
                      (config.TRAIN.OPTIMIZER, 'EPS'), (config.MODEL, 'NEW')):
        with pytest.raises(AttributeError):
            setattr(node, key, 1)


def test_update_leaves_its_config_and_the_defaults_alone():
    before, config = get_config(), get_config()
    changed = with_flags(config, batch_size=3, o=['DATA.IMAGENET_MEAN=[0, 0, 0]'])
    changed.DATA.IMAGENET_MEAN[0] = 9.0
    assert config == before == get_config()


# The yamls of this repository

def test_there_are_yamls():
    assert {'vit_digits', 'vit_base_patch16_224'} <= {file.stem for file in YAMLS}


@pytest.mark.parametrize('file', YAMLS, ids=lambda file: file.stem)
def test_yaml_loads_under_its_own_name(file):
    config = with_flags(get_config(str(file)))
    assert file.stem == config.MODEL.NAME
    assert config.MODEL.TYPE == 'vit'


@pytest.mark.parametrize('file', YAMLS, ids=lambda file: file.stem)
def test_yaml_says_where_it_comes_from(file):
    top = []
    for line in file.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        top.append(line)
    wanted = ['Source:', 'Hardware:', 'Command:']
    if file.stem != 'vit_digits':
        wanted.append('Published:')
    for word in wanted:
        assert any(line.lstrip('# ').startswith(word) and line.split(word)[1].strip()
                   for line in top), f'{file.name}: no {word} line'
