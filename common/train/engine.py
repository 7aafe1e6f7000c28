"""The two loops: one epoch of training, one pass of evaluation.

B is the batch of one micro-batch on one rank, K the classes. Sums stay on the device; the loops
themselves wait for it once for each line of the log, not at each step.
"""
import time

import paddle
import paddle.nn.functional as F
from paddle.profiler import RecordEvent  # does nothing unless steps are recorded

from common.core import dist
from common.core.errors import InputError
from common.core.parts import in_parts
from common.core.randomness import seed_step
from common.train.split_model import whole
from common.train.state import Callbacks, EpochSteps, LoopOptions, Meter, TrainState

CLIP_EPSILON = 1e-6  # PyTorch's, of clip_grad_norm_
TOP = 5  # the k of acc5


def train_one_epoch(state: TrainState, batches, options: LoopOptions, steps: EpochSteps,
                    callbacks: Callbacks, sums=None):
    """Trains over the batches of one epoch.

    Args:
        state: model, optimiser and what belongs to them.
        batches: iterator of (images [B, 3, H, W], target [B] or [B, K]); `options.accum_iter` of
            them make one optimiser step.
        options: see LoopOptions.
        steps: the steps that are to be done.
        callbacks: called at each step; may end the epoch by raising.
        sums: [loss, correct, seen] since the last report before `steps.first`, or None.

    Raises:
        InputError: the loss is not finite, on all ranks at the same step; or too many gradients.
    """
    state.model.train()
    meter, batches, skipped = Meter(sums), iter(batches), 0
    for step in range(steps.first, steps.end):
        lr = state.schedule(steps.step_of_run(step))
        state.optimizer.set_lr(lr)
        accumulate_gradients(state, batches, options, steps.epoch, step, meter)
        if options.max_skipped and not state.precision.scaler \
                and not gradients_are_finite(state.parameters, state.split):
            skipped += 1
            if skipped > options.max_skipped:
                raise InputError(f'epoch {steps.epoch}, step {step + 1}: got {skipped} steps in a '
                                 f'row with a gradient that is not finite, expected at most '
                                 f'TRAIN.MAX_SKIPPED {options.max_skipped}')
            state.optimizer.clear_grad(set_to_zero=False)
        else:
            skipped = 0
            with RecordEvent('optimiser'):
                update(state.optimizer, state.parameters, options.grad_clip, state.precision,
                       state.split)
                if state.ema:
                    with RecordEvent('moving average'), whole(state, meet=False):
                        state.ema.update()
        callbacks.after_update(step + 1, meter.sums)
        if (step + 1) % options.report_freq == 0 or step + 1 == steps.end:
            callbacks.report(figures_of(meter, steps.epoch, step + 1, lr))
            meter.reset()
        callbacks.after_step(step + 1, meter.sums)


def accumulate_gradients(state, batches, options, epoch, step, meter):
    """Forward and backward passes of all micro-batches of one optimiser step."""
    for micro in range(options.accum_iter):
        images, target = meter.next(batches)
        seed_step(options.seed, epoch, step * options.accum_iter + micro, dist.rank())
        is_last = micro == options.accum_iter - 1
        # A DataParallel takes the backward pass within a recomputed block for a second one.
        with dist.no_sync(state.model, enabled=options.recompute or not is_last):
            sums = backward(state, images, target, options.accum_iter)
        if options.max_skipped:  # a step that will be left out has no part in the report
            sums = paddle.where(paddle.isfinite(sums[0]), sums, paddle.zeros_like(sums))
        meter.sums += sums
    if options.recompute and not state.split:
        dist.average_gradients(state.parameters)


def backward(state, images, target, accum_iter):
    """Forward and backward of one micro-batch; returns [loss * B, correct, B] on the device."""
    precision = state.precision
    with RecordEvent('forward'), precision.autocast():
        logits = state.model(images)                                # [B, K]
        loss = state.criterion(logits, target)
    parts = accum_iter * (state.split.ranks if state.split else 1)
    scaled = loss / parts if parts > 1 else loss
    if precision.scaler:
        scaled = precision.scaler.scale(scaled)
    with RecordEvent('backward'):
        scaled.backward()
    with paddle.no_grad():
        correct = is_correct(logits, target, state.multi_label).astype('float64').sum()
        B = images.shape[0]
        return paddle.stack([loss.detach().astype('float64') * B, correct,
                             paddle.full([], B, 'float64')])


def is_correct(logits, target, multi_label):
    """bool [B]: whether the class of the highest logit is the target's, or one of them."""
    top = logits.argmax(axis=-1)                                        # [B]
    if multi_label:
        return paddle.take_along_axis(target, top.unsqueeze(1), axis=1).squeeze(1) > 0.5
    return top == (target if target.ndim == 1 else target.argmax(axis=-1))


def figures_of(meter, epoch, step, lr):
    """The figures of a report: means over all ranks since the last one.

    Raises:
        InputError: the loss is not finite.
    """
    loss, acc1, seen = reduce_means(meter.sums)
    if not loss < float('inf'):  # also False for NaN
        raise InputError(f'epoch {epoch}, step {step}: the training loss is {loss}; a lower '
                         f'TRAIN.BASE_LR or a TRAIN.GRAD_CLIP may help')
    elapsed = time.perf_counter() - meter.start
    return {'epoch': epoch, 'step': step, 'loss': loss, 'acc1': acc1, 'lr': lr,
            'images_per_s': seen / elapsed, 'data_share': meter.data_time / elapsed}


