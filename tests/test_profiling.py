"""-profile: the trace of a run and what it says of the costs; the run is the one without it."""
import json
import re
from collections import Counter

import paddle
import pytest

from common.train.costs import PHASES, PYTHON, WORDS, Costs
from common.train.profiling import PROFILE, StepProfile
from tests.conftest import ROOT, refused_run, write_image_list
from tests.reliability.runs import content_of, cut, digest, run_folder

# 4 steps an epoch
FLAGS = ['-o', 'TRAIN.NUM_EPOCHS=3', '-o', 'REPORT_FREQ=1', '-o', 'TRAIN.GRAD_CLIP=1.0']
STEP, OWN = 'ProfileStep', 'PythonUserDefined'


def spans_of(folder, category):
    """How often each span of a category is in a run's trace."""
    events = json.loads((folder / PROFILE).read_text())['traceEvents']
    return Counter(re.sub(r'\[.*', '', event['name']) for event in events
                   if event.get('cat') == category)


def losses(folder):
    lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [line['loss'] for line in lines if line['kind'] == 'train']


def said(folder):
    """The three lines of the log that say what the steps cost, without their times."""
    lines = [line.split(' ', 2)[2] for line in (folder / 'log.txt').read_text().splitlines()]
    first, = [index for index, line in enumerate(lines) if f'are in {folder / PROFILE}' in line]
    return [line.strip() for line in lines[first:first + 3]]


@pytest.mark.smoke
def test_recorded_run_is_the_one_without(tmp_path, monkeypatch):
    """Three steps to warm up, then one of the first epoch, four of the second, two of the third."""
    data = write_image_list(tmp_path / 'data', train=16, val=8)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert cut('vit', data, tmp_path / 'with', *FLAGS, '-profile=7') == 0
    assert cut('vit', data, tmp_path / 'without', *FLAGS) == 0
    folder, other = run_folder(tmp_path / 'with'), run_folder(tmp_path / 'without')
    assert len(losses(folder)) == 12 and losses(folder) == losses(other)
    assert digest(content_of(tmp_path / 'with')) == digest(content_of(tmp_path / 'without'))
    assert not list((tmp_path / 'here').iterdir())
    assert {file.name for file in folder.iterdir()} \
        == {file.name for file in other.iterdir()} | {PROFILE}

    assert spans_of(folder, STEP) == {f'{STEP}#{step}': 1 for step in range(7)}
    own = spans_of(folder, OWN)
    once = (*PHASES, 'loading images', 'normalising', 'clipping', 'moving average')
    assert {name: own[name] for name in once} == dict.fromkeys(once, 7)
    first, phases, costs = said(folder)
    assert first.startswith('-profile: 7 steps are in ')
    shares = dict(re.fullmatch(r'(.+) (\d+)%', part).groups() for part in phases.split(', '))
    assert [*shares] == [*PHASES, 'the rest']
    assert abs(sum(map(int, shares.values())) - 100) <= 3  # rounded
    texts = [re.fullmatch(r'(.+) \d+%', part)[1] for part in costs.split(', ')]
    assert len(set(texts)) == 5


@pytest.mark.smoke
def test_run_with_fewer_steps_writes_what_there_was(tmp_path):
    data = write_image_list(tmp_path / 'data', train=16, val=8)
    assert cut('vit', data, tmp_path / 'out', *FLAGS, '-profile=100', stop_at=6) != 0
    folder = run_folder(tmp_path / 'out')
    assert len(spans_of(folder, STEP)) == spans_of(folder, OWN)['loader'] == 6
    assert said(folder)[0].startswith('-profile: 6 steps of the 100 that were asked for are in ')


def test_what_cannot_be_recorded_is_one_line(small_data, tmp_path, capfd):
    for flags, expected in (
            (['-profile=0'], 'error: -profile: got 0, expected at least 1'),
            (['-profile=3', '-eval', f'-pretrained={small_data}/train/0.jpg'],
             'error: -profile: got it in an evaluation, expected a training')):
        assert refused_run([f'-cfg={ROOT}/vit/configs/vit_digits.yaml', *flags, '-dataset=list',
                            f'-data_path={small_data}', f'-output={tmp_path / "out"}'],
                           capfd) == expected
    assert not (tmp_path / 'out').exists()


