"""Measures models, or the training loader, side by side: images a second, and ratios.

python -m common.benchmark model NAME [NAME ...] [-image_size 224 [N ...]] [-batch_size 8 [N ...]]
    [-train | -engine] [-runtime eager paddle onnx openvino auto] [-amp float16] [-json FILE]
python -m common.benchmark peers NAME [-train]
python -m common.benchmark rivals NAME [-train] [-bf16] [-python OTHER/bin/python]
    [-upstream FOLDER] [-threads 1 N] [-as avx2] [-json FILE]
python -m common.benchmark growth NAME [NAME ...] [-tables batch image tokens threads paper]
    [-train] [-json FILE]
python -m common.benchmark device NAME [NAME ...] [-parts inference training data ranks]
    [-json FILE]
python -m common.benchmark memory NAME
python -m common.benchmark data FOLDER [-images 512] [-image_size 224] [-batch_size 32]
    [-workers 0 1 2]
python -m common.benchmark archives FOLDER [-images 512] [-delay 1]
python -m common.benchmark scale [-images 100000 1000000 10000000 14200000]
python -m common.benchmark report NAME [-images 50000] [-classes 1000]
python -m common.benchmark checkpoint NAME [-image_size N] [-batch_size 8] [-folder FOLDER]
python -m common.benchmark plan NAME:SIZE:BATCH[:KEY=VALUE] ...
each but memory, plan, scale and report with [-rounds N]

What is compared takes turns, so that a busy machine slows all of it; a ratio is the median of the
rounds' ratios. Weights are random: they do not change the time. On a GPU a measurement ends when
the device is done, and a batch that does not fit is halved; on a CPU OMP_NUM_THREADS says how many
threads there are.

-engine measures the training loop with its log and counters beside the bare step. `peers` compares
a model with a plain one (benchmarks/baseline.py), `rivals` with other libraries in another Python's
environment (benchmarks/rivals.py), `memory` both, and gradient checkpointing, by the peak memory of
training (benchmarks/memory.py). `growth` says how time and memory grow (benchmarks/growth.py),
`device` what a GPU does (benchmarks/device.py). `data` compares the loader with other ways to read
the files of FOLDER/train_list.txt (benchmarks/data.py), `archives` reading from a .tar with reading
files, `scale` the index of large data sets (benchmarks/archives.py), `report` how long a report
takes beside the evaluation (benchmarks/report.py), `checkpoint` how long training waits for a
checkpoint, which is written while it waits or beside it (benchmarks/checkpoint.py). `plan`
compares the memory that `paddle-vitae plan` predicts with what training takes (planning/check.py).
"""
import json
import os
import shutil
from collections.abc import Sequence

import paddle

from common.benchmarks.archives import reading_table, scale_table
from common.benchmarks.baseline import peers_table
from common.benchmarks.checkpoint import checkpoint_table
from common.benchmarks.data import data_table
from common.benchmarks.device_figures import PARTS, DeviceSetting, device_figures, device_tables
from common.benchmarks.engine import engine_table
from common.benchmarks.growth import BATCHES, PAPER, SIZES, TABLES, growth, growth_tables
from common.benchmarks.memory import memory_table
from common.benchmarks.model import environment, model_rows, model_table
from common.benchmarks.processor import AS
from common.benchmarks.report import report_table
from common.benchmarks.rivals import Setting, rivals, rivals_table
from common.core.cores import free_cores
from common.core.devices import gpus_looked_for
from common.core.errors import InputError, complain, errors_of_a_tool
from common.core.files import replace_atomically
from common.core.flags import add_flag, check_least, check_output, tool_parser
from common.core.processes import set_up_cpu
from common.planning.check import case_of, check_table
from common.reporting.figures import check_extra
from common.runtimes import RUNTIMES
from common.zoo import model_config


