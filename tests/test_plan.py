"""Plans: predicted memory against what training takes, the choice of settings, the command."""
import gc
import itertools
import math
import shlex

import paddle
import paddle.nn.functional as F
import pytest

from common.config import set_options
from common.data.samplers import TrainSampler
from common.layers import attention
from common.plan import main
from common.planning.budget import Budget, Setting
from common.planning.check import Case, case_of, check_table, setting_of
from common.planning.choice import best_of, choose, split_batch
from common.planning.gpu import as_on_gpu
from common.planning.loader import measure_loader, workers_for
from common.planning.timeline import Curve, Step, Timeline, with_equal_cells
from common.planning.trace import TRUNK, MemoryCounter, trace_step
from common.runner import make_command_parser
from common.train.engine import train_one_epoch
from common.train.precision import Precision
from common.train.state import Callbacks, EpochSteps, LoopOptions
from common.train.worker import build_state
from common.zoo import build_model, create_model, model_config
from tests.conftest import refusal, run_script

pytestmark = pytest.mark.smoke


def config_with(name, *options):
    config = model_config(name).clone()
    config.defrost()
    set_options(config, options)
    config.freeze()
    return config


def train_two_steps(config, batch):
    """The most bytes of tensors in two steps of the training loop, by Paddle's count."""
    gc.collect()  # what other tests have left must not go in the middle
    counter = MemoryCounter()
    counter.start()
    accum_iter, K = config.TRAIN.ACCUM_ITER, config.MODEL.NUM_CLASSES
    state = build_state(config, build_model(config), TrainSampler(
        2 * batch * accum_iter, batch, accum_iter), Precision())
    images = paddle.randn([batch, 3, config.DATA.IMAGE_SIZE, config.DATA.IMAGE_SIZE])
    batches = itertools.repeat((images, paddle.full([batch, K], 1.0 / K)))
    train_one_epoch(state, batches, LoopOptions.from_config(config), EpochSteps(1, 2), Callbacks())
    return counter.since_start()[1]


@pytest.mark.parametrize('name, batch, options', [
    ('vit_digits', 48, []),
    ('vit_digits', 64, ['TRAIN.RECOMPUTE=True', 'TRAIN.ACCUM_ITER=2', 'TRAIN.EMA.DECAY=null']),
    ('vit_digits', 1, ['MODEL.EMBED_DIM=256', 'TRAIN.GRAD_CLIP=1.0']),
    ('vit_digits', 8, ['MODEL.DEPTH=5', 'MODEL.DROPOUT=0.1', 'TRAIN.FREEZE=[encoder.layers.0]']),
    ('vitae_digits', 32, ['TRAIN.OPTIMIZER.NAME=SGD']),
    ('vitaev2_vsa_digits', 24, [])])
def test_predicted_memory_is_what_training_takes(name, batch, options):
    config = config_with(name, *options)
    predicted = Budget(config).total(batch, setting_of(config))
    assert predicted == pytest.approx(train_two_steps(config, batch), rel=0.1)


def test_equal_cells_are_run_once():
    """Only the first of them has weights, so that a model of many gigabytes can be traced."""
    config = config_with('vit_digits', 'MODEL.DEPTH=9', 'MODEL.DROPPATH=0.0')
    trace = trace_step(config, 2)
    assert trace.equal == dict.fromkeys(range(1, 9), 0)
    # the first drops no path: it keeps less than the others
    assert set(trace_step(model_config('vit_digits'), 2).equal.values()) == {1}


def test_whole_step_has_all_cells_in_their_stages():
    config = config_with('vitaev2_vsa_digits', 'MODEL.DEPTHS=[2, 3]', 'MODEL.DROPPATH=0.0')
    timeline = Timeline(config)
    cells = [(step.cell, step.stage) for step in timeline.forward if step.is_cell]
    assert cells == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)]
    assert [step.cell for step in timeline.backward if step.is_cell] == [4, 3, 2, 1, 0]
    assert len({step.kept for step in timeline.forward if step.is_cell}) == 2


