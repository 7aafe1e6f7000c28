"""All that a user with a GPU can tell in one file: what `python -m common.benchmark device` prints
and writes. The measurements are in device.py."""
import json
import os
import subprocess
import tempfile
from typing import NamedTuple

import paddle

from common.benchmarks.device import main as device_child
from common.benchmarks.growth import PAPER
from common.benchmarks.processor import processor, today
from common.benchmarks.rivals import own_command
from common.core.cores import free_cores
from common.core.errors import one_line
from common.core.processes import end_of
from paddle_vitae.version import VERSION

PARTS = ('inference', 'training', 'data', 'ranks')


class DeviceSetting(NamedTuple):
    """What is measured on a device."""
    names: tuple                    # of models
    device: str = 'gpu'
    parts: tuple = PARTS
    sizes: tuple = PAPER            # (pixels, images in a batch) of inference; training: the first
    seconds: float = 3.0            # of each figure of inference
    steps: int = 30                 # of training
    ranks: int = 1                  # devices for data parallel training


def device_figures(setting, say=print):
    """Measures a device, part by part.

    Args:
        setting: DeviceSetting.
        say: called with a line on each part that begins.

    Returns:
        dict, for JSON: versions, device, and `figures`, a list of dicts.
    """
    figures = []
    for spec in specs_of(setting):
        label = {key: spec[key] for key in ('part', 'name', 'image_size')}
        say(f'{spec["part"]}: {spec["name"]}, {spec["image_size"]} px')
        figures += [{**label, **figure} for figure in run_part(spec)]
    return {**machine(setting.device), 'setting': setting._asdict(), 'figures': figures}


def specs_of(setting):
    """The spec of each process."""
    for part in setting.parts:
        if part == 'ranks' and setting.ranks < 2 and setting.device == 'gpu':
            continue
        sizes = setting.sizes if part == 'inference' else setting.sizes[:1]
        names = setting.names if part in ('inference', 'training') else setting.names[:1]
        for name in names:
            for size, batch in sizes:
                yield {'part': part, 'name': name, 'image_size': size, 'batch': batch,
                       'device': setting.device, 'seconds': setting.seconds,
                       'steps': setting.steps, 'ranks': setting.ranks if part == 'ranks' else 1,
                       'workers': min(8, free_cores())}


def run_part(spec):
    """The figures of a part's process; the last one says so if it has failed."""
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(own_command(device_child, json.dumps(spec)), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        errors.seek(0)
        text = errors.read().decode(errors='replace').strip().splitlines()
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        why = f': {one_line(text[-1])}' if text else ''
        figures.append({'error': f'the process ended with {end_of(done.returncode)}{why}'})
    return figures


def machine(device):
    """What the figures depend on."""
    found = {'project': VERSION, 'paddle': paddle.__version__, 'date': today(),
             'processor': processor(), 'cores': free_cores(), 'device': device}
    if device == 'gpu':
        cuda = paddle.device.cuda
        found |= {'gpus': [cuda.get_device_name(number) for number in range(cuda.device_count())],
                  'capability': list(cuda.get_device_capability()), 'cuda': paddle.version.cuda(),
                  'cudnn': paddle.version.cudnn(),
                  'visible': os.environ.get('CUDA_VISIBLE_DEVICES')}
    return found


def device_tables(result):
    """The figures as markdown, a table for each part."""
    where = ', '.join(result.get('gpus', [])) or result['processor']
    texts = [f'{where}; Paddle {result["paddle"]}; {result["date"]}']
    for part, (heads, cells) in TABLES.items():
        figures = [figure for figure in result['figures'] if figure['part'] == part]
        if figures:
            lines = [f'| {" | ".join([f"{part}: model", "image", *heads])} |',
                     '|---' * (2 + len(heads)) + '|']
            lines += [row(figure, cells) for figure in figures]
            texts.append('\n'.join(lines))
    return '\n\n'.join(texts)


def row(figure, cells):
    """A line of a table."""
    texts = [figure['name'], str(figure['image_size'])]
    if 'images_per_s' not in figure:
        what = ' '.join(str(figure[key]) for key in ('runtime', 'precision') if key in figure)
        return f'| {" | ".join(texts)} | {what} not measured: {figure["error"]} |'
    return f'| {" | ".join([*texts, *cells(figure)])} |'


def shown(figure, *keys):
    """Texts of some figures, empty for what there is not."""
    forms = {'images_per_s': '.1f', 'peak_mb': '.0f', 'data_share': '.1%',
             'all_reduce_share': '.1%'}
    return ['' if figure.get(key) is None else format(figure[key], forms.get(key, ''))
            for key in keys]


TABLES = {
    'inference': (['runtime', 'precision', 'batch', 'img/s', 'peak MB'], lambda figure: shown(
        figure, 'runtime', 'precision', 'batch', 'images_per_s', 'peak_mb')),
    'training': (['precision', 'FlashAttention', 'batch', 'img/s', 'overflows', 'loss scale',
                  'peak MB'], lambda figure: shown(
        {**figure, 'flash_attention': 'yes' if figure['flash_attention'] else 'no'}, 'precision',
        'flash_attention', 'batch', 'images_per_s', 'overflows', 'loss_scale', 'peak_mb')),
    'data': (['workers', 'batch', 'img/s', 'waits for images', 'peak MB'], lambda figure: shown(
        figure, 'workers', 'batch', 'images_per_s', 'data_share', 'peak_mb')),
    'ranks': (['devices', 'batch of each', 'img/s', 'all-reduce'], lambda figure: shown(
        figure, 'ranks', 'batch', 'images_per_s', 'all_reduce_share')),
}
