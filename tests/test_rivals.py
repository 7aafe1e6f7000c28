"""`benchmark rivals`: the processes that take turns, by stand-ins for other libraries; the table,
from given figures. No time is asserted."""
import json
import os
import sys

import pytest

from common.benchmarks import foreign
from common.benchmarks import rivals as module
from common.benchmarks.processor import kind_of_processor
from common.benchmarks.rivals import Setting, figures, names_elsewhere, rivals, rivals_table
from common.benchmarks.turns import Contender, ratios, take_turns
from common.core.errors import InputError
from common.core.processes import AVX512
from common.deploy.export import export_model
from tests.conftest import run_script

# A stand-in for another library: it counts its steps in a file that all of them write to.
CHILD = '''
import json, os, sys
sys.path.insert(0, {folder!r})
from foreign import Missing, answer

def make_step(spec):
    if spec.get('missing'):
        raise Missing(spec['missing'])
    if spec.get('module'):
        import nothing_of_this_name
    if spec.get('wrong'):
        raise RuntimeError('two\\nlines')
    if spec.get('noise'):
        os.write(1, b'a line of a library\\n')
        print('another')
    count = [0]
    def step():
        count[0] += 1
        with open(spec['log'], 'a') as stream:
            stream.write(spec['name'])
        if count[0] == spec.get('dies_at'):
            sys.exit('out of luck')
    return step, 'Stand-in 1.0', 7

answer(make_step, json.loads(sys.argv[1]))
'''


def stand_in(tmp_path, name, **spec):
    program = tmp_path / 'child.py'
    program.write_text(CHILD.format(folder=os.path.dirname(foreign.__file__)))
    spec = {'name': name, 'log': str(tmp_path / 'log'), **spec}
    return Contender(name, [sys.executable, '-S', str(program), json.dumps(spec)])


@pytest.mark.smoke
def test_turns_and_what_can_go_wrong(tmp_path):
    cases = {'a': {}, 'b': {'noise': True}, 'c': {'missing': 'no such model'},
             'd': {'module': True}, 'e': {'wrong': True}, 'f': {'dies_at': 3}}
    group = {name: stand_in(tmp_path, name, **spec) for name, spec in cases.items()}
    group['g'] = Contender('g', [sys.executable, '-S', '-c', 'import os; os.kill(os.getpid(), 9)'])
    group['h'] = Contender('h', None, missing='cannot be started')
    take_turns(list(group.values()), 3, least=0)
    # each has its first step and, since a turn of no length is one step, one in each of the turns;
    # every other round goes backwards
    assert (tmp_path / 'log').read_text() == 'abf' + 'abf' + 'fba' + 'ab'
    for name in 'ab':
        one = group[name]
        assert (one.missing, one.versions, one.parameters) == (None, 'Stand-in 1.0', 7)
        assert len(one.seconds) == 3 and one.peak_mb > 1 and one.process is None
    assert {name: group[name].missing for name in 'cdefgh'} == {
        'c': 'no such model', 'd': 'got no nothing_of_this_name', 'e': 'RuntimeError: two lines',
        'f': 'the process ended with exit code 1: out of luck',
        'g': 'the process ended with SIGKILL', 'h': 'cannot be started'}


def test_turn_of_some_length_leaves_out_its_first_step():
    calls = []
    found = foreign.turn(lambda: calls.append(0), 0.01)
    assert found['steps'] == len(calls) - 1 > 1 and found['seconds'] > 0


class Measured:
    def __init__(self, seconds=(), missing=None, versions='X 1.0', parameters=None):
        self.title, self.missing, self.versions = 'T', missing, versions
        self.parameters, self.seconds, self.peak_mb = parameters, list(seconds), 100.4


@pytest.mark.smoke
def test_table_of_given_figures():
    group = {'eager': Measured([2.0, 1.0, 4.0], parameters=12),
             'onnx': Measured(missing='got no onnxruntime', versions=None),
             'torch': Measured([4.0, 4.0, 4.0], parameters=13)}
    rows = figures(group, 2, 8)
    assert [row.get('ratio') for row in rows] == [2.0, None, 1.0]
    table = rivals_table({'model': 'm', 'image': '32x32', 'batch': 8, 'what': 'inference',
                          'precision': 'fp32', 'processor': 'P', 'date': '2026-01-02',
                          'parameters': 12, 'rows': rows})
    assert table.splitlines() == [
        'm, 32x32, batch 8, inference, fp32; P; 2026-01-02', '',
        '| | Version | Threads | img/s | To PyTorch | Spread | Peak MB |', '|---' * 7 + '|',
        '| T | X 1.0 | 2 | 4.00 | 2.00 | 1.00 to 4.00 | 100 |',
        '| T | not measured: got no onnxruntime | 2 | | | | |',
        '| T | X 1.0, 13 parameters instead of 12 | 2 | 2.00 | 1.00 | 1.00 to 1.00 | 100 |']


