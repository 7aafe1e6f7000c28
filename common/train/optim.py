"""The optimiser: which parameters are decayed, and its state by parameter path."""
import contextlib

import numpy as np
import paddle

from common.config import ConfigNode
from common.core.errors import InputError, printable
from common.layers.classifier import ImageClassifier, check_classifier
from common.train.adamw import AdamW
from common.train.sharding import ShardedOptimizer, is_split, own_share, unsharded


def decayed_parameters(model, rule='matrices'):
    """Finds the parameters that weight decay acts on.

    Args:
        model: an ImageClassifier; `model.no_weight_decay()` names more parameters to leave out.
        rule: 'matrices': all but vectors and scalars (biases, norms) and the named ones;
            'all_matrices': the named ones too, as timm 0.4.12 in effect does for models whose
            embeddings lie in a sublayer; 'all': every parameter, as PaddleViT does.

    Returns:
        Set of names.
    """
    if rule == 'all':
        return {name for name, _ in trainable_parameters(model)}
    left_out = set()
    if rule == 'matrices':
        left_out = model.no_weight_decay()
    return {name for name, parameter in trainable_parameters(model)
            if parameter.ndim > 1 and name not in left_out}


# What the state of an optimiser has for each parameter; ONE_NUMBER for all of its weights.
ONE_NUMBER = {'beta1_pow_acc_0', 'beta2_pow_acc_0'}
SLOTS = {'AdamW': {'moment1_0', 'moment2_0', *ONE_NUMBER}, 'Momentum': {'velocity_0'}}


def freeze(model, names):
    """Stops the training of parameters; running statistics of BatchNorm move on.

    Args:
        names: of parameters, or of layers with all that is in them ('encoder.layers.0').

    Raises:
        InputError: a name that is not there, or nothing is left to train.
    """
    largest = ', '.join(dict.fromkeys(name.split('.')[0] for name, _ in model.named_parameters()))
    for wanted in names:
        found = [p for name, p in model.named_parameters()
                 if f'{name}.'.startswith(f'{wanted}.')]
        if not found:
            raise InputError(f'TRAIN.FREEZE: got {wanted!r}, which is no parameter or layer; '
                             f'the largest ones are {largest}')
        for parameter in found:
            parameter.stop_gradient = True
    if not trainable_parameters(model):
        raise InputError(f'TRAIN.FREEZE: got {list(names)}, which leaves nothing to train')


def layer_indices(model):
    """Numbers the layers of a model for layer-wise learning rates.

    Of L blocks (`model.cells()`) block i has index i + 1; what lies before the first block 0; what
    lies between two blocks the index of the second; what follows the last L + 1.

    Returns:
        {parameter name: index}, and the largest index.
    """
    blocks = {id(cell): index for index, cell in enumerate(model.cells(), 1)}
    inside = {f'{name}.{path}': blocks[id(layer)] for name, layer in model.named_sublayers()
              if id(layer) in blocks for path, _ in layer.named_parameters()}
    found, last = {}, len(blocks) + 1
    following = 0
    for name, _ in model.named_parameters():
        if name in inside:
            found[name], following = inside[name], inside[name] + 1
        else:
            found[name] = following
    return found, last


def set_layer_decay(model, decay):
    """Gives each parameter decay^(last - index) of the learning rate; see `layer_indices`."""
    indices, last = layer_indices(model)
    for name, parameter in model.named_parameters():
        parameter.optimize_attr['learning_rate'] = decay ** (last - indices[name])


def trainable_parameters(model):
    """List of (name, parameter) of those that training changes."""
    return [(name, parameter) for name, parameter in model.named_parameters()
            if not parameter.stop_gradient]


