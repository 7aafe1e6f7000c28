"""What only a machine with a GPU can check: `make gpu-check`. One line for each check.

python -m tests.gpu_check [-device cpu] [-json output/gpu-check.json] [-short]

Forward passes on the GPU beside the CPU's; flash attention beside the plain one; short trainings on
scikit-learn's digits in float32, and in float16 and bfloat16 at O1 and O2, by the real scripts; the
same on all GPUs if there are several, and on two what TRAIN.SHARDING gives beside plain data
parallelism: 20 steps, a checkpoint, the peak of ViT-B's memory; then the figures of
`paddle-vitae benchmark device`: images a second by runtime and precision at the sizes and batches
of the authors' table, training with FlashAttention and without, loss scales that overflowed, the
wait for images, peak memory, the share of the all-reduce on several GPUs. All of it goes into one
file of JSON, to be attached to an issue.

Without a GPU it says so and its exit code is 0. `-device cpu` tries the checks themselves: mixed
precision has no effect there. `-short` measures one tiny model instead of the figures.
"""
import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle

from common.benchmarks.device_figures import DeviceSetting, device_figures, device_tables
from common.core.errors import complain
from common.core.files import replace_atomically
from common.layers import attention
from common.layers.fast import Fast
from common.layers.flash_attention import flash_attention, is_ampere
from common.zoo import create_model

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {'vit': 'vit_digits', 'vitae': 'vitae_digits', 'vitaev2_vsa': 'vitaev2_vsa_digits'}
PRECISIONS = [None, ('float16', 'O1'), ('float16', 'O2'), ('bfloat16', 'O1'), ('bfloat16', 'O2')]
# Of the authors' table, and what they compare with it.
TABLE = ('vit_small_patch16_224', 'vit_base_patch16_224', 'swin_tiny', 'vitaev2_s', 'vitaev2_vsa_s',
         'vitae_tiny')
OLD = paddle.__version__.startswith('2.')  # its linear layers give float32 at O1
LARGE = {'gpu': ('vit_base_patch16_224',), 'cpu': ('vit_small_patch16_224',)}  # memory is measured
EPOCHS, LEAST = 8, 0.5  # of the short trainings: the validation accuracy is .1 by chance


def forward(name, device):
    """The largest difference of the logits on the device from the CPU's, to the largest logit."""
    paddle.set_device('cpu')
    paddle.seed(0)
    model = create_model(name)
    model.eval()
    images = np.random.default_rng(0).standard_normal(
        (4, 3, *[model.config.DATA.IMAGE_SIZE] * 2), np.float32)
    expected = model(paddle.to_tensor(images)).numpy()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    paddle.set_device(device)
    model = create_model(name)
    model.set_state_dict(state)
    model.eval()
    error = np.abs(model(paddle.to_tensor(images)).numpy() - expected).max()
    error /= np.abs(expected).max()
    return error < 5e-3, f'difference from the CPU {error:.1e}'  # TF32 has three digits


def flash(dtype, level, device):
    """A gradient through FlashAttention beside one through the plain attention; a GPU of Ampere or
    newer must have run it."""
    paddle.set_device(device)
    model = create_model('vit_small_patch16_224', DROPOUT=0.0, ATTENTION_DROPOUT=0.0, DROPPATH=0.0)
    if level == 'O2':
        model = paddle.amp.decorate(models=model, level=level, dtype=dtype)
    images, calls = paddle.randn([4, 3, 224, 224]), []

    def count(*arguments):
        calls.append(arguments)
        return flash_attention(*arguments)

    def gradient(plain):
        Fast.plain, attention.flash_attention = plain, count
        try:
            with paddle.amp.auto_cast(level=level, dtype=dtype):
                loss = (model(images).astype('float32') ** 2).mean()
            loss.backward()
        finally:
            Fast.plain, attention.flash_attention = False, flash_attention
        found = model.encoder.layers[0].attn.qkv.weight.grad.astype('float32').numpy()
        model.clear_gradients()
        return found

    found, expected = gradient(False), gradient(True)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    wanted = device == 'gpu' and is_ampere() and not (OLD and level == 'O1')
    text = f'run in {len(calls)} layers, gradients differ by {error:.1e}'
    return error < 0.05 and (bool(calls) or not wanted), text


def training(family, precision, device, gpus, sharding=0):
    """A short training by the script; the accuracy must be far from chance."""
    flags = ['-o', f'TRAIN.SHARDING={sharding}']
    if precision:
        flags += ['-amp', '-o', f'AMP_DTYPE={precision[0]}', '-o', f'AMP_LEVEL={precision[1]}']
    env = {**os.environ}
    if device == 'gpu':
        env['CUDA_VISIBLE_DEVICES'] = ','.join(visible()[:gpus])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, 'main_multi_gpu.py',
             f'-cfg=./configs/{FAMILIES[family]}.yaml', '-dataset=digits', f'-output={folder}',
             '-o', f'DEVICE={device}', '-o', f'TRAIN.NUM_EPOCHS={EPOCHS}',
             '-o', 'TRAIN.WARMUP_EPOCHS=1', '-o', 'TRAIN.COOLDOWN_EPOCHS=0', *flags],
            cwd=ROOT / family, capture_output=True, text=True, env=env)
        if done.returncode:
            return False, (done.stderr.strip().splitlines() or ['no message'])[-1]
        accuracy = json.loads(next(Path(folder).glob('*/result.json')).read_text())['acc1']
    return accuracy >= LEAST, f'acc@1 {accuracy:.1%} after {EPOCHS} epochs'


