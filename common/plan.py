"""Plans a training: memory, the largest batch, accumulation, disk, the loader, the command to run.

paddle-vitae plan -cfg vit_huge_patch14_224 -devices 8 -memory 40G
    [-image_size 384] [-amp] [-batch_size 16] [-global_batch 512] [-recipe finetune] [-o KEY=VALUE]
    [-device gpu|cpu] [-data_path FOLDER] [-images_per_s 100]

Nothing is trained: a training step of the model is traced on this machine, cell by cell, with a few
images (docs/scale.md says on what the figures rest).
"""
import argparse
import os
from collections.abc import Sequence
from functools import partial

import paddle

from common.config import update_config
from common.core.errors import InputError, errors_of_a_tool
from common.core.flags import add_flag, byte_size, check_least, tool_parser
from common.core.processes import set_up_cpu, set_up_mkl
from common.core.sizes import to_pair
from common.planning.budget import Budget, gib
from common.planning.choice import best_of, choose
from common.planning.loader import IMAGENET_IMAGES, measure_loader, workers_for
from common.planning.text import (
    activation_table,
    batch_table,
    disk_line,
    last_lines,
    loader_lines,
    state_table,
)
from common.planning.trace import is_here
from common.zoo import model_config, with_recipe

DEVICES = ('gpu', 'cpu')
# What a device's memory holds beside the tensors: so many bytes, and of the rest the share for
# tensors. On a CPU: Paddle's code, and what the system's allocator keeps, as docs/scale.md measured
# it. On a GPU rules of thumb, not measured: CUDA's context with cuDNN's work space, and what the
# allocator loses in pieces.
BESIDE = {'cpu': (400 << 20, 0.72), 'gpu': (1 << 30, 0.9)}


def make_parser():
    parser = tool_parser('plan', __doc__, '-cfg vit_digits -memory 2G -device cpu')
    add = partial(add_flag, parser)
    add('cfg', 'name of a model, or a yaml file', required=True, metavar='NAME')
    add('recipe', 'finetune, or a yaml file, as in training', metavar='NAME')
    add('device', 'where it is to run, on a GPU (default) or on CPUs', choices=DEVICES,
        default=DEVICES[0])
    add('devices', 'GPUs, or processes on CPUs, of all machines; default 1', type=int, default=1,
        metavar='N')
    add('memory', 'of a device, e.g. 40G; default: that of this machine, of CPUs a share for each '
        'process', metavar='SIZE')
    add('image_size', 'pixels', type=int, metavar='N')
    add('batch_size', 'images on one device in one step; default: what fits', type=int,
        metavar='N')
    add('global_batch', 'images of an optimiser step; default that of the recipe', type=int,
        metavar='N')
    add('amp', 'mixed precision, on a GPU', action='store_true')
    add('data_path', 'data set, of which the loader is measured; default: drawn pictures',
        metavar='FOLDER')
    add('dataset', 'its layout, as in training', metavar='NAME')
    add('images', f"of an epoch; default the data set's, or ImageNet's {IMAGENET_IMAGES:,}",
        type=int, metavar='N')
    add('images_per_s', 'that one device trains; default: not known, or of this machine, if it is '
        'the one', type=float, metavar='X')
    add('o', 'a key of the config; several are possible', action='append', metavar='KEY=VALUE')
    return parser


def config_of(args):
    """The config of the run that the flags describe."""
    config = model_config(args.cfg)
    if args.recipe is not None:
        config = with_recipe(config, args.recipe)
    config = update_config(config, args)
    if not config.MODEL.NUM_CLASSES:
        raise InputError('MODEL.NUM_CLASSES: got 0, a model without a classifier, expected at '
                         'least 1 to train')
    if config.AMP and args.device == 'cpu':
        raise InputError('-amp: got it with -device cpu, where Paddle computes in float32')
    return config