def make_parser():
    """The command line, with a parser for each kind of measurement."""
    parser = tool_parser('benchmark', __doc__.splitlines()[0],
                         'model vit_digits -runtime eager paddle')
    tools = parser.add_subparsers(dest='tool', required=True)

    model = tools.add_parser('model', help='throughput of models, side by side')
    model.add_argument('names', nargs='+', metavar='NAME', help='names or yaml files of models')
    add_flag(model, 'image_size', "pixels, several are possible; default each model's own",
             type=int, nargs='+', metavar='N')
    add_flag(model, 'batch_size', 'images in a step, default 8; one for all sizes, or one for each',
             type=int, nargs='+', default=[8], metavar='N')
    add_flag(model, 'runtime', f'of the forward pass, several are possible: {", ".join(RUNTIMES)}; '
             f'default eager', nargs='+', choices=RUNTIMES, default=['eager'], metavar='NAME')
    add_flag(model, 'amp', 'mixed precision on a GPU: float16 or bfloat16',
             choices=['float16', 'bfloat16'], metavar='TYPE')
    add_flag(model, 'json', 'writes the figures there, too', metavar='FILE')
    add_flag(model, 'train', 'forward, backward and AdamW instead of the forward pass',
             action='store_true')
    add_flag(model, 'engine', 'the training loop over 50 steps, beside 50 bare steps of -train',
             action='store_true')
    add_flag(model, 'rounds', 'measurements of each model, default 5', type=int, default=5,
             metavar='N')

    peers = tools.add_parser('peers', help='a model beside one as textbooks write it')
    peers.add_argument('name', metavar='NAME', help='a model of blocks that are all alike')
    add_flag(peers, 'image_size', "pixels; default the model's own", type=int, metavar='N')
    add_flag(peers, 'batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')
    add_flag(peers, 'train', 'training steps instead of forward passes', action='store_true')
    add_flag(peers, 'rounds', 'measurements of each, default 5', type=int, default=5, metavar='N')

    for add in (add_rivals, add_growth, add_device):
        add(tools)

    memory = tools.add_parser('memory', help='peak memory of training, beside a textbook\'s model')
    memory.add_argument('name', metavar='NAME', help='a model of blocks that are all alike')
    add_flag(memory, 'image_size', "pixels; default the model's own", type=int, metavar='N')
    add_flag(memory, 'batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')

    data = tools.add_parser('data', help='throughput of the training loader')
    data.add_argument('folder', metavar='FOLDER', help='folder with train_list.txt')
    add_flag(data, 'images', 'how many of its images are read, default 512', type=int, default=512,
             metavar='N')
    add_flag(data, 'image_size', 'pixels, default 224', type=int, default=224, metavar='N')
    add_flag(data, 'batch_size', 'images in a batch, default 32', type=int, default=32, metavar='N')
    add_flag(data, 'workers', 'loader processes, default 0 1 2', type=int, nargs='+',
             default=[0, 1, 2], metavar='N')
    add_flag(data, 'rounds', 'epochs of each pipeline, default 3', type=int, default=3, metavar='N')

    archives = tools.add_parser('archives', help='reading from a .tar beside reading files')
    archives.add_argument('folder', metavar='FOLDER', help='folder with train_list.txt')
    add_flag(archives, 'images', 'how many of its images are read, default 512', type=int,
             default=512, metavar='N')
    add_flag(archives, 'delay', 'milliseconds of each open on a slow disk, default 1', type=float,
             default=1.0, metavar='X')
    add_flag(archives, 'rounds', 'passes of each, default 3', type=int, default=3, metavar='N')

    scale = tools.add_parser('scale', help='the index of large data sets, from a synthetic one')
    add_flag(scale, 'images', 'several are possible; 14200000 are 0.8 GB in the temporary folder',
             type=int, nargs='+', default=[10 ** 5, 10 ** 6, 10 ** 7, 14_200_000], metavar='N')

    report = tools.add_parser('report', help='how long a report takes beside the evaluation')
    report.add_argument('name', metavar='NAME', help='the model whose attention is drawn')
    add_flag(report, 'images', 'predictions, default 50000', type=int, default=50_000, metavar='N')
    add_flag(report, 'classes', 'default 1000', type=int, default=1000, metavar='N')

    checkpoint = tools.add_parser('checkpoint', help='how long training waits for a checkpoint')
    checkpoint.add_argument('name', metavar='NAME', help='name or yaml file of a model')
    add_flag(checkpoint, 'image_size', "pixels; default the model's own", type=int, metavar='N')
    add_flag(checkpoint, 'batch_size', 'images in a step, default 8', type=int, default=8,
             metavar='N')
    add_flag(checkpoint, 'rounds', 'checkpoints of each kind, default 5', type=int, default=5,
             metavar='N')
    add_flag(checkpoint, 'folder', 'where they are written, and removed; default the temporary one',
             metavar='FOLDER')
    plan = tools.add_parser('plan', help='predicted memory of training beside the measured')
    plan.add_argument('cases', nargs='+', metavar='NAME:SIZE:BATCH',
                      help='model, pixels, images in a step; also :KEY=VALUE of the config')
    return parser


