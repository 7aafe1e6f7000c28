"""This project beside PyTorch, torch.compile and OpenVINO: what `python -m common.benchmark rivals`
measures, on a CPU.

Each that is compared is a process of its own, so that its threads and its memory are its own; they
take turns. PyTorch, timm and OpenVINO are those of another Python's environment, see
benchmarks/foreign.py. Weights are random: they do not change the time.
"""
import json
import os
import statistics
import sys
import tempfile
from typing import NamedTuple

from common.benchmarks import foreign
from common.benchmarks.own import main as own_child
from common.benchmarks.processor import AS, processor, today
from common.benchmarks.turns import Contender, ratios, take_turns
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.deploy.export import export_model
from common.deploy.folder import ONNX_FILE
from common.deploy.isolated import PROGRAM
from common.layers.macs import count_parameters
from common.zoo import ALIASES, create_model


class Kind(NamedTuple):
    """What can be compared."""
    title: str
    own: bool          # whether this project's Python runs it
    trains: bool
    precisions: tuple  # that it has
    graph: str | None = None   # the format of the export that it runs
    acts: bool = True          # whether it can act as another processor


KINDS = {
    'eager': Kind('eager', True, True, ('fp32',)),
    'paddle': Kind('Paddle Inference', True, False, ('fp32',), 'paddle'),
    'paddle-bf16': Kind('Paddle Inference', True, False, ('bf16',), 'paddle'),
    'onnx': Kind('ONNX Runtime', True, False, ('fp32',), 'onnx', acts=False),
    'openvino-export': Kind('OpenVINO, our ONNX', False, False, ('fp32', 'bf16'), 'onnx',
                            acts=False),
    'torch': Kind('PyTorch', False, True, ('fp32', 'bf16')),
    'torch.compile': Kind('torch.compile', False, True, ('fp32', 'bf16')),
    'openvino': Kind("OpenVINO, PyTorch's model", False, False, ('fp32', 'bf16'), acts=False),
}
REFERENCES = ('torch', 'eager', 'paddle-bf16')  # of the ratios: the first that has figures


class Setting(NamedTuple):
    """What is compared, and how."""
    name: str                        # of the model
    image_size: int | None = None    # pixels, or None for the model's own
    batch_size: int = 8
    train: bool = False              # training steps instead of forward passes
    precision: str = 'fp32'          # or 'bf16'
    python: str | None = None        # of the environment with PyTorch
    upstream: str | None = None      # folder of the authors' code
    threads: tuple = (1,)            # in turn
    rounds: int = 5
    acting_as: str | None = None     # a key of AS