def test_trace_of_a_step_leaves_nothing():
    """All that a step keeps is gone after it, but for the gradients."""
    for recompute in (False, True):
        timeline = Timeline(config_with('vitae_digits', 'MODEL.DROPPATH=0.0'), recompute)
        kept = [sum(step.kept.at(batch) for step in timeline.forward + timeline.backward)
                for batch in (1, 33)]
        assert abs(kept[1] - kept[0]) < 0.001 * timeline.peak(32)
        model = create_model('vitae_digits')
        gradients = 4 * sum(one.size for one in model.parameters() if not one.stop_gradient)
        assert sum(step.gradients for step in timeline.backward) == gradients


def test_cells_that_were_not_run_stand_where_their_passes_are():
    def step(cell):
        return Step(cell, 0, None, None, 0, None)

    backward = [step(cell) for cell in (TRUNK, 3, TRUNK, 2, 0, TRUNK)]
    assert [one.cell for one in with_equal_cells(backward, range(6)[::-1], {1: 0, 4: 3, 5: 3})] \
        == [TRUNK, 5, 4, 3, TRUNK, 2, 1, 0, TRUNK]


def test_curve_goes_through_its_points():
    curve = Curve((1, 4, 8), (2.0, 5.0, 13.0))
    assert [curve.at(batch) for batch in (1, 2, 4, 6, 8, 10)] == [2, 3, 5, 9, 13, 17]


def test_counter_counts_from_its_start():
    counter = MemoryCounter()
    large = paddle.empty([1 << 22], 'uint8')
    del large
    counter.start()
    kept = paddle.empty([1 << 20], 'uint8')
    more = paddle.empty([1 << 21], 'uint8')
    del more
    assert counter.since_start() == (1 << 20, 3 << 20)
    del kept
    assert counter.since_start() == (0, 3 << 20)


def test_largest_batch_is_the_last_that_fits():
    budget = Budget(model_config('vit_digits'))
    for setting in (Setting(), Setting(4, True, 1, 2)):
        batch = budget.largest_batch(100 << 20, setting)
        assert budget.total(batch, setting) <= 100 << 20 < budget.total(batch + 1, setting)
    assert budget.largest_batch(1 << 20, Setting()) == 0


def test_sharding_divides_what_it_says():
    budget = Budget(model_config('vit_digits'))
    one, whole, *stages = (budget.resident(Setting(devices, sharding=stage))
                           for devices, stage in ((1, 0), (8, 0), (8, 1), (8, 2), (8, 3)))
    assert 'ranks' not in one and whole['optimiser'] == 2 * budget.trained
    share = budget.share(Setting(8, sharding=1), 1)
    assert 1 / 8 <= share < 1.2 / 8
    assert stages[0] == {**whole, 'optimiser': whole['optimiser'] * share}
    assert stages[1] == {key: value for key, value in stages[0].items() if key != 'ranks'}
    # of the blocks' weights each has a share, and all of the others
    model = create_model('vit_digits')
    blocks = sum(4 * math.prod(p.shape) for cell in model.cells() for p in cell.parameters())
    left = stages[2].pop('parameters') - (whole['parameters'] - blocks)
    assert stages[2] == {key: value for key, value in stages[1].items() if key != 'parameters'}
    assert blocks / 8 <= left < 2 * blocks / 8
    assert budget.away(Setting(1, sharding=3)) == budget.away(Setting(8, sharding=2)) == 0
    # a parameter stays whole
    assert budget.share(Setting(50, sharding=1), 1) == budget.largest / budget.trained > 1 / 50