def build_optimizer(train: ConfigNode, model: ImageClassifier) -> paddle.optimizer.Optimizer:
    """Builds the optimiser over the trainable parameters of a model; with TRAIN.SHARDING on several
    ranks over this rank's share of them, see `sharded`.

    The training loop sets the rate at each step, and clips the gradients.

    Args:
        train: the TRAIN node of a config.
        model: an ImageClassifier; the parameters that TRAIN.FREEZE names are frozen.

    Returns:
        AdamW or Momentum.

    Raises:
        InputError: TRAIN.FREEZE names no parameter of the model, or this is no ImageClassifier.

    Source: AdamW is of arXiv 1711.05101; which parameters decay is said at TRAIN.OPTIMIZER.DECAY.

    Examples:
        >>> from common.train.optim import build_optimizer
        >>> from common.zoo import create_model
        >>> model = create_model('vit_digits')
        >>> type(build_optimizer(model.config.TRAIN, model)).__name__
        'AdamW'
    """
    check_classifier(model)
    freeze(model, train.FREEZE)
    parameters = trainable_parameters(model)
    if is_split(train.SHARDING):
        parameters = own_share(parameters)
    wanted = decayed_parameters(model, train.OPTIMIZER.DECAY)
    if train.OPTIMIZER.NAME == 'AdamW':
        decayed = {parameter.name for name, parameter in parameters if name in wanted}
        optimizer = AdamW(
            learning_rate=train.BASE_LR,
            parameters=[parameter for _, parameter in parameters],
            beta1=train.OPTIMIZER.BETAS[0],
            beta2=train.OPTIMIZER.BETAS[1],
            epsilon=train.OPTIMIZER.EPS,
            weight_decay=train.WEIGHT_DECAY,
            apply_decay_param_fun=lambda name: name in decayed)
    elif train.OPTIMIZER.NAME == 'SGD':
        groups = [
            {'params': [p for name, p in parameters if name in wanted],
             'weight_decay': train.WEIGHT_DECAY},
            {'params': [p for name, p in parameters if name not in wanted], 'weight_decay': 0.0}]
        optimizer = paddle.optimizer.Momentum(
            learning_rate=train.BASE_LR,
            parameters=[group for group in groups if group['params']],
            momentum=train.OPTIMIZER.MOMENTUM)
    else:
        raise InputError(f'TRAIN.OPTIMIZER.NAME: got {train.OPTIMIZER.NAME!r}, expected AdamW or '
                         f'SGD')
    if train.LAYER_DECAY is not None:  # after the optimiser, whose groups reset the rates
        set_layer_decay(model, train.LAYER_DECAY)
    return optimizer


def sharded(train, optimizer, model):
    """The optimiser that `build_optimizer` gave, as one of all parameters."""
    if not is_split(train.SHARDING):
        return optimizer
    return ShardedOptimizer(optimizer, [p for _, p in trainable_parameters(model)])


@contextlib.contextmanager
def states_on_master(optimizer, model):
    """A context, entered by all ranks, in which `optimizer_state` has all ranks' states on rank 0:
    those of others are Elsewhere, and come one at a time when they are written."""
    if not isinstance(optimizer, ShardedOptimizer):
        yield
        return
    with optimizer.states.on_master(optimizer_state(optimizer, model)):
        yield


def optimizer_state(optimizer, model):
    """Collects the optimiser's tensors as {parameter path: {slot: tensor}}; of a ShardedOptimizer
    those of this rank, and on rank 0 within `states_on_master` of all.

    Paddle keys them by names that depend on what else was built in the process; a path does not.
    """
    paths = {parameter.name: path for path, parameter in trainable_parameters(model)}
    state = {}
    for key, value in optimizer.state_dict().items():
        if key == 'master_weights':
            for name, weight in value.items():
                state.setdefault(paths[name], {})['master_weight'] = weight
        elif key != 'LR_Scheduler':
            name = longest_prefix(key, paths)
            state.setdefault(paths[name], {})[key[len(name) + 1:]] = value
    if isinstance(optimizer, ShardedOptimizer):
        state |= optimizer.states.elsewhere
    return state


