"""`-runtime auto`: what it measures, takes and keeps. No time is asserted: the rates are given."""
import json

import numpy as np
import pytest

from common.apis import Classifier, Preprocessing
from common.core.errors import InputError
from common.deploy import auto, export
from common.export import export_model, runtime_of
from common.runtimes import load_exported
from common.zoo import create_model
from tests.conftest import refusal

PREPROCESSING = Preprocessing([8, 8], 1.0, 'bicubic', [0.5] * 3, [0.5] * 3)


class Fake(Classifier):
    """Logits that are the means of the pixels, times a factor."""

    def __init__(self, factor=1.0):
        super().__init__(PREPROCESSING)
        self.factor = factor

    def __call__(self, pixels):
        return pixels.mean(axis=(2, 3)).astype(np.float32) * self.factor


def broken():
    raise InputError('broken: got no luck')


@pytest.fixture
def rates(monkeypatch):
    """What is measured; `asked` are the runtimes and batches of each measurement."""
    given = {'one': 10.0, 'two': 20.0, 'off': 99.0, 'asked': []}

    def measured(classifiers, batch):
        given['asked'].append((list(classifiers), batch.shape))
        return {name: given[name] for name in classifiers}

    monkeypatch.setattr(auto, 'images_per_second', measured)
    return given


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'export.json').write_text('{"files": {"model.onnx": "1"}, '
                                          '"check": {"tolerance": 0.001}}')
    return tmp_path


MAKERS = {'one': Fake, 'two': lambda: Fake(1.0001), 'off': lambda: Fake(1.01), 'bad': broken,
          'absent': None}


@pytest.mark.smoke
def test_the_fastest_that_is_right_is_taken_and_kept(rates, folder):
    found = auto.load_fastest(str(folder), MAKERS, 3, threads=2)
    assert found.factor == 1.0001 and rates['asked'] == [(['one', 'two'], (3, 3, 8, 8))]
    tail = ('img/s in batches of 3 with 2 threads: one 10.0, two 20.0; bad: broken: got no luck; '
            'off: its logits differ by 0.01 of the largest, expected at most 0.001; '
            'absent is not installed')
    assert found.notes == [f'runtime auto: two; {tail}']
    rates['two'] = 1.0  # is not looked at again
    found = auto.load_fastest(str(folder), MAKERS, 3, threads=2)
    assert found.factor == 1.0001 and len(rates['asked']) == 1
    assert found.notes == [f'runtime auto: two, as measured before; {tail}']


@pytest.mark.smoke
def test_other_conditions_are_measured_again(rates, folder, monkeypatch):
    makers = {'one': Fake, 'two': Fake}

    def measures(makers=makers, batch_size=1, threads=1):
        before = len(rates['asked'])
        auto.load_fastest(str(folder), makers, batch_size, threads)
        return len(rates['asked']) - before

    assert [measures(), measures(), measures(batch_size=2), measures(threads=2), measures(),
            measures(batch_size=2)] == [1, 0, 1, 1, 0, 0]
    assert [measures({**makers, 'off': Fake}), measures({**makers, 'off': Fake})] == [1, 0]
    (folder / 'export.json').write_text('{"files": {"model.onnx": "2"}}')
    assert [measures(), measures()] == [1, 0]
    monkeypatch.setattr(auto, 'processor', lambda: 'another')
    assert [measures(), measures()] == [1, 0]
    monkeypatch.setattr(auto.importlib.metadata, 'version', lambda name: '9')
    assert [measures(), measures()] == [1, 0]


@pytest.mark.smoke
@pytest.mark.parametrize('content', ['', '{', '[' * 100_000, '3', '{"a": 1}', '[1, null, {}]'])
def test_a_broken_file_costs_a_measurement(rates, folder, content):
    (folder / 'auto.json').write_text(content)
    for count in (1, 1):
        auto.load_fastest(str(folder), {'one': Fake, 'two': Fake}, 1, 1)
        assert len(rates['asked']) == count
    assert len(json.loads((folder / 'auto.json').read_text())) == 1


@pytest.mark.smoke
def test_a_file_that_names_another_runtime_chooses_none(rates, folder):
    auto.load_fastest(str(folder), {'one': Fake, 'two': Fake}, 1, 1)
    text = (folder / 'auto.json').read_text().replace('"two"', '"evil"')
    (folder / 'auto.json').write_text(text)
    auto.load_fastest(str(folder), {'one': Fake, 'two': Fake}, 1, 1)
    assert len(rates['asked']) == 2


@pytest.mark.smoke
def test_a_choice_that_cannot_be_kept_is_said(rates, folder):
    (folder / 'auto.json').mkdir()
    notes = auto.load_fastest(str(folder), {'one': Fake}, 1, 1).notes
    assert len(notes) == 2 and notes[1].startswith(f'{folder}/auto.json: cannot write it (')
    assert notes[1].endswith('the next start measures again')
    assert [path.name for path in folder.glob('*.tmp*')] == []


@pytest.mark.smoke
def test_the_file_keeps_the_newest_choices(rates, folder):
    for batch_size in range(1, auto.MOST_CHOICES + 5):
        auto.load_fastest(str(folder), {'one': Fake}, batch_size, 1)
    kept = [choice['batch_size'] for choice in json.loads((folder / 'auto.json').read_text())]
    assert kept == list(range(5, auto.MOST_CHOICES + 5))


@pytest.mark.smoke
def test_where_nothing_runs(folder):
    assert refusal(auto.load_fastest, str(folder), {'bad': broken, 'absent': None}, 1) \
        == 'runtime auto: no runtime can run it: broken: got no luck'
    assert 'batch_size: got 0' in refusal(auto.load_fastest, str(folder), {'one': Fake}, 0)


@pytest.mark.smoke
def test_of_an_export_and_of_a_model(tmp_path, monkeypatch):
    """With real runtimes and times: the logits are the model's, whichever was taken."""
    monkeypatch.setattr(auto, 'SECONDS', 0.01)
    monkeypatch.setattr(export, 'FORMATS', ('paddle',))  # the others take seconds
    model = create_model('vit_digits')
    export_model(model, tmp_path / 'new', 'paddle')
    pixels = np.random.RandomState(0).randint(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    expected = runtime_of(model)(pixels)
    found = load_exported(tmp_path / 'new', 'auto', batch_size=2)
    assert found.notes[0].startswith('runtime auto: paddle; img/s in batches of 2 with ')
    np.testing.assert_allclose(found(pixels), expected, atol=1e-5 * np.abs(expected).max())
    found = runtime_of(model, 'auto', 2)
    assert 'eager' in found.notes[0] and 'paddle' in found.notes[0]
    np.testing.assert_allclose(found(pixels), expected, atol=1e-5 * np.abs(expected).max())
