"""`benchmark device`, which tells what a GPU does: the same code on a CPU, with a tiny model. What
is of a GPU alone is a stand-in. No time is asserted."""
import contextlib
import json
import sys

import pytest

from common.benchmarks import device as module
from common.benchmarks import device_figures
from common.benchmarks.device import PARTS, Overflows, tried
from common.benchmarks.device_figures import DeviceSetting, device_tables, run_part, specs_of
from common.layers import attention
from tests import gpu_check

SPEC = {'part': 'training', 'name': 'vit_digits', 'image_size': 32, 'batch': 2, 'device': 'cpu',
        'seconds': 0.0, 'steps': 2, 'ranks': 1, 'workers': 0}


@pytest.fixture(autouse=True)
def this_process_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(module, 'set_up', lambda spec: None)


@pytest.mark.smoke
def test_inference_by_runtime_and_precision():
    figures = list(PARTS['inference'](SPEC))
    assert [(f['runtime'], f['precision'].split()[0]) for f in figures] == [
        (runtime, precision) for runtime in ('eager', 'to_static', 'Paddle Inference')
        for precision in ('fp32', 'fp16', 'bf16')]
    assert all(f['images_per_s'] > 0 and f['peak_mb'] > 0 and f['batch'] == 2 for f in figures)
    assert figures[0]['precision'] == 'fp32' and figures[1]['precision'].endswith('on a CPU)')


@pytest.mark.smoke
def test_training_with_flash_attention_and_without(monkeypatch):
    """Without: attention is told that there is none, and asks again afterwards."""
    asked = []
    monkeypatch.setattr(attention, 'has_flash_attention', lambda *of: asked.append(of))
    figures = []
    for figure in PARTS['training'](SPEC):
        figures.append((figure['precision'].split()[0], figure['flash_attention'], bool(asked)))
        assert figure['images_per_s'] > 0 and figure['steps'] == 2 and figure['overflows'] == 0
        asked.clear()
    assert figures == [('fp32', False, False), ('fp16', True, True), ('fp16', False, False),
                       ('bf16', True, True), ('bf16', False, False)]


def test_wait_for_images_and_share_of_the_all_reduce():
    data, = PARTS['data'](SPEC)
    assert 0 < data['data_share'] < 1 and data['images_per_s'] > 0 and data['workers'] == 0
    ranks, = PARTS['ranks'](SPEC)
    assert ranks['all_reduce_share'] == 1 - ranks['seconds_without'] / ranks['seconds']


def test_overflows_are_steps_that_lower_the_loss_scale():
    class Scaler:
        scale = 8.0

        def state_dict(self):
            return {'scale': [self.scale]}

    scaler = Scaler()
    overflows = Overflows(scaler)
    for scaler.scale in (8.0, 4.0, 2.0, 2.0, 4.0, 2.0):
        overflows.after_update(1, None)
    assert overflows.count == 3 and overflows.last == 2.0


def test_batch_that_does_not_fit_is_halved_and_other_errors_are_figures():
    def measure(batch):
        if batch > 4:
            raise MemoryError('ResourceExhaustedError: Out of memory on GPU 0')
        return {'images_per_s': 1.0}

    found = tried({'a': 1}, measure, {'batch': 16})
    assert found['batch'] == 4 and found['images_per_s'] == 1.0

    def wrong(batch):
        raise RuntimeError('no\nkernel')
    assert tried({}, wrong, {'batch': 16}) == {'batch': 16, 'error': 'no kernel'}


def test_processes_of_a_setting():
    setting = DeviceSetting(('a', 'b'), 'gpu', sizes=((224, 128), (448, 64)), ranks=4)
    assert [(s['part'], s['name'], s['image_size'], s['batch'], s['ranks'])
            for s in specs_of(setting)] == [
        ('inference', 'a', 224, 128, 1), ('inference', 'a', 448, 64, 1),
        ('inference', 'b', 224, 128, 1), ('inference', 'b', 448, 64, 1),
        ('training', 'a', 224, 128, 1), ('training', 'b', 224, 128, 1), ('data', 'a', 224, 128, 1),
        ('ranks', 'a', 224, 128, 4)]
    assert 'ranks' not in {s['part'] for s in specs_of(setting._replace(ranks=1))}


def test_process_that_ends_keeps_what_it_has_measured(monkeypatch):
    program = 'print(\'{"images_per_s": 1}\', flush=True); import os; os.abort()'
    monkeypatch.setattr(device_figures, 'own_command', lambda *of: [sys.executable, '-S', '-c',
                                                                    program])
    assert run_part(SPEC) == [{'images_per_s': 1},
                              {'error': 'the process ended with SIGABRT'}]


def test_tables_of_given_figures():
    of = {'name': 'm', 'image_size': 224}
    text = device_tables({'gpus': ['G'], 'paddle': '3.3', 'date': '2026-01-02', 'figures': [
        {**of, 'part': 'inference', 'runtime': 'eager', 'precision': 'fp16', 'batch': 64,
         'images_per_s': 1459.04, 'peak_mb': 900.2},
        {**of, 'part': 'inference', 'runtime': 'to_static', 'precision': 'bf16', 'batch': 64,
         'error': 'no kernel'},
        {**of, 'part': 'training', 'precision': 'fp16', 'flash_attention': True, 'batch': 64,
         'images_per_s': 100.0, 'overflows': 2, 'loss_scale': 16384.0, 'peak_mb': 5.0},
        {**of, 'part': 'ranks', 'ranks': 8, 'batch': 64, 'images_per_s': 700.0,
         'all_reduce_share': 0.125}]})
    assert [line for line in text.splitlines() if line and not line.startswith('|---')] == [
        'G; Paddle 3.3; 2026-01-02',
        '| inference: model | image | runtime | precision | batch | img/s | peak MB |',
        '| m | 224 | eager | fp16 | 64 | 1459.0 | 900 |',
        '| m | 224 | to_static bf16 not measured: no kernel |',
        '| training: model | image | precision | FlashAttention | batch | img/s | overflows | '
        'loss scale | peak MB |',
        '| m | 224 | fp16 | yes | 64 | 100.0 | 2 | 16384.0 | 5 |',
        '| ranks: model | image | devices | batch of each | img/s | all-reduce |',
        '| m | 224 | 8 | 64 | 700.0 | 12.5% |']


def test_gpu_check_writes_one_file_with_checks_and_figures(tmp_path, monkeypatch, capsys):
    """The processes of the parts are this one; the checks are two, one of which fails."""
    def part(spec):
        return [{**figure} for figure in ([] if spec['part'] == 'inference'
                                          else PARTS[spec['part']](spec))]

    monkeypatch.setattr(gpu_check, 'checks', lambda device: [
        ('one', lambda: (True, 'fine')), ('two', contextlib.ExitStack)])
    monkeypatch.setattr(device_figures, 'run_part', part)
    file = tmp_path / 'new' / 'a.json'
    with pytest.raises(SystemExit) as end:
        gpu_check.main(['-device', 'cpu', '-short', '-json', str(file)])
    assert end.value.code == '1 checks failed'
    found = json.loads(file.read_text())
    assert [(check['check'], check['passed']) for check in found['checks']] == [('one', True),
                                                                                ('two', False)]
    assert {figure['part'] for figure in found['figures']} == {'training', 'data', 'ranks'}
    assert found['paddle'] and found['processor'] and 'attached to an issue' in \
        capsys.readouterr().out
