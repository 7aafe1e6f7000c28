"""The optimiser of a detector, and its learning rate as a function of the step."""
import bisect

import paddle

from common.config import ConfigNode


def build_optimizer(train: ConfigNode, model: paddle.nn.Layer) -> paddle.optimizer.Optimizer:
    """AdamW over all parameters; the training loop sets the rate.

    Args:
        train: the TRAIN node of a detector's config.
        model: a Detector.

    Source: `paramwise_cfg` of upstream's configs: names with one of NO_DECAY in them are not
    decayed, biases and the BatchNorm of convolutions are. Words count within the backbone only:
    mmdetection calls the norms of its heads otherwise.
    """
    decayed = {parameter.name for name, parameter in model.named_parameters()
               if not is_left_out(name, train.NO_DECAY)}
    return paddle.optimizer.AdamW(
        learning_rate=train.BASE_LR, beta1=train.BETAS[0], beta2=train.BETAS[1], epsilon=1e-8,
        weight_decay=train.WEIGHT_DECAY, parameters=model.parameters(),
        apply_decay_param_fun=lambda name: name in decayed)


def is_left_out(name, words):
    """Whether the weight decay leaves out a parameter of a Detector."""
    return '.backbone.' in f'.{name}' and any(word in name for word in words)


class StepSchedule:
    """The learning rate: a linear rise, then a constant that falls after some epochs.

        steps u < W:  base * f^m * (r + (1 - r) * u / W)
        else:         base * f^m,  m = how many milestones of epochs are over

    with W = WARMUP_STEPS, r = WARMUP_FACTOR, f = LR_FACTOR.

    Args:
        train: the TRAIN node of a detector's config.
        steps_per_epoch: whole number.
        global_batch: images of a step over all devices.

    Source: `lr_config` of mmdetection, policy 'step' with linear warm-up.

    Examples:
        >>> from common.engines.detection.config import read_config
        >>> from common.engines.detection.optim import StepSchedule
        >>> schedule = StepSchedule(read_config().TRAIN, steps_per_epoch=1000, global_batch=16)
        >>> [round(schedule(step), 9) for step in (0, 250, 500, 7999, 8000, 11000)]
        [1e-07, 5.005e-05, 0.0001, 0.0001, 1e-05, 1e-06]
    """

    def __init__(self, train: ConfigNode, steps_per_epoch: int, global_batch: int):
        self.train, self.steps_per_epoch = train, steps_per_epoch
        self.base_lr = train.BASE_LR
        if train.BATCH_OF_LR is not None:
            self.base_lr *= global_batch / train.BATCH_OF_LR

    def __call__(self, step):
        """The rate of step `step`, counted from 0 over the whole run."""
        train = self.train
        over = bisect.bisect_right(train.MILESTONES, step // self.steps_per_epoch)
        rate = self.base_lr * train.LR_FACTOR ** over
        if step < train.WARMUP_STEPS:
            first = train.WARMUP_FACTOR
            rate *= first + (1 - first) * step / train.WARMUP_STEPS
        return rate
