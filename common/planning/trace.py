"""What a training step keeps in memory, traced on the model itself.

A forward and a backward pass are run, piece by piece of the model: the cells (`model.cells()`), and
the trunk, which is all that lies between them (patches, reduction cells, norms, classifier, loss).
Paddle counts the memory of all tensors; where a piece begins and ends, in either pass, the count
and its peak since the last such place are read.

Cells that are equal keep the same, so only the first of them is run, and only its weights are
there; the tokens go round the others. The trace of a model of many gigabytes so needs the memory of
some cells, of the trunk, and of a few images. Nothing here knows what a cell is made of.
"""
import contextlib
import dataclasses
import gc
import math
import time
import warnings
import weakref

import paddle

from common.core.sizes import to_pair
from common.layers.recompute import recompute_cells
from common.planning.gpu import as_on_gpu
from common.train.losses import build_loss
from common.train.optim import freeze
from common.train.precision import Precision
from common.zoo import build_model

TRUNK = -1  # in place of a cell's index
ITEM_SIZES = {'float64': 8, 'float32': 4, 'float16': 2, 'bfloat16': 2, 'int64': 8, 'int32': 4,
              'bool': 1, 'uint8': 1}
OWN_NAMES = ('_full_name', 'training')  # of a layer alone, whatever it computes


@dataclasses.dataclass
class Piece:
    """What a piece of the model did to the memory, in bytes, in one pass.

    Attributes:
        cell: index of the cell, or TRUNK.
        stage: index of the stage in which it ran.
        kept: by how much there is more at its end than at its start, without `gradients`.
        peak: how much more there was at most, with them.
        gradients: of parameters, that it made.
        seconds: how long it took.
    """
    cell: int
    stage: int
    kept: float = 0.0
    peak: float = 0.0
    gradients: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass
class Trace:
    """The pieces of one training step.

    Attributes:
        batch: images.
        forward: list of Piece in the order of time, empty ones of the cells that were not run.
        backward: the same, without these.
        equal: {index of a cell that was not run: index of the one that was}.
    """
    batch: int
    forward: list
    backward: list
    equal: dict

    def most(self):
        """The most bytes that the trace itself has needed at a time, without weights."""
        now = most = 0.0
        for piece in self.forward + self.backward:
            most = max(most, now + piece.peak)
            now += piece.kept + piece.gradients
        return most


def trace_step(config, batch: int, recompute: bool = False, target: str = 'cpu') -> Trace:
    """Traces a training step of the model of a config, on the device in use.

    Args:
        config: of a run; its MODEL node, DATA.IMAGE_SIZE, TRAIN.FREEZE, the loss and AMP count.
        batch: images.
        recompute: whether with gradient checkpointing (TRAIN.RECOMPUTE).
        target: cpu | gpu, where the run is to be; see `as_on` for a GPU that is not here.

    Returns:
        Trace.
    """
    gc.collect()  # the model of the trace before this one must not go in the middle of it
    with as_on(target, config) as scale, warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # Paddle's, about BatchNorm in training
        recorder = traced_step(config, batch, recompute)
    for piece in recorder.forward + recorder.backward:
        piece.kept, piece.peak = piece.kept * scale, piece.peak * scale
        piece.gradients *= scale
    return Trace(batch, recorder.forward, recorder.backward, recorder.equal)


@contextlib.contextmanager
def as_on(target, config):
    """A block that runs models as a device does, by its AMP at O1; it gives what bytes that are
    counted must be multiplied with."""
    amp = config.AMP and target == 'gpu'
    if target == 'cpu':
        yield 1.0
    elif is_here(target):
        with Precision(amp, config.AMP_DTYPE, device='gpu').autocast():
            yield 1.0
    else:
        with as_on_gpu(amp):
            yield 0.5 if amp else 1.0


def is_here(target):
    """Whether Paddle computes on such a device now."""
    return paddle.device.get_device().startswith(target)


def traced_step(config, batch, recompute):
    """The Recorder of one training step."""
    with paddle.LazyGuard():
        model = build_model(config)
    freeze(model, config.TRAIN.FREEZE)
    model.train()
    in_cells = {id(parameter) for cell in model.cells() for parameter in cell.parameters()}
    trunk = [one for one in model.parameters() if id(one) not in in_cells]
    allocate(trunk)
    if recompute:
        recompute_cells(model)
    recorder = Recorder(trunk)
    for index, cell in enumerate(model.cells()):
        cell.forward = recorder.traced_cell(index, cell, cell.forward)
    model.stages = recorder.traced_stages(model.stages)
    K = model.num_classes
    loss_of = build_loss(config.TRAIN)
    images = paddle.randn([batch, 3, *to_pair(config.DATA.IMAGE_SIZE)])
    target = paddle.full([batch, K], 1.0 / K)
    recorder.begin(recorder.forward, TRUNK, 0)
    loss = loss_of(model(images), target)
    recorder.end()
    recorder.begin(recorder.backward, TRUNK, recorder.stage)
    loss.backward()
    recorder.end()
    return recorder