def longest_prefix(key, names):
    """The longest of some parameters' names that a key of Paddle's begins with."""
    return max((name for name in names if key.startswith(name + '_')), key=len)


def plain_slot(slot):
    """A slot's name without what Paddle puts before it at AMP_LEVEL O2."""
    return str(slot).removeprefix('fp32_master_0_')


def prepare_optimizer_state(optimizer, model, state, file):
    """Checks what `optimizer_state` gave, and puts it under this process's names: of a
    ShardedOptimizer what is of this rank's share.

    Args:
        optimizer: what `build_optimizer` gave.
        model: a Layer.
        state: the dict of a checkpoint.
        file: names the checkpoint in messages.

    Returns:
        dict for the optimiser's set_state_dict.

    Raises:
        InputError: paths that are missing or unexpected, a value of another shape or kind, or the
            state of another optimiser or precision.
    """
    check_optimizer_state(optimizer, model, state, file)
    parameters = dict(trainable_parameters(model))
    flat, master = {}, {}
    for path, slots in state.items():
        parameter = parameters[path]
        for slot, value in slots.items():
            shape = [1] if plain_slot(slot) in ONE_NUMBER else list(parameter.shape)
            if not isinstance(value, np.ndarray) or value.dtype not in ('float32', 'float64') \
                    or list(value.shape) != shape:
                raise InputError(f'{file}: optimizer state {path}.{printable(slot, 100)}: got '
                                 f'{getattr(value, "dtype", type(value).__name__)} '
                                 f'{list(np.shape(value))}, expected floats {shape}')
            if isinstance(optimizer, ShardedOptimizer) \
                    and parameter.name not in optimizer.own_names:
                continue
            tensor = paddle.to_tensor(value)
            if slot == 'master_weight':
                tensor.name = f'{parameter.name}_fp32_master_0'
                master[parameter.name] = tensor
            else:
                tensor.name = f'{parameter.name}_{slot}'
                flat[tensor.name] = tensor
    if master:
        flat['master_weights'] = master
    return flat


def check_optimizer_state(optimizer, model, state, file):
    """Raises InputError unless a state is for this optimiser, model and precision; its arrays are
    not looked at."""
    if not isinstance(state, dict):
        raise InputError(f'{file}: optimizer state: got {type(state).__name__}, expected a dict')
    parameters = dict(trainable_parameters(model))
    missing, unexpected = parameters.keys() - state.keys(), state.keys() - parameters.keys()
    if missing or unexpected:
        raise InputError(f'{file}: optimizer state: {len(missing)} missing '
                         f'{sorted(missing)[:3]}, {len(unexpected)} unexpected '
                         f'{sorted(unexpected)[:3]}, expected the parameters of this model')
    kinds = {slot_names(slots) for slots in state.values()}
    if len(kinds) != 1 or not all(kinds):
        raise InputError(f'{file}: optimizer state: got other slots for some parameters than for '
                         f'the rest, or none; expected the same for all')
    kind, = kinds
    name = type(unsharded(optimizer)).__name__
    if not SLOTS[name] <= kind:
        raise InputError(f'{file}: optimizer state: got {sorted(kind)}, expected that of '
                         f'{name}; TRAIN.OPTIMIZER.NAME has changed')
    has_master = any('master_weight' in slots for slots in state.values())
    if has_master != any('float16' in str(p.dtype) for p in parameters.values()):
        got = 'master weights' if has_master else 'no master weights'
        raise InputError(f'{file}: optimizer state: got {got}; AMP_LEVEL O2 must be on or off as '
                         f'it was before')


def slot_names(slots):
    """The names of one parameter's slots without the master weight, which at O2 the norms have not,
    since they stay in float32; None if it is no dict."""
    if not isinstance(slots, dict):
        return None
    return frozenset(plain_slot(slot) for slot in slots if slot != 'master_weight')
