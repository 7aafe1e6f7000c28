"""What a GPU does: the parts of `python -m common.benchmark device`, each in a process of its own.

A part yields dicts, one for each figure. What cannot be measured is a dict with `error`; so one
that fails, or does not fit into the memory, takes nothing with it. All runs on a CPU, too, in
float32, which is how it is tested.
"""
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time

import numpy as np
import paddle
import paddle.distributed as paddle_dist
import paddle.nn.functional as F
from paddle import inference
from PIL import Image

from common.benchmarks.data import own_loader
from common.benchmarks.memory import peak_memory
from common.benchmarks.steps import LEARNING_RATE, build_adamw, labels_for, seconds
from common.core import dist
from common.core.errors import one_line
from common.core.processes import end_with_parent, set_up_cpu
from common.core.sizes import to_pair
from common.data.archives.lists import read_image_list
from common.deploy.check import random_pictures
from common.deploy.folder import graph_files
from common.deploy.graph import save_paddle_graph
from common.deploy.paddle_inference import GPU_MEMORY_MB, inference_settings
from common.layers import attention
from common.train.engine import train_one_epoch
from common.train.precision import Precision
from common.train.state import Callbacks, EpochSteps, LoopOptions, TrainState
from common.zoo import create_model

PRECISIONS = {'fp32': None, 'fp16': 'float16', 'bf16': 'bfloat16'}
IMAGE = (500, 375)  # pixels of the files whose loading is measured, as ImageNet's


def new_model(spec):
    """The model of a spec, without dropout."""
    paddle.seed(0)
    return create_model(spec['name'], image_size=spec['image_size'], dropout=0.0,
                        attention_dropout=0.0, droppath=0.0)


def precision_of(name, spec):
    """The Precision of one of PRECISIONS: O2, since Paddle 2.6's linear layers give float32 at O1.
    On a CPU it is float32 whatever is asked for."""
    dtype = PRECISIONS[name]
    return Precision(dtype is not None, dtype or 'auto', 'O2', spec['device'])


def label_of(name, spec):
    """One of PRECISIONS, with what it is on this device."""
    return name if name == 'fp32' or spec['device'] == 'gpu' else f'{name} (float32 on a CPU)'


def time_of(step, spec):
    """The median time of a step, of those that fit into spec['seconds'], but three at least."""
    seconds(step)
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < spec['seconds']:
        times.append(seconds(step))
    return float(np.median(times))


def forget_peak():
    """Starts the count of the most memory again, where Paddle can (3.x, on a GPU)."""
    with contextlib.suppress(AttributeError, RuntimeError, ValueError):
        paddle.device.cuda.empty_cache()
        paddle.device.cuda.reset_max_memory_allocated()


def tried(figure, measure, spec):
    """A figure with what `measure` gives for a batch: spec['batch'], or the largest half of it that
    fits into the memory; or with the error."""
    batch = spec['batch']
    while True:
        forget_peak()
        try:
            return {**figure, 'batch': batch, **measure(batch), 'peak_mb': peak_memory()}
        except Exception as error:  # noqa: BLE001 - whatever Paddle or a driver raises
            if batch == 1 or 'out of memory' not in str(error).lower():
                return {**figure, 'batch': batch, 'error': one_line(error)}
        batch //= 2


def inference_part(spec):
    """Images a second of a model's forward pass by runtime and precision."""
    steps = {'eager': eager_step, 'to_static': static_step, 'Paddle Inference': predictor_step}
    for (runtime, make), name in itertools.product(steps.items(), PRECISIONS):
        def measure(batch, make=make, name=name):
            return {'images_per_s': batch / time_of(make(spec, batch, name), spec)}
        yield tried({'runtime': runtime, 'precision': label_of(name, spec)}, measure, spec)


