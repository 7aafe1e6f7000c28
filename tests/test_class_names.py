"""Class names from two sources: matched by name or refused, never by position alone."""
import json
import shutil
import unicodedata
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image

from common.apis import inference_model, init_model
from common.config import plain_config
from common.core.class_names import (
    check_same,
    class_names_of,
    head_order,
    match_labels,
    match_names,
    user_labels,
)
from common.core.errors import InputError
from common.runner import run
from common.train.checkpoint import save_weights, write_atomically
from common.weights.load import load_pretrained
from common.zoo import create_model, load_family_file, model_config
from tests.conftest import refusal

pytestmark = pytest.mark.smoke

CAFE = unicodedata.normalize('NFC', 'café'), unicodedata.normalize('NFD', 'café')


def config_for(classes=3, **data):
    config = model_config('vit_digits').clone()
    config.defrost()
    config.MODEL.NUM_CLASSES = classes
    config.DATA.DATA_PATH = 'data'
    for key, value in data.items():
        config.DATA[key] = value
    return config


class Labels:
    """A source of images that has labels only."""

    def __init__(self, labels):
        self.labels = np.array(labels)

    def check_labels(self, classes):
        if self.labels.max() >= classes:
            raise InputError(f'label {self.labels.max()}')


def evaluation_set(names, labels):
    return SimpleNamespace(images=Labels(labels), class_names=names)


# Which names are the same

def test_names_match_in_any_normal_form_and_not_in_another_case_L15():
    assert match_names([CAFE[1], 'dog'], ['dog', CAFE[0]]) == [1, 0]
    assert match_names([' dog'], ['dog']) == [0]
    assert match_names(['Dog', 'cat'], ['dog', 'cat']) == [None, 1]


def test_name_that_stands_twice_matches_only_in_equal_lists_L15():
    assert match_names(['crane', 'dog', 'crane'], ['crane', 'dog', 'crane']) == [0, 1, 2]
    assert match_names(['dog', 'crane'], ['crane', 'dog', 'crane']) == [1, None]
    assert match_names(['crane', 'crane', 'dog'], ['dog', 'crane', 'x']) == [None, None, 0]
    assert match_names(CAFE, ['x', CAFE[0]]) == [None, None]


# Evaluation

def test_labels_of_an_evaluation_follow_the_names_L15():
    dataset = evaluation_set(['a', 'b', 'c'], [0, 1, 2, 2])
    notes = match_labels(dataset, ['c', 'a', 'b'], 'w.pdparams', config_for())
    assert dataset.images.labels.tolist() == [1, 2, 0, 0]
    assert dataset.class_names == ['c', 'a', 'b']
    assert notes == ['classes are in another order than in w.pdparams; they are matched by name']
    dataset = evaluation_set(['a', 'b', 'c'], [0, 1, 2, 2])
    assert match_labels(dataset, ['a', 'b', 'c'], 'w.pdparams', config_for()) == []
    assert dataset.images.labels.tolist() == [0, 1, 2, 2]


def test_class_without_an_image_is_said_and_a_strange_one_refused_L15():
    dataset = evaluation_set(['b', 'c'], [0, 1])
    notes = match_labels(dataset, ['a', 'b', 'c'], 'w.pdparams', config_for())
    assert dataset.images.labels.tolist() == [1, 2]
    assert notes[1] == "1 of 3 classes have no image here: 'a'"
    text = refusal(match_labels, evaluation_set(['b', 'c', 'zz'], [0, 1, 2]), ['a', 'b', 'c'],
                   'w.pdparams', config_for())
    assert "w.pdparams does not know, or not once, first 'zz'; its classes: 'a', 'b', 'c'" in text
    # a class without images here is nobody's fault
    dataset = evaluation_set(['b', 'c', 'zz'], [0, 1])
    match_labels(dataset, ['a', 'b', 'c'], 'w.pdparams', config_for())
    assert dataset.images.labels.tolist() == [1, 2]