def rivals(setting):
    """Measures all that the setting allows.

    Args:
        setting: Setting.

    Returns:
        dict: what the figures depend on, and `rows`, a list of dicts with `missing` where there
        are none.

    Raises:
        InputError: nothing could be measured.
    """
    model = create_model(setting.name, image_size=setting.image_size, dropout=0.0,
                         attention_dropout=0.0, droppath=0.0)
    shape = to_pair(model.config.DATA.IMAGE_SIZE)
    spec = {'name': setting.name, 'names': names_elsewhere(setting.name),
            'image_size': list(shape), 'classes': model.config.MODEL.NUM_CLASSES,
            'batch': setting.batch_size, 'train': setting.train,
            'bf16': setting.precision == 'bf16',
            'upstream': setting.upstream and os.path.abspath(setting.upstream)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = [key for key, kind in KINDS.items() if setting.precision in kind.precisions
                 and (kind.trains or not setting.train)]
        failed = export_all(model, folder, {KINDS[key].graph for key in kinds} - {None})
        for threads in setting.threads:
            group = {key: contender(key, setting, {**spec, 'threads': threads}, folder, failed)
                     for key in kinds}
            take_turns(list(group.values()), setting.rounds)
            rows += figures(group, threads, setting.batch_size)
    if all(row['missing'] for row in rows):
        raise InputError(f'rivals: nothing could be measured; the first, {rows[0]["title"]}: '
                         f'{rows[0]["missing"]}')
    return {'model': setting.name, 'image': f'{shape[0]}x{shape[1]}', 'batch': setting.batch_size,
            'what': 'training step' if setting.train else 'inference',
            'precision': setting.precision, 'processor': processor(setting.acting_as),
            'date': today(), 'rounds': setting.rounds, 'parameters': count_parameters(model),
            'rows': rows}


def names_elsewhere(name):
    """A model's names in other projects, the likeliest first: of timm, of its authors."""
    name = ALIASES.get(name, name)
    return [*(theirs for theirs, own in ALIASES.items() if own == name), name]


def export_all(model, folder, formats):
    """Exports a model to FOLDER/FORMAT; gives {format: why that is not possible}."""
    failed = {}
    for format in sorted(formats):
        try:
            export_model(model, os.path.join(folder, format), format)
        except InputError as error:
            failed[format] = str(error)
    return failed


def contender(key, setting, spec, folder, failed):
    """The process of one of KINDS, or the reason why there is none."""
    kind = KINDS[key]
    graph = kind.graph and os.path.join(folder, kind.graph)
    env = {**os.environ, 'OMP_NUM_THREADS': str(spec['threads']),
           **AS.get(setting.acting_as, {})}
    spec = json.dumps({**spec, 'kind': key, 'folder': graph,
                       'file': graph and os.path.join(graph, ONNX_FILE)})
    missing = failed.get(kind.graph)
    if not kind.own and not setting.python:
        missing = 'no -python'
    elif setting.acting_as and not kind.acts:
        missing = 'has no switch for this'
    if kind.own:
        command = own_command(own_child, spec)
    else:
        # -I: neither this folder nor PYTHONPATH, which is for our Python, are searched
        command = [setting.python, '-I', os.path.abspath(foreign.__file__), spec]
    return Contender(kind.title, command, env, missing)


def own_command(function, *arguments):
    """The command that runs a function of ours, which takes texts, in another process."""
    program = PROGRAM.format(path=[str(place) for place in sys.path], module=function.__module__)
    return [sys.executable, '-W', 'ignore', '-c', program, *arguments]


def figures(group, threads, batch_size):
    """The rows of contenders that took turns.

    Args:
        group: {key of KINDS: Contender}.
        threads: of each.
        batch_size: images in a step.

    Returns:
        A list of dicts.
    """
    measured = {key: one for key, one in group.items() if not one.missing}
    reference = next((key for key in REFERENCES if key in measured), next(iter(measured), None))
    rows = []
    for key, one in group.items():
        row = {'kind': key, 'title': one.title, 'threads': threads, 'missing': one.missing,
               'versions': one.versions, 'parameters': one.parameters}
        if not one.missing:
            ratio, low, high = ratios(measured[reference].seconds, one.seconds)
            row |= {'seconds': one.seconds, 'peak_mb': one.peak_mb, 'reference': reference,
                    'images_per_s': batch_size / statistics.median(one.seconds),
                    'ratio': ratio, 'ratio_low': low, 'ratio_high': high}
        rows.append(row)
    return rows


def rivals_table(result):
    """The result of `rivals` as a markdown table."""
    measured = [row for row in result['rows'] if not row['missing']]
    reference = KINDS[measured[0]['reference']].title
    lines = [f'{result["model"]}, {result["image"]}, batch {result["batch"]}, {result["what"]}, '
             f'{result["precision"]}; {result["processor"]}; {result["date"]}', '',
             f'| | Version | Threads | img/s | To {reference} | Spread | Peak MB |',
             '|---' * 7 + '|']
    for row in result['rows']:
        if row['missing']:
            lines.append(f'| {row["title"]} | not measured: {row["missing"]} | {row["threads"]} '
                         f'| | | | |')
            continue
        versions, theirs = row['versions'], row['parameters']
        if theirs and theirs != result['parameters']:
            versions += f', {theirs:,} parameters instead of {result["parameters"]:,}'
        lines.append(
            f'| {row["title"]} | {versions} | {row["threads"]} | {row["images_per_s"]:.2f} | '
            f'{row["ratio"]:.2f} | {row["ratio_low"]:.2f} to {row["ratio_high"]:.2f} | '
            f'{row["peak_mb"]:.0f} |')
    return '\n'.join(lines)