def eager_step(spec, batch, name, static=False):
    """A forward pass, operation by operation or as a graph."""
    model, precision = new_model(spec), precision_of(name, spec)
    model.eval()
    model, _ = precision.decorate(model)
    run = paddle.jit.to_static(model, full_graph=True) if static else model
    images = paddle.randn([batch, 3, *to_pair(spec['image_size'])])

    def step():
        with paddle.no_grad(), precision.autocast():
            run(images)
    return step


def static_step(spec, batch, name):
    """A forward pass of `paddle.jit.to_static`."""
    return eager_step(spec, batch, name, static=True)


def predictor_step(spec, batch, name):
    """A pass of Paddle's predictor over images that are on its device already."""
    with tempfile.TemporaryDirectory() as folder:
        save_paddle_graph(new_model(spec), folder)
        graph, parameters = (os.path.join(folder, file) for file in graph_files(folder, 'paddle'))
        settings = inference_settings(graph, parameters, 'fp32', 1)
        if spec['device'] == 'gpu':
            kinds = {'fp32': inference.PrecisionType.Float32, 'fp16': inference.PrecisionType.Half,
                     'bf16': inference.PrecisionType.Bfloat16}
            settings.enable_use_gpu(GPU_MEMORY_MB, 0, kinds[name])
        predictor = inference.create_predictor(settings)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    handle.reshape([batch, 3, *to_pair(spec['image_size'])])
    handle.copy_from_cpu(np.random.default_rng(0).standard_normal(
        (batch, 3, *to_pair(spec['image_size'])), np.float32))
    return predictor.run


class Overflows(Callbacks):
    """Counts the steps after which the loss scale was lower: those that overflowed float16."""

    def __init__(self, scaler):
        self.scaler, self.count = scaler, 0
        self.last = self.scale()

    def scale(self):
        """The loss scale; None without a scaler."""
        state = self.scaler.state_dict() if self.scaler else {}
        return float(np.asarray(state['scale']).reshape(-1)[0]) if 'scale' in state else None

    def after_update(self, step, sums):
        scale = self.scale()
        if scale is not None and scale < self.last:
            self.count += 1
        self.last = scale


def training_part(spec):
    """Images a second of the training loop by precision, with FlashAttention and without."""
    for name, flash in itertools.product(PRECISIONS, (True, False)):
        if name == 'fp32' and flash:  # it has none
            continue
        figure = {'precision': label_of(name, spec), 'flash_attention': flash}
        yield tried(figure, lambda batch, name=name, flash=flash: train(spec, batch, name, flash),
                    spec)


@contextlib.contextmanager
def flash_attention(allowed):
    """FlashAttention as it is, or none."""
    before = attention.has_flash_attention
    if not allowed:
        attention.has_flash_attention = lambda dtype, head_dim: False
    try:
        yield
    finally:
        attention.has_flash_attention = before


def train(spec, batch, name, flash):
    """The speed of the training loop, and how many of spec['steps'] steps have overflowed."""
    state = state_of(spec, name)
    images = paddle.randn([batch, 3, *to_pair(spec['image_size'])])
    data = itertools.repeat((images, labels_for(state.model, images)))
    steps = EpochSteps(epoch=1, steps_per_epoch=spec['steps'])

    def run(callbacks):
        train_one_epoch(state, data, LoopOptions(), steps, callbacks)

    with flash_attention(flash):
        overflows = Overflows(state.precision.scaler)
        run(overflows)
        last = seconds(lambda: run(Callbacks()))
    return {'images_per_s': batch * spec['steps'] / last, 'steps': spec['steps'],
            'overflows': overflows.count, 'loss_scale': overflows.last}


def state_of(spec, name):
    """The TrainState of a new model in a precision."""
    model, precision = new_model(spec), precision_of(name, spec)
    model.train()
    model, optimizer = precision.decorate(model, build_adamw(model))
    return TrainState(model, F.cross_entropy, optimizer, lambda step: LEARNING_RATE, precision)


class Reports(Callbacks):
    """Keeps the figures of the last report."""

    def report(self, figures):
        self.figures = figures