def test_evaluation_without_names_on_one_side_needs_the_number_of_classes_L15():
    match_labels(evaluation_set(None, [0, 2]), ['a', 'b', 'c'], 'w', config_for())
    match_labels(evaluation_set(['a', 'b', 'c'], [0, 2]), None, 'w', config_for())
    assert 'got 2 class names, expected 3' in refusal(
        match_labels, evaluation_set(['a', 'b'], [0]), None, 'w', config_for())
    assert 'label 3' in refusal(match_labels, evaluation_set(None, [3]), None, 'w', config_for())
    assert 'in another order' in refusal(
        match_labels, evaluation_set(['b', 'a'], [0, 1]), ['a', 'b'], 'w',
        config_for(2, REAL_LABELS='real.json'))


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program of vit/, with a run's best.pdparams whose answer is always 'beta', and a val/
    with four images of beta and one each of alpha and gamma."""
    for name, count in (('alpha', 1), ('beta', 4), ('gamma', 1)):
        (tmp_path / 'val' / name).mkdir(parents=True)
        for index in range(count):
            Image.new('RGB', (32, 32), (index, 0, 0)).save(tmp_path / 'val' / name / f'{index}.png')
    names = ['gamma', 'alpha', 'beta']
    model = create_model('vit_digits', num_classes=3, depth=1)
    model.classifier.weight.set_value(paddle.zeros([96, 3]))
    model.classifier.bias.set_value(paddle.to_tensor([0.0, 0.0, 1.0]))
    save_weights(str(tmp_path / 'best.pdparams'), model, {
        'epoch': 1, 'config': plain_config(model.config), 'class_names': names})
    family = load_family_file('vit', 'config')

    def start(*flags):
        run(family.get_config, family.update_config, load_family_file('vit', 'vit').build_vit,
            load_family_file('vit', 'datasets').get_dataset,
            ['-cfg=vit/configs/vit_digits.yaml', '-dataset=imagefolder', f'-data_path={tmp_path}',
             f'-output={tmp_path}/out', '-batch_size=4', '-o', 'MODEL.DEPTH=1', '-o',
             'DATA.NUM_WORKERS=0', '-o', 'DEVICE=cpu', '-o', 'MODEL.NUM_CLASSES=3', *flags])
        return json.loads(next((tmp_path / 'out').glob('*/result.json')).read_text())

    monkeypatch.chdir(load_family_file('vit', 'config').__file__.rpartition('/vit/')[0])
    return start


@pytest.mark.parametrize('weights', ['best.pdparams', '.'])
def test_eval_on_folders_in_another_order_L15_L17(weights, program, tmp_path, capfd):
    """By position four of six images would be wrong; the folder of a run is a file, too."""
    result = program('-eval', f'-pretrained={tmp_path}/{weights}')
    assert result['acc1'] == pytest.approx(4 / 6) and result['seen'] == 6
    out = ''.join(capfd.readouterr())
    assert 'another order' in out and (weights != '.' or 'read from' in out)


def test_eval_on_a_renamed_folder_is_refused_L15(program, tmp_path, capfd):
    (tmp_path / 'val' / 'alpha').rename(tmp_path / 'val' / 'zz_alpha')
    with pytest.raises(SystemExit) as end:
        program('-eval', f'-pretrained={tmp_path}/best.pdparams')
    assert end.value.code == 1
    assert "first 'zz_alpha'; its classes: 'gamma', 'alpha', 'beta'" in capfd.readouterr().err


def test_resume_with_other_classes_is_refused_L15(program, tmp_path, capfd):
    shutil.copytree(tmp_path / 'val', tmp_path / 'train')
    flags = ['-o', 'TRAIN.NUM_STEPS=1', '-o', 'TRAIN.WARMUP_STEPS=0', '-o', 'AUG.MIXUP=0.0', '-o',
             'AUG.CUTMIX=0.0']
    program(*flags)
    run_folder = next((tmp_path / 'out').iterdir())
    for split in ('train', 'val'):
        (tmp_path / split / 'alpha').rename(tmp_path / split / 'zz_alpha')
    with pytest.raises(SystemExit) as end:
        program(f'-resume={run_folder}', *flags)
    assert end.value.code == 1
    assert "class 0 was 'alpha' and is 'beta' in the training set" in capfd.readouterr().err


def test_resume_names_the_first_difference_L15():
    check_same(None, ['a'], 'x')
    check_same(['a'], None, 'x')
    check_same(CAFE[:1], [CAFE[1]], 'x')
    assert "class 1 was 'b' and is 'c'" in refusal(check_same, ['a', 'c'], ['a', 'b'], 'x')
    assert 'got 2 class names, expected 3' in refusal(check_same, ['a', 'b', 'c'], ['a', 'b'], 'x')


# Fine-tuning

def test_new_classifier_has_no_names_of_the_old_one_L15(tmp_path):
    for name in ('vit_digits', 'vitae_digits'):
        file = str(tmp_path / f'{name}.pdparams')
        save_weights(file, create_model(name, num_classes=3), {
            'epoch': 1, 'config': {'MODEL': {'NUM_CLASSES': 3}}, 'class_names': ['a', 'b', 'c']})
        model = init_model(name, file)
        pixels = np.zeros((32, 32, 3), np.uint8)
        assert inference_model(model, pixels)['pred_class'] in ('a', 'b', 'c')
        model.reset_classifier(5)
        found = inference_model(model, pixels)
        assert found['pred_class'] == str(found['pred_label'])


def test_classifier_follows_the_names_in_fine_tuning_L15(tmp_path):
    source = create_model('vit_digits', num_classes=3, depth=1)
    file = str(tmp_path / 'best.pdparams')
    write_atomically({'model': source.state_dict(), 'epoch': 1, 'class_names': ['a', 'b', 'c']},
                     file)

    def tuned(names):
        model = create_model('vit_digits', num_classes=3, depth=1)
        fresh = model.classifier.weight.numpy().copy()
        notes = load_pretrained(model, file, new_head=True, class_names=names)
        return model.classifier.weight.numpy(), model.classifier.bias.numpy(), fresh, notes

    old, old_bias = source.classifier.weight.numpy(), source.classifier.bias.numpy()
    for names in (['a', 'b', 'c'], None):
        weight, _, _, notes = tuned(names)
        assert np.array_equal(weight, old) and notes == []
    weight, bias, _, notes = tuned(['c', 'a', 'b'])
    assert np.array_equal(weight, old[:, [2, 0, 1]]) and np.array_equal(bias, old_bias[[2, 0, 1]])
    assert notes == ['classifier: its classes are in another order here; they are matched by name']
    for names in (['a', 'b', 'x'], ['a', 'b', 'b']):
        weight, _, fresh, notes = tuned(names)
        assert np.array_equal(weight, fresh) and not np.array_equal(weight, old)
        assert notes == ['classifier: new, [96, 3]; the file has [96, 3], for other classes']
    assert head_order(['a', 'b'], ['a', 'b', 'c']) == ('other', None)


# The user's file

def test_user_s_names_win_or_are_an_error_L15(tmp_path):
    model = create_model('vit_digits', num_classes=3, depth=1)
    file = str(tmp_path / 'best.pdparams')
    save_weights(file, model, {'epoch': 1, 'config': plain_config(model.config),
                               'class_names': ['a', 'b', 'c']})
    (tmp_path / 'names.txt').write_text('uno\ndos\ntres\n')
    (tmp_path / 'two.txt').write_text('uno\ndos\n')

    def names(*options):
        return init_model('vit_digits', file, options=['MODEL.DEPTH=1', *options]).class_names

    assert names() == ['a', 'b', 'c']
    assert names(f'DATA.CLASS_NAMES={tmp_path}/names.txt') == ['uno', 'dos', 'tres']
    assert 'missing.txt: no such file' in refusal(names, 'DATA.CLASS_NAMES=missing.txt')
    assert 'got 2 class names, expected 3' in refusal(names,
                                                      f'DATA.CLASS_NAMES={tmp_path}/two.txt')
    config = config_for()
    assert 'an empty name for class 1' in refusal(class_names_of, config, ['a', ' ', 'c'], 'w')


def test_user_s_names_beside_class_folders_L15(tmp_path):
    file = tmp_path / 'names.txt'

    def labels(text, classes=2, own=('cat', 'dog')):
        file.write_text(text)
        images = Labels([0, 1])
        found = user_labels(images, own, config_for(classes, CLASS_NAMES=str(file)))
        return found, images.labels.tolist()

    assert labels('Katze\nHund\n') == (['Katze', 'Hund'], [0, 1])  # other words
    assert labels('cat\nHund\n') == (['cat', 'Hund'], [0, 1])
    assert labels('ape\ndog\ncat\n', 3) == (['ape', 'dog', 'cat'], [2, 1])  # found by name
    assert labels('dog\ncat\n', own=None) == (['dog', 'cat'], [0, 1])
    assert "got 'cat' as the name of class 1, but in data it is class 0" in \
        refusal(labels, 'dog\ncat\n')
    assert 'got 2 class names, expected 3' in refusal(labels, 'ape\nHund\ncat\n', 3)
