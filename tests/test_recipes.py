"""The published training runs as yaml: their settings, and the learning rates of their logs."""
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.train.ema import decay_of
from common.train.schedule import Schedule, build_schedule
from common.zoo import FAMILIES, find_yaml, list_models, load_family_file, model_config
from tests.reference import FIXTURES

pytestmark = pytest.mark.smoke

LOGS = json.loads((FIXTURES / 'recipe' / 'training_logs.json').read_text())['logs']
SCHEDULES = json.loads((FIXTURES / 'recipe' / 'schedules.json').read_text())
LOG_OF = {'vitaev2_s': 'ViTAEv2_S', 'vitaev2_48m': 'ViTAEv2_48M', 'vitaev2_b': 'ViTAEv2_B',
          'vitaev2_vsa_s': 'ViTAEv2-S+VSA', 'vitaev2_vsa_48m': 'ViTAEv2-48M+VSA'}
MODELS = [name for name in list_models() if not name.endswith('_digits')]
STAGED = [name for name in MODELS if name.startswith(('vitae', 'swin'))]
# hardware of a header -> devices
DEVICES = re.compile(r'^# Hardware: +(\d+) GPUs(?: \(\d machines\))?, batch (\d+) each', re.M)


def header(name):
    """The comment lines that a model's yaml starts with."""
    lines = Path(find_yaml(name)[0]).read_text().splitlines()
    return '\n'.join(lines[:next(i for i, line in enumerate(lines) if line[:1] != '#')])


@pytest.mark.parametrize('name', LOG_OF)
def test_rates_are_the_log_s_to_every_printed_digit(name):
    config, log = model_config(name), LOGS[LOG_OF[name]]
    steps, batch = 1251, 1024
    schedule = build_schedule(config.TRAIN, steps, batch)
    assert schedule.num_epochs == 310
    rows = [(epoch, lr) for epoch, lr, *_ in log['rows']]
    assert [epoch for epoch, _ in rows] == list(range(log['epochs_logged']))
    for epoch, lr in rows:
        for step in (epoch * steps, (epoch + 1) * steps - 1):
            assert f'{schedule(step):.3e}' == lr, epoch
    devices, per_device = map(int, DEVICES.search(header(name)).groups())
    assert per_device == config.DATA.BATCH_SIZE
    assert devices * per_device == batch


@pytest.mark.parametrize('name', LOG_OF)
def test_published_accuracy_is_the_log_s_best_average(name):
    zoo, best = model_config(name).ZOO, LOGS[LOG_OF[name]]['best_ema']
    assert abs(zoo.ACC1 - best['acc1']) < 0.05
    assert abs(zoo.ACC5 - best['acc5']) < 0.055  # upstream writes 96.654 as 96.6
    assert f'is {best["epoch"]}: {best["acc1"]:.3f} / {best["acc5"]:.3f}' in header(name)
    last = LOGS[LOG_OF[name]]['last_complete_epoch']['ema_acc1']
    assert last < best['acc1'] and f'{last:.3f}' in header(name)


@pytest.mark.parametrize('name', STAGED)
def test_recipe_is_whole(name):
    config = model_config(name)
    aug, ema, swin = config.AUG, config.TRAIN.EMA, config.MODEL.TYPE == 'swin'
    wanted = {
        'AUTO_AUGMENT': 'rand-m9-mstd0.5-inc1', 'INTERPOLATION': 'bicubic' if swin else 'random',
        'SCALE': [0.08, 1.0], 'RATIO': [3 / 4, 4 / 3], 'HFLIP': 0.5, 'ERASING': 0.25,
        'ERASING_MODE': 'pixel', 'ERASING_COUNT': 1, 'MIXUP': 0.8, 'CUTMIX': 1.0,
        'MIXUP_PROB': 1.0, 'MIXUP_SWITCH_PROB': 0.5, 'MIXUP_MODE': 'batch',
        'MIXUP_LAST_EPOCH': None, 'REPEATS': 1}
    assert {key: aug[key] for key in wanted} == wanted
    assert config.TRAIN.LABEL_SMOOTHING == 0.1
    if swin:
        assert ema.DECAY is None
    else:
        assert f'{decay_of(ema, 1024):.10f}' == '0.9999200016'
        assert ema.BEST and 0.9999 < decay_of(ema, 64) < 1.0  # a small batch moves it


