"""The two loops: one epoch of training, one pass of evaluation.

B is the batch of one micro-batch on one rank, K the classes. Sums stay on the device; the loops
themselves wait for it once for each line of the log, not at each step.
"""
import time

import paddle
import paddle.nn.functional as F

from common.core import dist
from common.core.errors import InputError
from common.core.randomness import seed_step


def train_one_epoch(model, batches, criterion, optimizer, schedule, precision, *, epoch,
                    steps_per_epoch, first_step=0, last_step=None, accum_iter=1, grad_clip=None,
                    ema=None, seed=0, report_freq=20, max_skipped=0, sums=None, on_update=None,
                    on_step=None, on_report=None):
    """Trains over the batches of one epoch.

    Args:
        model: a Layer or its DataParallel.
        batches: iterator of (images [B, 3, H, W], target [B] or [B, K]); `accum_iter` of them make
            one optimiser step.
        criterion: (logits, target) -> mean loss.
        optimizer: made by common.train.optim.build_optimizer.
        schedule: step of the whole run, from 0 -> learning rate.
        precision: common.train.precision.Precision.
        epoch: from 1.
        steps_per_epoch: optimiser steps.
        first_step: optimiser steps of this epoch that are already done.
        last_step: where in the epoch to stop; None is its end.
        grad_clip: largest global gradient norm, or None.
        ema: common.train.ema.Ema, updated after each optimiser step, or None.
        seed: of dropout and drop path.
        report_freq: optimiser steps between two reports.
        max_skipped: how many steps in a row may be left out because a gradient is not finite.
        sums: [loss, correct, seen] since the last report before `first_step`, or None.
        on_update: called with (step, sums) after each optimiser step, before a report; it may
            raise. The step is counted from 1 in the epoch.
        on_step: the same, after the report.
        on_report: called with a dict of the report's figures, equal on all ranks.

    Raises:
        InputError: the loss is not finite, on all ranks at the same step; or too many gradients.
    """
    model.train()
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    sums = paddle.zeros([3], 'float64') if sums is None else paddle.to_tensor(sums, 'float64')
    skipped = 0
    batches = iter(batches)
    data_time, start = 0.0, time.perf_counter()
    last_step = steps_per_epoch if last_step is None else last_step
    for step in range(first_step, last_step):
        lr = schedule((epoch - 1) * steps_per_epoch + step)
        optimizer.set_lr(lr)
        for micro in range(accum_iter):
            fetch = time.perf_counter()
            images, target = next(batches)
            data_time += time.perf_counter() - fetch
            seed_step(seed, epoch, step * accum_iter + micro, dist.rank())
            last = micro == accum_iter - 1
            with dist.no_sync(model, when=not last):
                new = backward(model, images, target, criterion, precision, accum_iter)
            # a step that will be left out has no part in the report
            sums += paddle.where(paddle.isfinite(new[0]), new, paddle.zeros_like(new)) \
                if max_skipped else new
        if max_skipped and not precision.scaler and not gradients_are_finite(parameters):
            skipped += 1
            if skipped > max_skipped:
                raise InputError(f'epoch {epoch}, step {step + 1}: got {skipped} steps in a row '
                                 f'with a gradient that is not finite, expected at most '
                                 f'TRAIN.MAX_SKIPPED {max_skipped}')
            optimizer.clear_grad(set_to_zero=False)
        else:
            skipped = 0
            update(optimizer, parameters, grad_clip, precision)
            if ema:
                ema.update()
        if on_update:
            on_update(step + 1, sums)
        if (step + 1) % report_freq == 0 or step + 1 == last_step:
            loss, acc1, seen = reduce_means(sums)
            if not loss < float('inf'):  # also False for NaN
                raise InputError(f'epoch {epoch}, step {step + 1}: the training loss is {loss}; '
                                 f'a lower TRAIN.BASE_LR or a TRAIN.GRAD_CLIP may help')
            elapsed = time.perf_counter() - start
            if on_report:
                on_report({'epoch': epoch, 'step': step + 1, 'loss': loss, 'acc1': acc1, 'lr': lr,
                           'images_per_s': seen / elapsed, 'data_share': data_time / elapsed})
            sums, data_time, start = paddle.zeros([3], 'float64'), 0.0, time.perf_counter()
        if on_step:
            on_step(step + 1, sums)


@paddle.no_grad()
def gradients_are_finite(parameters):
    """Gradients are means over the ranks, so that all ranks get the same answer."""
    finite = [paddle.isfinite(p.grad).all() for p in parameters if p.grad is not None]
    return bool(paddle.stack(finite).all())


def backward(model, images, target, criterion, precision, accum_iter):
    """Forward and backward of one micro-batch; returns [loss * B, correct, B] on the device."""
    with precision.autocast():
        logits = model(images)                                      # [B, K]
        loss = criterion(logits, target)
    scaled = loss / accum_iter if accum_iter > 1 else loss
    (precision.scaler.scale(scaled) if precision.scaler else scaled).backward()
    with paddle.no_grad():
        labels = target if target.ndim == 1 else target.argmax(axis=-1)
        correct = (logits.argmax(axis=-1) == labels).astype('float64').sum()
        B = images.shape[0]
        return paddle.stack([loss.detach().astype('float64') * B, correct,
                             paddle.full([], B, 'float64')])


def update(optimizer, parameters, grad_clip, precision):
    """One optimiser step: unscale, clip, step, clear."""
    scaler = precision.scaler
    if scaler:
        scaler.unscale_(optimizer)
    if grad_clip is not None:
        clip_by_global_norm(parameters, grad_clip)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.clear_grad(set_to_zero=False)


@paddle.no_grad()
def clip_by_global_norm(parameters, max_norm):
    """g * min(1, max_norm / (norm + 1e-6)) with the L2 norm of all gradients, as PyTorch does it.

    The norm is computed in float32 at least; at O2 gradients are of several types.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    wide = paddle.float64 if any(g.dtype == paddle.float64 for g in gradients) else paddle.float32
    norm = paddle.stack([(g.astype(wide) ** 2).sum() for g in gradients]).sum().sqrt()
    scale = paddle.clip(max_norm / (norm + 1e-6), max=1.0)
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


@paddle.no_grad()
def evaluate(model, batches, precision, real_mask=None):
    """Loss and accuracy over the batches of all ranks; each sample counts once.

    Args:
        model: a Layer (not its DataParallel: ranks may have different numbers of batches).
        batches: iterator of (images [B, 3, H, W], labels [B]).
        precision: common.train.precision.Precision.
        real_mask: called for the batch that was read last, gives bool [B, K], the right classes
            of each image by the ReaL labels; or None.

    Returns:
        dict: loss (mean cross entropy), acc1, acc5 (among the top min(5, K)), as shares of 1,
        and seen, the number of images; with real_mask also real_acc1 and real_seen, the number
        of images that have such a label.
    """
    model.eval()
    sums = paddle.zeros([6], 'float64')
    for images, labels in batches:
        with precision.autocast():
            logits = model(images)                                       # [B, K]
        logits = logits.astype('float32')
        loss = F.cross_entropy(logits, labels, reduction='none').astype('float64').sum()
        top = logits.topk(min(5, logits.shape[1]), axis=1)[1]            # [B, min(5, K)]
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