def sharding(stage, device):
    """20 steps of a ViT in float64 with TRAIN.SHARDING on two devices, also with a loss scaler, and
    going on from a checkpoint: the largest difference from plain data parallelism; the peak of
    memory of a ViT-B step without and with it."""
    with tempfile.TemporaryDirectory() as folder:
        on_two('sharded_steps.py', device, folder, f'vit:{stage}', f'scaler:{stage}')
        found = json.loads((Path(folder) / 'found.json').read_text())
        worst = max(value for case in found.values() for kinds in case['differences']
                    for value in kinds.values())
        peaks = [max(map(int, re.findall(r'peak of tensors (\d+) MB', on_two(
            'measure_sharding.py', device, folder, str(each), *LARGE[device]))))
            for each in (0, stage)]
    text = f'differs by {worst:.1e}; {LARGE[device][0]} takes {peaks[1]} MB, {peaks[0]} without'
    return worst < 1e-6 and peaks[1] < peaks[0], text


def on_two(script, device, folder, *arguments):
    """What a script of this folder prints on two ranks; its last line is the error if it fails."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    if device == 'cpu':
        env['PADDLE_DISTRI_BACKEND'] = 'gloo'
    else:
        env['CUDA_VISIBLE_DEVICES'] = ','.join(visible()[:2])
    logs = Path(folder) / f'log {script} {arguments}'.replace('/', '_')
    done = subprocess.run(
        [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node=2',
         f'--log_dir={logs}', ROOT / 'tests' / script, folder, *arguments],
        capture_output=True, text=True, env=env)
    said = '\n'.join(file.read_text() for file in sorted(logs.glob('workerlog.*')))
    if done.returncode:
        raise RuntimeError(' '.join(f'{said}\n{done.stderr}'.split())[-200:])
    return said


def visible():
    """The numbers of the GPUs that may be used."""
    names = os.environ.get('CUDA_VISIBLE_DEVICES')
    return names.split(',') if names else list(map(str, range(count_gpus())))


def count_gpus():
    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def checks(device):
    """(what, function) of each check; a function gives (whether it has passed, a text)."""
    for name in FAMILIES.values():
        yield f'{name}: forward pass', lambda name=name: forward(name, device)
    for precision in PRECISIONS[1:]:
        if device == 'gpu' or precision[1] == 'O1':  # a CPU has no O2
            yield f'flash attention, {" ".join(precision)}', lambda precision=precision: \
                flash(*precision, device)
    for precision in PRECISIONS:
        text = ' '.join(precision) if precision else 'float32'
        for family in FAMILIES if precision in (None, PRECISIONS[1], PRECISIONS[3]) else ['vit']:
            yield f'{family}: training, {text}', lambda family=family, precision=precision: \
                training(family, precision, device, 1)
    if count_gpus() > 1:
        for family in FAMILIES:
            yield f'{family}: training on {count_gpus()} GPUs', lambda family=family: \
                training(family, None, device, count_gpus())
        for stage, precision in itertools.product((1, 2, 3), (None, ('float16', 'O2'))):
            # the loss scaler, float32 weights
            yield f'vit: TRAIN.SHARDING {stage} on {count_gpus()} GPUs, {precision or "float32"}', \
                lambda stage=stage, precision=precision: \
                training('vit', precision, device, count_gpus(), stage)
    for stage in (1, 2, 3):
        yield f'TRAIN.SHARDING {stage} beside plain data parallelism', lambda stage=stage: \
            sharding(stage, device) if device == 'cpu' or count_gpus() > 1 else \
            (True, 'NOT CHECKED: it takes two GPUs, and there is one')


def run_checks(device):
    """Prints a line for each check; a list of {'check', 'passed', 'text'}."""
    found = []
    for what, check in checks(device):
        try:
            passed, text = check()
        except Exception as error:  # noqa: BLE001 - a line for each check
            passed, text = False, f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        found.append({'check': what, 'passed': bool(passed), 'text': text})
        print(f'{"pass" if passed else "FAIL"}  {what}: {text}', flush=True)
    return found


def setting_of(device, short):
    """What is measured after the checks."""
    ranks = max(count_gpus(), 1)
    if short:
        return DeviceSetting(('vit_digits',), device, sizes=((32, 4),), seconds=0.0, steps=2,
                             ranks=ranks)
    return DeviceSetting(TABLE, device, ranks=ranks)


def write(file, content):
    """Writes the file to attach, and says where it is."""
    os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
    with replace_atomically(file) as temporary, open(temporary, 'w') as stream:
        json.dump(content, stream, indent=1)
    print(f'\n{file}: all of this, to be attached to an issue', flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('-device', choices=['gpu', 'cpu'], default='gpu')
    parser.add_argument('-json', default=str(ROOT / 'output' / 'gpu-check.json'), metavar='FILE')
    parser.add_argument('-short', action='store_true')
    args = parser.parse_args(argv)
    if args.device == 'gpu' and not count_gpus():
        print('no GPU: this machine or this Paddle has none; nothing was checked')
        return
    found = run_checks(args.device)
    write(args.json, {'checks': found})  # whatever comes next
    if args.device == 'gpu' or args.short:
        figures = device_figures(setting_of(args.device, args.short), say=complain)
        print(f'\n{device_tables(figures)}', flush=True)
        write(args.json, {**figures, 'checks': found})
    failed = sum(not check['passed'] for check in found)
    sys.exit(f'{failed} checks failed' if failed else 0)


if __name__ == '__main__':
    main()