@pytest.mark.parametrize('each', [1, 7, 64, 171, 173, 512])
@pytest.mark.parametrize('largest', [1, 5, 16, 100, 1000])
def test_micro_batches_make_the_global_batch(each, largest):
    batch, count = split_batch(each, largest)
    assert 1 <= batch <= largest
    divisors = [number for number in range(1, min(each, largest) + 1) if each % number == 0]
    if batch * count == each:
        assert batch == divisors[-1] or batch > divisors[-1]
    else:  # no divisor is near, and one micro-batch less would be too few
        assert divisors[-1] < min(each, largest) / 2
        assert each < batch * count < each + count and (count - 1) * largest < each


class FakeBudget(Budget):
    """Bytes that are easy to count: 100 of states, 50 of them the optimiser's, 10 an image."""

    def __init__(self):
        pass

    def total(self, batch, setting):
        states = 100 - (50 * (1 - 1 / setting.devices) if setting.sharding else 0)
        return states + batch * (2 if setting.recompute else 10)


@pytest.mark.parametrize('memory, expected', [
    (100 + 10 * 64, (64, 1, 0, False)),         # all at once
    (100 + 10 * 16, (16, 4, 0, False)),         # enough of them
    (75 + 10 * 16, (16, 4, 1, False)),          # with the optimiser split
    (75 + 10 * 12, (32, 2, 0, True)),           # too few without recomputation
    (75 + 2 * 3, (2, 32, 1, True)),             # the largest there is
    (60, None)])
def test_choice(memory, expected):
    choices = choose(FakeBudget(), memory, 2, 128, most_sharding=1)
    best = best_of(choices, 128)
    assert (best and (best.batch, best.setting.accum_iter, best.setting.sharding,
                      best.setting.recompute)) == expected


def test_choice_of_the_user_s_batch():
    best = best_of(choose(FakeBudget(), 100 + 10 * 8, 2, 128, batch=8, most_sharding=1), 128)
    assert (best.batch, best.setting.accum_iter, best.setting.recompute) == (8, 8, False)
    assert best_of(choose(FakeBudget(), 150, 2, 128, batch=100, most_sharding=1), 128) is None


def test_types_of_a_gpu_on_a_cpu():
    """float64 stands for float32 and float32 for the half type, by the lists of AMP."""
    before = F.linear, paddle.matmul, paddle.get_device, paddle.Tensor.__add__
    with as_on_gpu(half=True):
        x, weight = paddle.randn([2, 8]), paddle.randn([8, 8])
        assert x.dtype == paddle.float64
        half = F.linear(x, weight)
        assert half.dtype == F.gelu(half).dtype == paddle.matmul(x, weight).dtype == paddle.float32
        assert F.softmax(half).dtype == (x + half).dtype == half.astype('float32').dtype \
            == paddle.concat([x, half]).dtype == paddle.float64
        assert half.astype(half.dtype).dtype == paddle.float32
        assert attention.has_flash_attention(half.dtype, 8)
        assert not attention.has_flash_attention(x.dtype, 8)
    assert (F.linear, paddle.matmul, paddle.get_device, paddle.Tensor.__add__) == before
    assert paddle.randn([1]).dtype == paddle.float32


def test_half_types_keep_half_of_what_is_linear():
    """A ViT block of the trace, in the types of AMP, against its tensors counted by hand."""
    N, C, hidden, heads = 17, 96, 192, 4
    config = config_with('vit_digits', 'AMP=True', 'MODEL.DROPPATH=0.0', 'MODEL.MLP_RATIO=2.0',
                         f'MODEL.NUM_HEADS={heads}', f'MODEL.EMBED_DIM={C}')
    cell = next(step for step in Timeline(config, False, 'gpu').forward if step.is_cell)
    # twice a LayerNorm: its input, mean and variance in float32, its result in half; q, k and v;
    # what FlashAttention gives, by heads and by tokens, and a number of each row; fc1 and GELU
    by_hand = 2 * (4 * N * C + 4 * 2 * N + 2 * N * C) + 2 * 3 * N * C \
        + 2 * 2 * N * C + 4 * heads * N + 2 * 2 * N * hidden
    assert cell.kept.at(33) - cell.kept.at(32) == pytest.approx(by_hand, rel=0.01)
    half, full = (Timeline(config_with('vitae_digits', f'AMP={amp}'), False, 'gpu')
                  for amp in (True, False))
    assert 0.4 < (half.peak(33) - half.peak(1)) / (full.peak(33) - full.peak(1)) < 0.9