def test_file_that_cannot_be_written_is_a_warning(tmp_path):
    class Log:
        lines = []
        info = warning = lines.append

    profile = StepProfile(2, str(tmp_path / 'missing'), Log)
    profile.begin_epoch(2)
    for last in (False, True):
        paddle.ones([2]).sum()
        profile.step_done(last)
    profile.close()
    assert Log.lines[0] == '-profile: 2 steps are recorded after 0 others'
    assert Log.lines[1].startswith('-profile: a part of the trace is missing: cannot write and ')
    assert len(Log.lines) == 2 and profile.profiler is None


def span(name, category, start, end, thread='7(C++)'):
    return {'ph': 'X', 'name': f'{name}[1.0 us]', 'cat': category, 'tid': thread,
            'dur': end - start, 'args': {'start_time': f'{start:.3f} us'}}


@pytest.mark.smoke
def test_each_moment_counts_once():
    """A step of 100 us, with the names of both Paddles."""
    python = '7(Python)'
    events = [
        {}, {'ph': 'M', 'name': 'thread_name'}, span('add dygraph', 'Operator', 0, 10),
        span('ProfileStep#0', STEP, 10, 110, python),
        span('loader', OWN, 10, 30, python), span('normalising', OWN, 20, 28, python),
        span('batch_norm dygraph', 'Operator', 21, 27),
        span('forward', OWN, 30, 60, python), span('Linear', 'Forward', 30, 50, python),
        span('matmul pybind_imperative_func', 'UserDefined', 31, 47),
        span('matmul dygraph', 'Operator', 32, 46),
        span('matmul infer_meta', 'OperatorInner', 33, 35),
        span('matmul kernel launch', 'DygraphKernelLaunch', 35, 45),
        span('gelu kernel', OWN, 50, 54, python), span('unheard_of dygraph', 'Operator', 54, 57),
        span('backward', OWN, 60, 90, python), span('backward', 'UserDefined', 61, 89),
        span('Global_MatmulGradNode', 'Operator', 62, 70),
        span('matmul_grad kernel launch', 'DygraphKernelLaunch', 63, 69),
        span('GradNodePyLayer_LayerNormFunction_backward', 'Operator', 70, 80),
        span('matmul dygraph', 'Operator', 71, 75),
        span('CrossEntropyWithSoftmaxGradNode', 'Operator', 80, 84),
        span('Global_GradNodePyLayer_LinearFunction', 'Operator', 84, 88),
        span('gelu_gradient kernel', OWN, 85, 87, python),
        span('optimiser', OWN, 90, 105, python), span('adamw_ dygraph', 'Operator', 91, 104),
        span('matmul dygraph', 'Operator', 10, 110, '8(C++)')]
    costs = Costs()
    costs.add(events)
    costs.add(events)  # of a second epoch
    assert costs.total == 200
    assert costs.phases == {'loader': 40, 'forward': 60, 'backward': 60, 'optimiser': 30}
    assert costs.words == {
        'waiting for images': 24, 'normalising and erasing images': 16, 'matrix products': 48,
        'GELU': 12, 'unheard_of': 6, 'LayerNorm': 20, 'the loss': 8,
        "the optimiser's update": 26, PYTHON: 40}
    assert costs.lines(largest=2) == [
        'forward 30%, backward 30%, optimiser 15%, loader 20%, the rest 5%',
        f'matrix products 24%, {PYTHON} 20%']


def test_own_operators_have_words():
    """All PyLayers of the layers, but for the one whose parts say what they are; all kernels."""
    sources = [file.read_text() for file in (ROOT / 'common/layers/fast').glob('*.py')]
    layers = {name for text in sources for name in re.findall(r'class (\w+)\(PyLayer\)', text)}
    kernels = {name.removesuffix('_gradient') for text in sources
               for name in re.findall(r"\bcall\('(\w+)'", text)}
    assert len(layers) > 5 and len(kernels) > 5
    assert layers - {'LinearFunction'} | kernels <= WORDS.keys()
