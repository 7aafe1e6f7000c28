"""Optimiser states, gradients and weights that are split over the ranks (TRAIN.SHARDING), on a CPU
by gloo: the same weights, checkpoints of one format, less memory; Paddle's own way beside it."""
import json
from types import SimpleNamespace

import paddle
import pytest
from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer.dygraph_sharding_optimizer import (
    DygraphShardingOptimizer,
)

from common.train.engine import agree_on_overflow
from common.train.sharding import owners_of
from common.zoo import create_model
from tests.conftest import ROOT, refusal, refused_run, run_script
from tests.sharded_steps import CASES

SHORT = ('vit:1', 'vit:3', 'vitae:3')
ALL = [pytest.param(ranks, tuple(f'{case}:{stage}' for case in CASES), marks=pytest.mark.long,
                    id=f'{ranks} ranks, stage {stage}')
       for ranks in (2, 4) for stage in (1, 2, 3)]
# Of weights in float64. At 1 it has always been 0. At 2 and 3 the sums over micro-batches, blocks
# and the norm have another order, and AdamW divides a gradient that is nothing but rounding by its
# own size.
LEAST = {1: 1e-12, 2: 1e-9, 3: 1e-9}


def steps(ranks, cases, folder):
    """What sharded_steps.py has found about each case."""
    code, _, err = run_script(
        ['-m', 'paddle.distributed.launch', f'--nproc_per_node={ranks}',
         f'--log_dir={folder / "log"}', ROOT / 'tests' / 'sharded_steps.py', folder, *cases],
        folder='.', env={'PADDLE_DISTRI_BACKEND': 'gloo', 'PYTHONPATH': str(ROOT),
                         'OMP_NUM_THREADS': '1'})
    logs = '\n'.join(file.read_text() for file in (folder / 'log').glob('workerlog.*'))
    assert code == 0, err + logs[-3000:]
    return json.loads((folder / 'found.json').read_text())


@pytest.mark.parametrize('ranks, cases', [(2, SHORT), *ALL])
def test_split_states_change_no_weight_and_no_checkpoint_H1_H2(ranks, cases, tmp_path):
    """The three families, with accumulation, clipping, layer decay, averages, recomputed blocks,
    skipped steps and a scaler: weights, averages and states are those of plain data parallelism,
    also after a checkpoint of the other kind. Each rank has its share of the states, gradients and
    weights. A disk that is full is no error of the others, and a save has no more than a tensor of
    the states at a time."""
    for name, found in steps(ranks, cases, tmp_path).items():
        case, stage = name.split(':')
        assert all(value <= LEAST[int(stage)] for kinds in found['differences']
                   for value in kinds.values()), (name, found['differences'])
        for most, least, plain, all_of_them in found['kept']:
            assert (most, plain) == (least, all_of_them)
        assert found['kinds_of_ranks'] == 1
        assert sum(found['held']) == found['all']
        # a rank that has less than the others gets the next parameter
        assert max(found['held']) <= found['all'] / ranks + found['largest']
        assert found['written'] == [False, True]
        if case in ('vitae', 'vsa'):  # the others have little else than their largest tensor
            assert found['peak'] < 8 * found['all'] / 2


def test_shares_are_those_of_fleet():
    parameters = create_model('vitae_digits').parameters()
    for ranks in (2, 3, 8):
        fleet = DygraphShardingOptimizer._partition_parameters(
            SimpleNamespace(_parameter_list=parameters, _sharding_world_size=ranks))
        names = [p.name for p in parameters]
        expected = [None] * len(names)
        for rank, share in fleet.items():
            for parameter in share:
                expected[names.index(parameter.name)] = rank
        assert owners_of(parameters, ranks) == expected


def test_what_cannot_be_split_is_one_line_H3(small_data, tmp_path, capfd):
    parameters = [paddle.zeros([3]), paddle.zeros([2])]
    assert owners_of(parameters, 2) == [0, 1]
    assert refusal(owners_of, parameters, 3) == (
        'TRAIN.SHARDING: got 3 processes for 2 trained parameters, expected no more than these')
    assert 'TRAIN.SHARDING: got 2 with TRAIN.TO_STATIC, expected 0 or 1, or no graph' in \
        refused_run(['-cfg=' + str(ROOT / 'vit/configs/vit_digits.yaml'),
                     f'-data_path={small_data}', f'-output={tmp_path / "out"}',
                     '-o', 'TRAIN.SHARDING=2', '-o', 'TRAIN.TO_STATIC=True'], capfd)
    assert not (tmp_path / 'out').exists()
    assert 'has no GradScaler._found_inf' in refusal(agree_on_overflow, SimpleNamespace())
