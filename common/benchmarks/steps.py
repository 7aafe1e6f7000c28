"""One step of a model as a function, and the times of functions that take turns."""
import time

import paddle
import paddle.nn.functional as F

from common.core.parts import in_parts
from common.train.adamw import AdamW

LEARNING_RATE = 1e-4  # any: the time does not depend on it


def inference_step(model, images, amp=None):
    """Makes a function that runs one forward pass.

    Args:
        model: a classifier.
        images: float [B, 3, H, W].
        amp: 'float16', 'bfloat16' or None, the type of mixed precision.
    """
    model.eval()

    def forward(part):
        with autocast(amp):
            return model(part)

    def step():
        in_parts(model, forward, images)
    return step


def training_step(model, images, amp=None, zero_gradients=False, optimizer=None):
    """Makes a function that runs one forward pass, backward pass and step of AdamW.

    Args:
        model, images, amp: as for `inference_step`.
        zero_gradients: whether to keep the gradients' memory, filled with zeros, as Paddle does
            without being told otherwise; the training loop frees it.
        optimizer: of the model; None is a new AdamW.
    """
    model.train()
    optimizer = optimizer or build_adamw(model)
    labels = labels_for(model, images)

    def step():
        with autocast(amp):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=zero_gradients)
    return step


def build_adamw(model):
    return AdamW(LEARNING_RATE, parameters=model.parameters())


def labels_for(model, images):
    """Labels of a batch, int64 [B]: 0, 1, 2, ..."""
    return paddle.arange(images.shape[0]) % model.num_classes


def autocast(amp):
    return paddle.amp.auto_cast(enable=amp is not None, dtype=amp or 'float16')


def seconds(step):
    """The time of one call, the device's work included."""
    start = time.perf_counter()
    step()
    if paddle.device.get_device().startswith('gpu'):
        paddle.device.cuda.synchronize()
    return time.perf_counter() - start


def measure(steps, rounds):
    """Times of several functions that take turns, after one warm-up.

    Args:
        steps: {name: function}.
        rounds: how often each is timed.

    Returns:
        {name: [seconds]}
    """
    for step in steps.values():
        seconds(step)
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times