SETTINGS = {  # model: (weight decay, drop path, dropout, clip), by upstream's commands
    'vitae_tiny': (0.03, 0.1, 0.0, None),
    'vitaev2_s': (0.05, 0.1, 0.0, None),
    'vitaev2_48m': (0.055, 0.25, 0.0, None),
    'vitaev2_b': (0.065, 0.4, 0.1, 5.0),
    'vitaev2_vsa_s': (0.05, 0.1, 0.0, None),
    'vitaev2_vsa_48m': (0.055, 0.25, 0.0, None),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_settings_are_the_command_s(name):
    config = model_config(name)
    assert SETTINGS[name] == (config.TRAIN.WEIGHT_DECAY, config.MODEL.DROPPATH,
                              config.MODEL.DROPOUT, config.TRAIN.GRAD_CLIP)


@pytest.mark.parametrize('name', MODELS)
def test_header_says_where_it_comes_from(name):
    text = header(name)
    wanted = ['Source', 'Hardware', 'Command', 'Published']
    wanted += ['Logs'] if name.startswith('vitae') else []
    for word in wanted:
        assert re.search(rf'^# {word}: ', text, re.M), word
    assert f'configs/{name}.yaml' in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_mmpretrain_recipe():
    entry = SCHEDULES['mmpretrain_vit_base_p16_32xb128_mae']
    theirs, config = entry['merged_config'], model_config('vit_base_patch16_224_scratch')
    train, aug = config.TRAIN, config.AUG
    optimizer = theirs['optim_wrapper']['optimizer']
    assert (optimizer['weight_decay'], optimizer['betas'], optimizer['eps']) == (
        train.WEIGHT_DECAY, train.OPTIMIZER.BETAS, train.OPTIMIZER.EPS)
    assert theirs['model']['backbone']['drop_path_rate'] == config.MODEL.DROPPATH
    assert theirs['model']['head']['loss']['label_smooth_val'] == train.LABEL_SMOOTHING
    assert [augment['alpha'] for augment in theirs['model']['train_cfg']['augments']] == [
        aug.MIXUP, aug.CUTMIX]
    assert decay_of(train.EMA, 4096) == 1 - theirs['custom_hooks'][0]['momentum']
    assert theirs['train_batch_size_per_gpu'] == config.DATA.BATCH_SIZE
    np.testing.assert_allclose(np.multiply(config.DATA.IMAGENET_STD, 255),
                               theirs['data_preprocessor']['std'], rtol=1e-12)
    steps = {step['type']: step for step in theirs['train_pipeline']}
    rand, erasing = steps['RandAugment'], steps['RandomErasing']
    assert (rand['policies'], rand['num_policies']) == ('timm_increasing', 2)
    policy = f'rand-m{rand["magnitude_level"]}-mstd{rand["magnitude_std"]}-inc1'
    assert (policy, rand['hparams']['interpolation'], erasing['erase_prob']) == (
        aug.AUTO_AUGMENT, aug.INTERPOLATION, aug.ERASING)


def test_mmpretrain_rates_by_step():
    """Theirs warms up by step, then has one rate for each epoch; the yaml's comment says so."""
    theirs = SCHEDULES['mmpretrain_vit_base_p16_32xb128_mae']['schedule']
    steps, epochs = theirs['iterations_per_epoch'], theirs['epochs']
    schedule = build_schedule(model_config('vit_base_patch16_224_scratch').TRAIN, steps, 4096)
    assert schedule.num_epochs == epochs
    rates = np.array([schedule(epoch * steps) for epoch in range(epochs)])
    expected = np.array(theirs['lr_first_iteration_of_epoch'])
    warmup = theirs['warmup_epochs']
    np.testing.assert_allclose(rates[warmup:], expected[warmup:], rtol=1e-12)
    np.testing.assert_allclose(rates[:warmup], expected[:warmup], rtol=2e-4)


@pytest.mark.parametrize('entry', SCHEDULES['vit_pytorch']['schedules'],
                         ids=lambda entry: entry['schedule'])
def test_vit_pytorch_rates_are_one_step_later(entry):
    """ViT-pytorch moves the schedule before the update: its update n has the rate of step n."""
    name = {'WarmupCosineSchedule': 'cosine', 'WarmupLinearSchedule': 'linear'}[entry['schedule']]
    schedule = Schedule(entry['base_lr'], 1, 10, name=name, steps=entry['t_total'],
                        warmup_steps=entry['warmup_steps'])
    rates = [schedule(step) for step in range(1, entry['t_total'] + 1)]
    np.testing.assert_allclose(rates, entry['lr_used_by_optimizer_step_1_to_t_total'],
                               rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize('family', FAMILIES)
def test_any_recipe_can_be_overridden(family):
    module = load_family_file(family, 'config')
    options = ['TRAIN.END_LR=3e-5', 'AUG.AUTO_AUGMENT=null', 'TRAIN.EMA.DECAY=null',
               'AUG.MIXUP=0.2', 'TRAIN.NUM_EPOCHS=100']
    for name in MODELS:
        file, own = find_yaml(name)
        if own == family:
            config = module.update_config(module.get_config(file), SimpleNamespace(o=options))
            assert (config.TRAIN.END_LR, config.TRAIN.EMA.DECAY, config.AUG.AUTO_AUGMENT,
                    config.AUG.MIXUP, config.TRAIN.NUM_EPOCHS) == (3e-5, None, None, 0.2, 100)