def add_rivals(tools):
    """The flags of `rivals`."""
    others = tools.add_parser('rivals', help='a model beside PyTorch, torch.compile, OpenVINO')
    others.add_argument('name', metavar='NAME', help='name or yaml file of a model')
    add_flag(others, 'image_size', "pixels; default the model's own", type=int, metavar='N')
    add_flag(others, 'batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')
    add_flag(others, 'train', 'training steps instead of forward passes', action='store_true')
    add_flag(others, 'bf16', 'bfloat16 instead of float32', action='store_true')
    add_flag(others, 'python', 'of an environment with torch, timm and openvino', metavar='FILE')
    add_flag(others, 'upstream', "folder of the authors' code, for models that timm does not have",
             metavar='FOLDER')
    add_flag(others, 'threads', 'one after the other, default 1 and all cores', type=int,
             nargs='+', default=sorted({1, free_cores()}), metavar='N')
    add_flag(others, 'as', 'as on a processor without AVX-512', choices=list(AS), metavar='avx2')
    add_flag(others, 'rounds', 'turns of each, default 5', type=int, default=5, metavar='N')
    add_flag(others, 'json', 'writes the figures there, too', metavar='FILE')


def add_growth(tools):
    """The flags of `growth`."""
    growing = tools.add_parser('growth', help='time and memory over batch, image, threads')
    growing.add_argument('names', nargs='+', metavar='NAME', help='names or yaml files of models')
    add_flag(growing, 'tables', f'default batch image tokens threads; of {", ".join(TABLES)} '
             "(the authors' sizes and batches)", nargs='+', choices=TABLES, metavar='TABLE',
             default=['batch', 'image', 'tokens', 'threads'])
    add_flag(growing, 'batch_size', 'the first holds where something else grows', type=int,
             nargs='+', default=list(BATCHES), metavar='N')
    add_flag(growing, 'image_size', 'the same', type=int, nargs='+', default=list(SIZES),
             metavar='N')
    add_flag(growing, 'threads', 'the same; default 1 to all cores', type=int, nargs='+',
             default=list(range(1, free_cores() + 1)), metavar='N')
    add_flag(growing, 'train', 'training steps instead of forward passes', action='store_true')
    add_flag(growing, 'rounds', 'turns of each, default 3', type=int, default=3, metavar='N')
    add_flag(growing, 'json', 'writes the figures there, too', metavar='FILE')


def add_device(tools):
    """The flags of `device`."""
    device = tools.add_parser('device', help='what a GPU does, for a report about it')
    device.add_argument('names', nargs='+', metavar='NAME', help='names or yaml files of models')
    add_flag(device, 'device', 'gpu or cpu, default gpu', choices=['gpu', 'cpu'], default='gpu')
    add_flag(device, 'parts', f'default {" ".join(PARTS)}', nargs='+', choices=PARTS,
             default=list(PARTS), metavar='PART')
    add_flag(device, 'image_size', f'default {" ".join(str(size) for size, _ in PAPER)}', type=int,
             nargs='+', default=[size for size, _ in PAPER], metavar='N')
    add_flag(device, 'batch_size', f'one for each, default {" ".join(str(n) for _, n in PAPER)}',
             type=int, nargs='+', default=[batch for _, batch in PAPER], metavar='N')
    add_flag(device, 'seconds', 'of each figure of inference, default 3', type=float, default=3.0,
             metavar='X')
    add_flag(device, 'steps', 'of training, default 30', type=int, default=30, metavar='N')
    add_flag(device, 'ranks', 'devices for the part of this name; default all GPUs', type=int,
             metavar='N')
    add_flag(device, 'json', 'writes the figures there, too', metavar='FILE')


def measure_models(args):
    names = list(dict.fromkeys(args.names))
    if args.engine:
        size = args.image_size[0] if args.image_size else None
        print(engine_table(names, size, args.batch_size[0], args.rounds))
        return
    rows = model_rows(names, args.image_size, args.batch_size, args.runtime, args.train, args.amp,
                      args.rounds)
    conditions = environment()
    write_figures(args.json, {**conditions, 'rounds': args.rounds, 'rows': rows})
    print(', '.join(f'{key} {value:.0f}' if isinstance(value, float) else f'{key} {value}'
                    for key, value in conditions.items()) + '\n')
    print(model_table(rows))