def memory_of(args):
    """The bytes of a device's memory, and how many of them are for tensors."""
    if args.memory is not None:
        memory = byte_size('memory', args.memory, '40G')
    elif args.device == 'cpu':
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // args.devices
    elif is_here('gpu'):
        memory = paddle.device.cuda.get_device_properties().total_memory
    else:
        raise InputError('-memory: got none, and there is no GPU here, expected that of a device, '
                         'e.g. -memory 40G')
    fixed, share = BESIDE[args.device]
    usable = (memory - fixed) * share
    if usable <= 0:
        raise InputError(f'-memory: got {gib(memory)}, expected more than {gib(fixed)}, which a '
                         f'process takes without a tensor')
    return memory, usable


def global_batch_of(args, config):
    """The images of an optimiser step, and where the number is from."""
    if args.global_batch is not None:
        return args.global_batch, '-global_batch'
    train = config.TRAIN
    if train.LR_BASE_BATCH:
        return train.LR_BASE_BATCH, 'TRAIN.LR_BASE_BATCH, which its learning rate is for'
    # of the yaml, since -batch_size and -accum_iter are what the plan is to find
    data = config_of(argparse.Namespace(**{**vars(args), 'batch_size': None})).DATA
    return data.BATCH_SIZE * train.ACCUM_ITER * args.devices, \
        'DATA.BATCH_SIZE x TRAIN.ACCUM_ITER x -devices'


def plan(args):
    """Prints the plan."""
    config = config_of(args)
    memory, usable = memory_of(args)
    global_batch, source = global_batch_of(args, config)
    budget = Budget(config, args.device)
    height, width = to_pair(config.DATA.IMAGE_SIZE)
    print(f'{config.MODEL.NAME}, {height}x{width} px, {budget.count:,} parameters, '
          f'{budget.precision}, {config.TRAIN.OPTIMIZER.NAME}; '
          f'{args.devices} x {args.device.upper()} of {gib(memory)}, of which {gib(usable)} are '
          f'for tensors; global batch {global_batch} ({source})\n', flush=True)
    choices = choose(budget, usable, args.devices, global_batch, args.batch_size)
    for table in (state_table(budget, choices), activation_table(budget), batch_table(choices)):
        print('\n'.join(table) + '\n')
    choice = best_of(choices, global_batch)
    speed = measure_loader(config, args.data_path)
    images_per_s = args.images_per_s
    if images_per_s is None and choice and is_here(args.device):
        timeline = budget.timeline(choice.setting)
        images_per_s = choice.batch / timeline.seconds(choice.batch)
        print(f'about {images_per_s:.1f} img/s on this device, without the optimiser, by the trace')
    print('\n'.join([disk_line(budget), *loader_lines(
        config, speed, images_per_s, args.devices, args.images), rests_on(args, config), '']))
    workers = None
    if images_per_s is not None and workers_for(images_per_s, speed) > config.DATA.NUM_WORKERS:
        workers = workers_for(images_per_s, speed)
    print('\n'.join(last_lines(args, choice, choices, global_batch, usable, workers)))


def rests_on(args, config):
    """A sentence about what the figures are made of."""
    if is_here(args.device):
        return f'figures: traced on this {args.device}; within 10 % on CPUs (docs/scale.md)'
    amp = ' in the types of AMP at O1, with FlashAttention' if config.AMP else ''
    return (f"figures: the GPU's operators{amp}, traced on this CPU and not measured on a GPU; "
            f'cuDNN\'s work space and fragments of memory are a rule of thumb')


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the plan of what the command line names.

    Args:
        argv: list of arguments; None is the command line's.
    """
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, devices=1, batch_size=1, image_size=1, global_batch=1, images=1)
        if args.images_per_s is not None and args.images_per_s <= 0:
            raise InputError(f'-images_per_s: got {args.images_per_s}, expected more than 0')
        if args.device == 'cpu':
            paddle.set_device('cpu')
            set_up_cpu()
        else:
            set_up_mkl()
        plan(args)


if __name__ == '__main__':
    main()