def data_part(spec):
    """The share of the time in which training waits for images: JPEG files of ImageNet's size
    through the loader, with the crop and the mirror alone, in bfloat16."""
    def measure(batch):
        state = state_of(spec, 'bf16')
        config = state.model.config.clone()
        config.defrost()
        config.DATA.BATCH_SIZE = batch
        with tempfile.TemporaryDirectory() as folder:
            count = batch * spec['steps']
            loader = own_loader(write_images(folder, count, state.model.num_classes), config,
                                spec['workers'])
            reports = Reports()
            for _ in range(2):  # in the first one the device warms up
                train_one_epoch(state, loader, LoopOptions(),
                                EpochSteps(epoch=1, steps_per_epoch=spec['steps']), reports)
        return {key: reports.figures[key] for key in ('images_per_s', 'data_share')}
    yield tried({'workers': spec['workers']}, measure, spec)


def write_images(folder, count, classes):
    """The list of JPEG files: some smooth pictures, many times."""
    names = []
    for index, pixels in enumerate(random_pictures(IMAGE[::-1])):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(os.path.join(folder, f'{index}.jpg'))
        names.append(f'{index}.jpg')
    file = os.path.join(folder, 'train_list.txt')
    with open(file, 'w') as stream:
        stream.writelines(f'{names[index % len(names)]} {index % classes}\n'
                          for index in range(count))
    return read_image_list(file)


def ranks_part(spec):
    """The share of a training step that averaging gradients over several devices takes: steps with
    it and without (DataParallel's no_sync) take turns."""
    options = {'backend': 'gloo'} if spec['device'] == 'cpu' else {}
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'figures.json')
        if spec['ranks'] == 1:
            rank(spec, file)
        else:
            paddle_dist.spawn(rank, args=(spec, file), nprocs=spec['ranks'], join=True, **options)
        with open(file) as stream:
            yield {'ranks': spec['ranks'], 'batch': spec['batch'], **json.load(stream)}


def rank(spec, file):
    """One of the processes of `ranks_part`; the first one writes the figures."""
    set_up(spec)
    if spec['ranks'] > 1:
        dist.join_group()
    state = state_of(spec, 'fp32')
    model = dist.data_parallel(state.model)
    images = paddle.randn([spec['batch'], 3, *to_pair(spec['image_size'])])
    labels = labels_for(state.model, images)

    def step(alone):
        with dist.no_sync(model, alone):
            F.cross_entropy(model(images), labels).backward()
        state.optimizer.step()
        state.optimizer.clear_grad(set_to_zero=False)

    times = {False: [], True: []}
    for number, alone in itertools.product(range(spec['steps'] + 1), times):
        time = seconds(lambda alone=alone: step(alone))
        if number:  # the first ones warm up
            times[alone].append(time)
    together, apart = (float(np.median(times[alone])) for alone in (False, True))
    if dist.is_master():
        with open(file, 'w') as stream:
            json.dump({'seconds': together, 'seconds_without': apart,
                       'all_reduce_share': 1 - apart / together,
                       'images_per_s': spec['ranks'] * spec['batch'] / together}, stream)


PARTS = {'inference': inference_part, 'training': training_part, 'data': data_part,
         'ranks': ranks_part}


def set_up(spec):
    """Prepares this process for the device of a spec."""
    if spec['device'] == 'cpu':
        paddle.set_device('cpu')
        set_up_cpu()
    elif spec['ranks'] == 1:  # a rank's own is chosen by paddle.distributed
        paddle.set_device('gpu')


def main(spec):
    """What the process of a part does: a line of JSON for each figure."""
    end_with_parent()
    spec = json.loads(spec)
    out = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    if spec['part'] != 'ranks':
        set_up(spec)
    for figure in PARTS[spec['part']](spec):
        print(json.dumps(figure), file=out)


if __name__ == '__main__':
    main(sys.argv[1])