def test_loader_is_measured(small_data):
    config = config_with('vit_digits', f'DATA.DATA_PATH={small_data}')
    speed = measure_loader(config, str(small_data))
    assert speed.images == 16 and speed.images_per_s > 0 and speed.source == str(small_data)
    assert workers_for(2.5 * speed.images_per_s, speed) == 3


def test_plan_ends_with_a_command_that_the_training_takes():
    code, out, err = run_script([
        '-m', 'common.plan', '-cfg', 'vit_digits', '-memory', '1G', '-device', 'cpu', '-devices',
        '2', '-image_size', '48', '-global_batch', '4096', '-images', '5000', '-o', 'SEED=3'],
        folder='.')
    assert code == 0, err
    *_, arithmetic, empty, command = out.splitlines()
    assert empty == '' and command.startswith('paddle-vitae train -cfg vit_digits -image_size 48')
    args = make_command_parser('train', '', '').parse_args(shlex.split(command)[2:])
    options = dict(option.split('=') for option in args.o)
    assert args.nprocs == 2 and options['SEED'] == '3' and options['DEVICE'] == 'cpu'
    product = args.batch_size * 2 * int(options['TRAIN.ACCUM_ITER'])
    assert product == 4096 and arithmetic.startswith(f'batch {args.batch_size} x 2 x ')
    assert 'an epoch of 5,000 images: ' in out and ' img/s on this device' in out


def test_plan_for_gpus_that_are_not_here(capsys, small_data):
    main(['-cfg', 'vit_digits', '-memory', '1100M', '-amp', '-batch_size', '100000', '-devices',
          '4', '-images_per_s', '50', '-data_path', str(small_data)])
    out = capsys.readouterr().out
    assert '| an image adds, MiB | cells | half types (-amp) |' in out
    assert '4 x 50.0 img/s = 200.0 img/s' in out and 'not measured on a GPU' in out
    assert out.splitlines()[-1].startswith('does not fit: with TRAIN.RECOMPUTE=True and ')
    assert 'batches of up to ' in out.splitlines()[-1]


@pytest.mark.parametrize('flags, message', [
    (['-memory', 'lots'], '-memory: got lots, expected a number of bytes as 40G'),
    (['-device', 'cpu', '-amp'], '-amp: got it with -device cpu'),
    (['-device', 'cpu', '-memory', '300M'], '-memory: got 0.29 GiB, expected more than 0.39 GiB'),
    (['-images_per_s', '0', '-memory', '1G'], '-images_per_s: got 0.0, expected more than 0'),
    (['-devices', '0'], '-devices: got 0, expected at least 1'),
    (['-memory', '1G', '-o', 'MODEL.NUM_CLASSES=0'], 'MODEL.NUM_CLASSES: got 0')])
def test_wrong_input(flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(['-cfg', 'vit_digits', *flags])
    assert str(caught.value.code).startswith(f'error: {message}')


def test_table_of_predictions():
    assert case_of('vit_digits') == Case('vit_digits', None, 8)
    assert case_of('a:48:2:TRAIN.EMA.DECAY=null') == Case('a', 48, 2, ('TRAIN.EMA.DECAY=null',))
    assert refusal(case_of, 'a:b').startswith('case: got a:b, expected NAME:SIZE:BATCH')
    header, _, row = check_table([case_of('vit_digits')]).splitlines()
    cells = dict(zip(header.split('|')[1:-1], row.split('|')[1:-1], strict=True))
    assert abs(float(cells[' Ratio ']) - 1) < 0.1 and float(cells[' Process MB ']) > 100