def test_without_pytorch_ratios_are_to_this_project():
    rows = figures({'eager': Measured([2.0]), 'onnx': Measured([1.0]),
                    'torch': Measured(missing='no -python')}, 1, 8)
    assert [row.get('ratio') for row in rows] == [1.0, 2.0, None]
    assert rows[1]['reference'] == 'eager'
    assert ratios([2.0, 6.0, 3.0], [1.0, 2.0, 3.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize('words, kind', [
    (AVX512 | {'avx2', 'AuthenticAMD', 'avx512_bf16'}, 'AMD with AVX-512'),
    (AVX512 | {'avx2', 'GenuineIntel', 'amx_tile'}, 'Intel with AMX'),
    (AVX512 | {'avx2', 'GenuineIntel'}, 'Intel with AVX-512'),
    ({'avx2', 'AuthenticAMD'}, 'AVX2'), ({'avx2', 'avx512f'}, 'AVX2'),
    ({'sse2'}, 'x86 without AVX2'), (set(), 'no x86')])
def test_kind_of_processor(words, kind):
    assert kind_of_processor(words) == kind


def test_names_in_other_projects():
    assert names_elsewhere('swin_tiny')[0] == 'swin_tiny_patch4_window7_224'
    assert names_elsewhere('ViTAEv2_S') == ['ViTAEv2_S', 'vitaev2_s']
    assert 'vit_small_patch16_224' in names_elsewhere('vit_small_patch16_224')


@pytest.mark.smoke
def test_upstream_s_function_is_found_by_its_name(tmp_path, monkeypatch):
    """In any folder, in a package with relative imports, and with no other file imported."""
    package = tmp_path / 'Classification' / 'models_for_a_test'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text('from .small import *\n')
    (package / 'parts.py').write_text('SIZE = 5\n')
    (package / 'small.py').write_text('from .parts import SIZE\ndef Model_S(**options):\n'
                                      '    return SIZE, options\n')
    (tmp_path / 'train.py').write_text('raise SystemExit("it was imported")\n')
    monkeypatch.setattr(sys, 'path', sys.path[:])
    assert foreign.upstream_function(str(tmp_path), ['model_s', 'Model_S'])(a=1) == (5, {'a': 1})
    assert foreign.upstream_function(str(tmp_path), ['Model_B']) is None


def test_foreign_child_needs_nothing_of_this_project():
    """As an isolated Python without site-packages starts it; whichever library it lacks is said."""
    spec = {'kind': 'torch', 'train': False}
    one = Contender('torch', [sys.executable, '-I', '-S', foreign.__file__, json.dumps(spec)])
    take_turns([one], 1)
    assert one.missing == 'got no torch'
    one = Contender('ov', [sys.executable, '-I', '-S', foreign.__file__,
                           json.dumps({'kind': 'openvino-export'})])
    take_turns([one], 1)
    assert one.missing in ('got no numpy', 'got no openvino')


def test_command_measures_what_there_is(tmp_path):
    """Here: a Python without any of the others. The rest of the table has figures."""
    lacking = tmp_path / 'python'
    lacking.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    lacking.chmod(0o755)
    code, out, err = run_script(
        ['-m', 'common.benchmark', 'rivals', 'vit_digits', '-train', '-batch_size', '2', '-rounds',
         '1', '-threads', '1', '-python', lacking, '-json', tmp_path / 'a.json'], folder='.')
    assert code == 0, err
    found = json.loads((tmp_path / 'a.json').read_text())
    assert found['what'] == 'training step' and out.count('\n| ') == 4
    assert [(row['kind'], row['missing']) for row in found['rows']] == [
        ('eager', None), ('torch', 'got no torch'), ('torch.compile', 'got no torch')]
    own = found['rows'][0]
    assert own['ratio'] == 1.0 and own['peak_mb'] > 100 and own['images_per_s'] > 0


def test_exports_are_measured_and_what_cannot_be_exported_is_a_row(monkeypatch):
    def export(model, folder, format):
        if format == 'paddle':
            raise InputError('export: no graph')
        return export_model(model, folder, format)

    monkeypatch.setattr(module, 'export_model', export)
    monkeypatch.setattr(module, 'KINDS', {key: module.KINDS[key] for key in (
        'paddle', 'onnx', 'openvino-export')})
    rows = rivals(Setting('vit_digits', batch_size=2, rounds=1))['rows']
    assert [row['missing'] for row in rows] == ['export: no graph', None, 'no -python']
    assert rows[1]['images_per_s'] > 0 and rows[1]['versions'].startswith('ONNX Runtime ')
    with pytest.raises(InputError, match='nothing could be measured; the first, .*no switch'):
        monkeypatch.setattr(module, 'KINDS', {'onnx': module.KINDS['onnx']})
        monkeypatch.setattr(module, 'export_model', lambda *arguments: None)
        rivals(Setting('vit_digits', acting_as='avx2'))


@pytest.mark.parametrize('arguments, message', [
    (['nothing'], "model: got 'nothing', expected"),
    (['vit_digits', '-python', 'no/python'], '-python: got no/python, expected a program'),
    (['vit_digits', '-upstream', 'no/folder'], '-upstream: got no/folder, expected a folder'),
    (['vit_digits', '-threads', '0'], '-threads: got 0, expected at least 1'),
    (['vit_digits', '-train', '-bf16'], '-bf16: got it with -train, expected forward passes')])
def test_wrong_input(arguments, message, capsys):
    from common.benchmark import main
    with pytest.raises(SystemExit) as end:
        main(['rivals', *arguments])
    assert str(end.value.code).startswith(f'error: {message}')
