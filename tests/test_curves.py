"""The curves of a run: what is read, and which evaluation is marked."""
import json

import pytest
from PIL import Image

from common import curves
from common.train.plot import best_of, read_metrics, run_figure, runs_figure
from common.weights.unpickle import load_pickle
from tests.conftest import refusal
from tests.reliability.runs import cut, run_folder

TRAIN = {'kind': 'train', 'epoch_share': 1.0, 'epoch': 1, 'step': 5, 'loss': 2.5, 'acc1': 0.05,
         'lr': 1e-3}
# the raw weights are the better ones
EVALUATIONS = [{'kind': kind, 'epoch': epoch, 'loss': 1.0, 'acc1': acc1, 'acc5': 0.99}
               for epoch, raw, averaged in ((1, 0.5, 0.2), (2, 0.938, 0.9239), (3, 0.91, 0.9))
               for kind, acc1 in (('eval', raw), ('eval_ema', averaged))]


def write(folder, lines, tail=''):
    text = ''.join(json.dumps(line) + '\n' for line in lines) + tail
    (folder / 'metrics.jsonl').write_text(text)
    return str(folder / 'metrics.jsonl')


def marks(lines):
    """What is written at the curves of one run, and in the legend of several."""
    texts = [(text.get_text(), text.xy) for axes in run_figure(lines).axes for text in axes.texts]
    legend, = runs_figure({'run': lines}).legends
    return texts, legend.get_texts()[0].get_text()


@pytest.mark.smoke
@pytest.mark.parametrize('yaml, best', [
    ('TRAIN:\n  EMA:\n    BEST: true\n', '92.39'), ('TRAIN:\n  EMA:\n    BEST: false\n', '93.80'),
    (None, '93.80')])
def test_mark_of_a_run_without_lines_about_the_best_O4(yaml, best, tmp_path):
    if yaml:
        (tmp_path / 'config.yaml').write_text(yaml)
    texts, legend = marks(read_metrics(write(tmp_path, [TRAIN, *EVALUATIONS]))[0])
    assert [(text, round(y, 2)) for text, (_, y) in texts] == [(f'best {best}', float(best))]
    assert texts[0][1][0] == 2 and legend == f'run, best {best}'


@pytest.mark.parametrize('averaged', [False, True])
def test_mark_is_of_the_weights_that_were_saved_O4(averaged, small_data, tmp_path):
    """A run whose average stays the first weights, which never reach the file: the picture shows
    what it holds."""
    keys = ['-o', 'TRAIN.EMA.DECAY=0.9999', '-o', 'TRAIN.EMA.WARMUP=False',
            '-o', f'TRAIN.EMA.BEST={averaged}', '-o', 'TRAIN.BASE_LR=0.01']
    assert cut('vit', small_data, tmp_path, *keys) == 0
    folder = run_folder(tmp_path)
    result = json.loads((folder / 'result.json').read_text())
    saved = load_pickle(str(folder / 'best.pdparams'))
    assert saved['epoch'] == result['epoch'] and saved['best']['acc1'] == result['acc1']
    lines = read_metrics(str(folder / 'metrics.jsonl'))[0]
    (text, (epoch, _)), = marks(lines)[0]
    best = best_of(lines)
    assert best.pop('weights', 'model') == result.get('weights', 'model') == 'model'
    assert text == f'best {100 * result["acc1"]:.2f}' + ', model' * averaged
    assert epoch == result['epoch'] and {**best, 'kind': 'eval'} in lines
    log = (folder / 'log.txt').read_text()
    assert '100% of the average will still be the first weights at the end; ' in log
    assert ("best.pdparams has the model's weights; of the average more than half" in log) \
        == averaged
    assert result['acc1'] == pytest.approx(
        max(line['acc1'] for line in lines if line['kind'] == 'eval'), 1e-5)


def test_equally_good_average_is_kept_unless_it_is_the_first_weights_O4(small_data, tmp_path):
    """The rate is so small that no weight moves: model and average are the same."""
    for decay, weights in ((0.9999, 'model'), (0.1, 'average')):
        output = tmp_path / weights
        assert cut('vit', small_data, output, '-o', f'TRAIN.EMA.DECAY={decay}', '-o',
                   'TRAIN.EMA.WARMUP=False', '-o', 'TRAIN.EMA.BEST=True', '-o',
                   'TRAIN.BASE_LR=1e-12', '-o', 'TRAIN.NUM_EPOCHS=1') == 0
        assert json.loads((run_folder(output) / 'result.json').read_text())['weights'] == weights


def test_mark_of_a_run_that_goes_on_in_a_new_folder_O4(small_data, tmp_path):
    assert cut('vit', small_data, tmp_path / 'a', '-o', 'TRAIN.NUM_EPOCHS=2') == 0
    first = run_folder(tmp_path / 'a')
    rest = ['-o', 'TRAIN.BASE_LR=1e-12', f'-resume={first}']  # no better than before
    assert cut('vit', small_data, tmp_path / 'b', *rest) == 0
    second = run_folder(tmp_path / 'b')
    result = json.loads((second / 'result.json').read_text())
    best = best_of(read_metrics(str(second / 'metrics.jsonl'))[0])
    assert best['epoch'] == result['epoch'] and best['acc1'] == pytest.approx(result['acc1'], 1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize('tail', ['{"kind": "eval", "ep', '\0\0\0\n', '[1]\n', '{"kind": "eval"}\n',
                                  '{"kind": "train", "epoch": "x"}', '[' * 100_000, '\x1b\xff',
                                  '{"kind": "best", "acc1": 1, "epoch": 1' + '0' * 400 + '}'])
def test_line_that_cannot_be_read_is_left_out_and_named_O4(tail, tmp_path, capsys):
    file = write(tmp_path, [TRAIN], tail)
    curves.main([str(tmp_path)])
    err = capsys.readouterr().err
    assert err.startswith(f'WARNING: {file}:2: got ') and err.count('\n') == 1 and len(err) < 500
    assert err.endswith('1 of 2 lines are left out\n') and '\x1b' not in err
    with Image.open(tmp_path / 'curves.png') as picture:
        assert picture.format == 'PNG' and picture.size[0] > 500


@pytest.mark.smoke
def test_folder_without_figures_is_one_line_O4(tmp_path):
    with pytest.raises(SystemExit) as end:
        curves.main([str(tmp_path)])
    assert str(end.value) == f'error: {tmp_path}/metrics.jsonl: No such file or directory'
    assert refusal(read_metrics, write(tmp_path, [])).endswith('metrics.jsonl: got no figures yet')
    assert 'metrics.jsonl:1: got' in refusal(read_metrics, write(tmp_path, [], '{'))