def allocate(parameters):
    """Gives memory to parameters that were made under LazyGuard and have none yet."""
    for parameter in parameters:
        if not parameter._is_initialized():
            parameter.initialize()


def bytes_of(tensor) -> int:
    """The bytes of a tensor, or of a parameter that has no memory yet."""
    return math.prod(tensor.shape) * ITEM_SIZES[str(tensor.dtype).rpartition('.')[2].lower()]


def signature(layer):
    """What decides how much memory a layer takes: the classes, shapes and settings of it and of all
    within. Probabilities and other fractions count as being 0 or not."""
    return tuple(
        (name, type(one),
         tuple((key, bool(value) if isinstance(value, float) else str(value))
               for key, value in sorted(vars(one).items()) if key not in OWN_NAMES
               and isinstance(value, bool | int | float | str | tuple | list)),
         tuple((key, tuple(value.shape), str(value.dtype), value.stop_gradient)
               for key, value in one.named_parameters(include_sublayers=False)))
        for name, one in layer.named_sublayers(include_self=True))


class MemoryCounter:
    """Paddle's count of the memory of tensors, on the device in use."""

    def __init__(self):
        kind, _, number = paddle.device.get_device().partition(':')
        kind = 'host' if kind == 'cpu' else 'device'
        self.number = int(number or 0)
        self.read_now = getattr(paddle.base.core, f'{kind}_memory_stat_current_value')
        self.read_peak = getattr(paddle.base.core, f'{kind}_memory_stat_peak_value')
        self.ballast = None

    def start(self):
        """Counts from now on. Paddle 2.6 cannot forget a peak, so a tensor is put on the scales,
        never touched, that weighs what is missing to it."""
        self.ballast = None
        now, peak = self.read('now'), self.read('peak')
        if peak > now:
            self.ballast = paddle.empty([peak - now], 'uint8')
        self.first = self.read('now')

    def read(self, what):
        return (self.read_now if what == 'now' else self.read_peak)('Allocated', self.number)

    def since_start(self):
        """By how many bytes there is more now than at the start, and was at most."""
        return self.read('now') - self.first, self.read('peak') - self.first


class Recorder:
    """Takes down the pieces of a step while it runs; see Trace for the attributes.

    Args:
        parameters: those that have memory; the list grows with the cells that are run.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        self.counter = MemoryCounter()
        self.forward, self.backward = [], []
        self.equal = {}
        self.stage = 0
        self.run = {}                     # what decides a cell's memory -> its index
        self.last_output = lambda: None   # a weak reference

    def begin(self, pieces, cell, stage):
        """Begins a piece, which goes into a list when it ends."""
        self.pieces, self.piece = pieces, Piece(cell, stage)
        self.gradients = self.count_gradients()
        self.counter.start()
        self.time = time.perf_counter()

    def end(self):
        kept, self.piece.peak = self.counter.since_start()
        self.piece.seconds = time.perf_counter() - self.time
        self.piece.gradients = self.count_gradients() - self.gradients
        self.piece.kept = kept - self.piece.gradients
        self.pieces.append(self.piece)

    def count_gradients(self):
        return sum(bytes_of(one) for one in self.parameters if one.grad is not None)

    def begin_at_gradient(self, tensor, cell, stage):
        """Has the backward pass begin a piece when the gradient of a tensor is complete."""
        def hook(gradient):
            self.end()
            self.begin(self.backward, cell, stage)

        if not tensor.stop_gradient:
            tensor.register_hook(hook)

    def traced_cell(self, index, cell, run):
        """The forward pass of a cell, as it is traced."""
        settings = signature(cell)

        def forward(x, *others):
            stage, shape = self.stage, x.shape
            key = (settings, tuple(shape), str(x.dtype), x.stop_gradient, str(others))
            self.end()
            if key in self.run:
                self.equal[index] = self.run[key]
                self.forward.append(Piece(index, stage))
                self.begin(self.forward, TRUNK, stage)
                return x
            allocate(cell.parameters())
            self.parameters += cell.parameters()
            if x is not self.last_output():  # else the cell before begins where this one ends
                self.begin_at_gradient(x, TRUNK, stage)
            self.begin(self.forward, index, stage)
            x = run(x, *others)
            self.last_output = weakref.ref(x)
            self.end()
            self.begin_at_gradient(x, index, stage)
            self.begin(self.forward, TRUNK, stage)
            if x.shape == shape:
                self.run[key] = index
            return x
        return forward

    def traced_stages(self, stages):
        """A model's `stages`, whose results tell where a stage ends."""
        def traced(image):
            for result in stages(image):
                yield result
                self.end()
                self.stage += 1
                self.begin(self.forward, TRUNK, self.stage)
        return traced
