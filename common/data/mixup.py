"""Mixup and CutMix of a batch of uint8 images, and the soft targets of both.

Image i of B is mixed with its partner, image B - 1 - i. For each image there is lam, the weight in
[0, 1] that the image itself keeps, and for CutMix a box (top, left, bottom, right), which is zeros
where Mixup was drawn. In CutMix the pixels inside the box are the partner's, and lam is then the
fraction of pixels outside it.

Label smoothing comes in here, before the targets are mixed, as in timm. Where nothing is mixed, the
target stays a label, and the loss smooths it (train/losses.py): so it is done once in either case.
"""
import math

import numpy as np

from common.core.errors import InputError

MODES = ('batch', 'pair', 'elem')


class Mixup:
    """Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) before normalisation.

    As FastCollateMixup of timm 0.4.12: float32 arithmetic, rounded to the nearest even number.

    Args:
        mixup_alpha, cutmix_alpha: lam ~ Beta(alpha, alpha); 0 switches this one off.
        prob: probability that a batch (batch), a pair (pair) or an image (elem) is mixed.
        switch_prob: probability of CutMix, where both are on.
        mode: batch: one draw for all images; pair: one for images i and B - 1 - i;
            elem: one for each image.
        label_smoothing: fraction of the target that is spread over all classes.
        num_classes: number of classes K.

    Raises:
        InputError: a wrong value.
    """

    def __init__(self, mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode='batch',
                 label_smoothing=0.1, num_classes=1000):
        for key, value, most in (('AUG.MIXUP', mixup_alpha, 1e6),
                                 ('AUG.CUTMIX', cutmix_alpha, 1e6),
                                 ('AUG.MIXUP_PROB', prob, 1),
                                 ('AUG.MIXUP_SWITCH_PROB', switch_prob, 1),
                                 ('TRAIN.LABEL_SMOOTHING', label_smoothing, 1)):
            if not 0.0 <= value <= most:
                raise InputError(f'{key}: got {value}, expected a number from 0 to {most:g}')
        if mixup_alpha == cutmix_alpha == 0.0:
            raise InputError('AUG.MIXUP: got 0, expected above 0, as AUG.CUTMIX is 0')
        if mode not in MODES:
            raise InputError(f'AUG.MIXUP_MODE: got {mode!r}, expected one of {", ".join(MODES)}')
        self.alphas = mixup_alpha, cutmix_alpha
        self.prob = prob
        self.switch_prob = switch_prob if all(self.alphas) else float(mixup_alpha == 0.0)
        self.mode = mode
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def __call__(self, images, labels, random):
        """Mixes a batch; the input is not changed.

        Args:
            images: uint8 [B, 3, H, W], B even (in every mode, as in timm).
            labels: int64 [B], in [0, K); or a target of multi-label images, float32 [B, K], which
                is smoothed already.
            random: numpy Generator.

        Returns:
            uint8 [B, 3, H, W] and the target, float32 [B, K]; for labels its rows have sum 1.

        Raises:
            InputError: an odd B.
        """
        check_even(len(images))
        lam, boxes = self.draw(len(images), *images.shape[2:], random)
        target = labels
        if labels.ndim == 1:
            target = smooth_one_hot(labels, self.num_classes, self.label_smoothing)
        return mix_images(images, lam, boxes), mix_targets(target, lam)

    def draw(self, batch_size, height, width, random):
        """lam, float64 [B], and boxes, int64 [B, 4], of one batch."""
        count = {'batch': 1, 'pair': batch_size // 2, 'elem': batch_size}[self.mode]
        lam, boxes = np.ones(count), np.zeros((count, 4), np.int64)
        for index in range(count):
            if random.random() >= self.prob:
                continue
            cutmix = random.random() < self.switch_prob
            alpha = self.alphas[cutmix]
            lam[index] = self.stored(random.beta(alpha, alpha))
            if cutmix:
                center = int(random.integers(height)), int(random.integers(width))
                boxes[index], outside = cutmix_box(height, width, lam[index], *center)
                lam[index] = self.stored(outside)
        if self.mode == 'batch':
            return lam.repeat(batch_size), boxes.repeat(batch_size, axis=0)
        if self.mode == 'pair':
            return np.concatenate([lam, lam[::-1]]), np.concatenate([boxes, boxes[::-1]])
        return lam, boxes

    def stored(self, lam):
        """timm keeps lam in float32 in the modes elem and pair."""
        return lam if self.mode == 'batch' else np.float32(lam)


def check_even(batch_size):
    """Raises InputError for an odd batch, whose middle image would have no partner."""
    if batch_size % 2:
        raise InputError(f'DATA.BATCH_SIZE: got {batch_size}, expected an even number with Mixup '
                         f'or CutMix')


def cutmix_box(height, width, lam, center_y, center_x):
    """A box with the fraction 1 - lam of an image's area around a centre, cut off at the edges.

    As timm 0.4.12, where a box of odd size n is n - 1 pixels wide (1.0 fixed that).

    Returns:
        (top, left, bottom, right), and the fraction of the area outside: the new lam.
    """
    ratio = math.sqrt(1.0 - lam)
    half_y, half_x = int(height * ratio) // 2, int(width * ratio) // 2
    top, bottom = max(center_y - half_y, 0), min(center_y + half_y, height)
    left, right = max(center_x - half_x, 0), min(center_x + half_x, width)
    area = (bottom - top) * (right - left)
    return (top, left, bottom, right), 1.0 - area / (height * width)


def mix_images(images, lam, boxes):
    """Mixes uint8 [B, 3, H, W] by lam [B] and boxes [B, 4]; a new uint8 array."""
    mixed = images.copy()
    for index, (top, left, bottom, right) in enumerate(boxes):
        partner = images[-1 - index]
        if bottom > top and right > left:
            mixed[index, :, top:bottom, left:right] = partner[:, top:bottom, left:right]
        elif lam[index] < 1.0:
            blend = images[index].astype(np.float32) * np.float32(lam[index])
            blend += partner.astype(np.float32) * np.float32(1.0 - lam[index])
            mixed[index] = np.rint(blend)
    return mixed


def mix_targets(target, lam):
    """target * lam + its partner's * (1 - lam), float32 [B, K]; lam is [B]."""
    lam = lam[:, np.newaxis]  # [B, 1]
    return target * lam.astype(np.float32) + target[::-1] * (1.0 - lam).astype(np.float32)


def smooth_one_hot(labels, num_classes, smoothing):
    """int64 [B] -> float32 [B, K]: smoothing / K, and 1 - smoothing more at the label."""
    off = smoothing / num_classes
    target = np.full((len(labels), num_classes), off, np.float32)
    target[np.arange(len(labels)), labels] = 1.0 - smoothing + off
    return target


def build_mixup(config):
    """The Mixup of a config, or None where AUG.MIXUP and AUG.CUTMIX are 0."""
    aug = config.AUG
    if not aug.MIXUP and not aug.CUTMIX:
        return None
    check_even(config.DATA.BATCH_SIZE)
    return Mixup(aug.MIXUP, aug.CUTMIX, aug.MIXUP_PROB, aug.MIXUP_SWITCH_PROB, aug.MIXUP_MODE,
                 config.TRAIN.LABEL_SMOOTHING, config.MODEL.NUM_CLASSES)