@paddle.no_grad()
def gradients_are_finite(parameters, split=None):
    """Gradients are means over the ranks, so that all ranks get the same answer; with a SplitModel
    each rank looks at those that it has."""
    broken = [~paddle.isfinite(p.grad).all() for p in parameters if p.grad is not None]
    count = paddle.stack(broken).astype('float64').sum() if broken else paddle.zeros([], 'float64')
    return not (dist.all_reduce_sum(count) if split else count).item()


def update(optimizer, parameters, grad_clip, precision, split=None):
    """One optimiser step: unscale, clip, step, clear."""
    scaler = precision.scaler
    if scaler:
        scaler.unscale_(optimizer)
        if split:
            agree_on_overflow(scaler)
    if grad_clip is not None:
        with RecordEvent('clipping'):
            clip_by_global_norm(parameters, grad_clip, split)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.clear_grad(set_to_zero=False)


def agree_on_overflow(scaler):
    """Has all ranks leave out a step if a gradient is not finite on any: each has looked at its
    own."""
    if not isinstance(getattr(scaler, '_found_inf', None), paddle.Tensor):
        raise InputError(f'TRAIN.SHARDING 2 and 3 with a loss scaler: Paddle {paddle.__version__} '
                         f'has no GradScaler._found_inf, expected that of 2.6 to 3.3')
    scaler._found_inf = dist.all_reduce_sum(scaler._found_inf.astype('float64')) > 0


@paddle.no_grad()
def clip_by_global_norm(parameters, max_norm, split=None):
    """g * min(1, max_norm / (norm + CLIP_EPSILON)) with the L2 norm of all gradients, as PyTorch.

    The norm is computed in float32 at least; at O2 gradients are of several types. With a
    SplitModel it is of all ranks' gradients.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    wide = paddle.float64 if any(g.dtype == paddle.float64 for g in gradients) else paddle.float32
    # g ** 2 takes 40 times as long
    squares = [paddle.square(g.astype(wide)).sum() for g in gradients]
    total = paddle.stack(squares).sum() if squares else paddle.zeros([], wide)
    norm = (dist.all_reduce_sum(total.astype('float64')) if split else total).sqrt()
    scale = paddle.clip(max_norm / (norm + CLIP_EPSILON), max=1.0)
    for gradient in gradients:
        gradient.multiply_(scale.astype(gradient.dtype))


def average_statistics(model, ema=None):
    """Makes BatchNorm's running statistics, each rank's own, their mean over the ranks."""
    names = [name for name in model.state_dict() if name.endswith(('._mean', '._variance'))]
    for values in (model.state_dict(), ema.average if ema else {}):
        dist.average([values[name] for name in names if name in values])


def reduce_means(sums):
    """[loss sum, correct, seen] of this rank -> (mean loss, accuracy, seen) over all ranks."""
    loss, correct, seen = dist.all_reduce_sum(sums.clone()).tolist()
    return loss / max(seen, 1), correct / max(seen, 1), int(seen)


def logits_of(model, images, precision):
    """[B, 3, H, W] -> float32 [B, K], without gradients, on all cores of a CPU."""
    def forward(part):
        with precision.autocast():
            return model(part)

    return in_parts(model, forward, images).astype('float32')


@paddle.no_grad()
def evaluate(model, batches, precision, real_mask=None, observe=None):
    """Loss and accuracy over the batches of all ranks; each sample counts once.

    Args:
        model: a Layer (not its DataParallel: ranks may have different numbers of batches).
        batches: iterator of (images [B, 3, H, W], labels [B]).
        precision: common.train.precision.Precision.
        real_mask: called for the batch that was read last, gives bool [B, K], the right classes
            of each image by the ReaL labels; or None.
        observe: called with the logits of each batch, float32 [B, K]; or None.

    Returns:
        dict: loss (mean cross entropy), acc1, acc5 (among the top min(5, K)), as fractions of
        1, and seen, the number of images; with real_mask also real_acc1 and real_seen, the number
        of images that have such a label.
    """
    model.eval()
    sums = paddle.zeros([6], 'float64')
    for images, labels in batches:
        logits = logits_of(model, images, precision)                     # [B, K]
        if observe:
            observe(logits)
        loss = F.cross_entropy(logits, labels, reduction='none').astype('float64').sum()
        top = logits.topk(min(TOP, logits.shape[1]), axis=1)[1]            # [B, min(5, K)]
        hit = top == labels.unsqueeze(1)
        counts = [loss, hit[:, 0].sum(), hit.sum(), paddle.full([], images.shape[0], 'float64')]
        mask = paddle.to_tensor(real_mask()) if real_mask else paddle.zeros(logits.shape, 'bool')
        counts += [mask.astype('float32').take_along_axis(top[:, :1], axis=1).sum(),
                   mask.any(axis=1).sum()]
        sums += paddle.stack([count.astype('float64') for count in counts])
    loss, correct1, correct5, seen, real_correct, real_seen = dist.all_reduce_sum(sums).tolist()
    if seen == 0:
        raise InputError('evaluation: got no image')
    result = {'loss': loss / seen, 'acc1': correct1 / seen, 'acc5': correct5 / seen,
              'seen': int(seen)}
    if real_mask:
        result |= {'real_acc1': real_correct / max(real_seen, 1), 'real_seen': int(real_seen)}
    return result