def write_figures(file, figures):
    """Writes a dict as JSON, if a file was asked for."""
    if file:
        with replace_atomically(file) as temporary, open(temporary, 'w') as stream:
            json.dump(figures, stream, indent=1)


def measure_peers(args):
    print(peers_table(args.name, args.image_size, args.batch_size, args.train, args.rounds))


def measure_rivals(args):
    if args.python and not shutil.which(args.python):
        raise InputError(f'-python: got {args.python}, expected a program that can be run')
    if args.upstream and not os.path.isdir(args.upstream):
        raise InputError(f'-upstream: got {args.upstream}, expected a folder')
    if args.train and args.bf16:
        raise InputError('-bf16: got it with -train, expected forward passes: on a CPU Paddle '
                         'trains in float32')
    result = rivals(Setting(args.name, args.image_size, args.batch_size, args.train,
                            'bf16' if args.bf16 else 'fp32', args.python, args.upstream,
                            tuple(args.threads), args.rounds, getattr(args, 'as')))
    write_figures(args.json, result)
    print(rivals_table(result))


def measure_growth(args):
    result = growth(list(dict.fromkeys(args.names)), list(dict.fromkeys(args.tables)),
                    args.batch_size, args.image_size, args.threads, args.train, args.rounds)
    write_figures(args.json, result)
    print(growth_tables(result))


def measure_device(args):
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if args.device == 'gpu' and not gpus:
        raise InputError(f'-device: got gpu, but there is none: {gpus_looked_for()}')
    if len(args.batch_size) != len(args.image_size):
        raise InputError(f'-batch_size: got {len(args.batch_size)} numbers, expected one for each '
                         f'of the {len(args.image_size)} sizes')
    if args.device == 'gpu' and (args.ranks or 1) > gpus:
        raise InputError(f'-ranks: got {args.ranks}, expected at most the {gpus} GPUs')
    for name in args.names:
        model_config(name)  # before the work
    result = device_figures(DeviceSetting(
        tuple(args.names), args.device, tuple(args.parts),
        tuple(zip(args.image_size, args.batch_size, strict=True)), args.seconds, args.steps,
        args.ranks or (gpus if args.device == 'gpu' else 1)), say=complain)
    write_figures(args.json, result)
    print(device_tables(result))


def measure_memory(args):
    print(memory_table(args.name, args.image_size, args.batch_size))


def measure_data(args):
    print(data_table(args.folder, args.images, args.batch_size, args.image_size, args.workers,
                     args.rounds))


def measure_archives(args):
    print(reading_table(args.folder, args.images, args.delay, args.rounds))


def measure_scale(args):
    print(scale_table(args.images))


def measure_report(args):
    check_extra()
    print(report_table(args.name, args.images, args.classes))


def measure_checkpoint(args):
    if args.folder is not None and not os.path.isdir(args.folder):
        raise InputError(f'-folder: no such folder: {args.folder}')
    print(checkpoint_table(args.name, args.image_size, args.batch_size, args.rounds, args.folder))


def measure_plan(args):
    print(check_table([case_of(text) for text in args.cases]))


MEASUREMENTS = {'model': measure_models, 'peers': measure_peers,
                'rivals': measure_rivals, 'growth': measure_growth, 'device': measure_device,
                'memory': measure_memory, 'data': measure_data, 'archives': measure_archives,
                'scale': measure_scale, 'report': measure_report,
                'checkpoint': measure_checkpoint,
                'plan': measure_plan}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the command line names, and prints a markdown table.

    Args:
        argv: list of arguments; None is the command line's.
    """
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, batch_size=1, rounds=1, image_size=1, images=1, workers=0, classes=2,
                    delay=0, threads=1, steps=1, ranks=1, seconds=0)
        on_gpu = paddle.device.get_device().startswith('gpu')
        if getattr(args, 'amp', None) and not on_gpu:
            raise InputError('-amp: got it on a CPU, where Paddle computes in float32; '
                             '-runtime paddle-bf16 is what is fast there')
        if getattr(args, 'json', None):
            check_output('json', args.json)
        if not on_gpu:
            set_up_cpu()  # as the training program does
        MEASUREMENTS[args.tool](args)


if __name__ == '__main__':
    main()
