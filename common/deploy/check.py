"""Whether a graph computes what the model does: pictures to try, and by how much logits differ."""
import numpy as np
from PIL import Image

from common.apis import pixel_batches
from common.core.errors import InputError

# By how much logits may differ, relative to the largest one; rounding makes some 1e-6.
TOLERANCE = 1e-4
# The same for a model that samples at coordinates: rounding also moves the points.
SAMPLING_TOLERANCE = 1e-3
RANDOM_PICTURES, SPOTS = 4, 5  # each is SPOTS x SPOTS colours, made larger
MOST_IMAGES = 16
BATCH_SIZES = (1, 3)  # in turn: the graph must take any batch size


def random_pictures(image_size):
    """Smooth coloured noise, always the same.

    Args:
        image_size: (height, width) in pixels.

    Returns:
        uint8 [RANDOM_PICTURES, 3, H, W].
    """
    height, width = image_size
    generator = np.random.RandomState(0)
    spots = generator.randint(0, 256, (RANDOM_PICTURES, SPOTS, SPOTS, 3)).astype(np.uint8)
    pictures = [np.array(Image.fromarray(colours).resize((width, height),
                                                         Image.Resampling.BICUBIC))
                for colours in spots]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def read_pictures(preprocessing, images, most=MOST_IMAGES):
    """Some images of a list, from all parts of it.

    Returns:
        uint8 [N, 3, H, W], N at most `most`.

    Raises:
        InputError: one of them cannot be read.
    """
    step = max(1, -(-len(images) // most))
    pixels = []
    for batch, errors in pixel_batches(preprocessing, list(images)[::step]):
        for error in errors:
            if error:
                raise InputError(error)
        pixels.append(batch.copy())  # its memory is used again
    return np.concatenate(pixels)


def in_batches(classifier, pixels):
    """The logits of pictures, computed in batches of BATCH_SIZES.

    Args:
        classifier: uint8 [B, 3, H, W] -> float32 [B, K].
        pixels: uint8 [N, 3, H, W].

    Returns:
        float32 [N, K].
    """
    logits, first, turn = [], 0, 0
    while first < len(pixels):
        size = BATCH_SIZES[turn % len(BATCH_SIZES)]
        logits.append(classifier(pixels[first:first + size]))
        first, turn = first + size, turn + 1
    return np.concatenate(logits)


def tolerance_of(model):
    """By how much a graph's logits may differ from a model's, relative to the largest one."""
    samples = any(hasattr(layer, 'coordinates') for layer in model.sublayers())
    return SAMPLING_TOLERANCE if samples else TOLERANCE


def difference(expected, got):
    """By how much logits differ at most, relative to the largest expected one; float. Those of
    another shape are infinitely far."""
    if got.shape != expected.shape:
        return float('inf')
    return float(np.abs(got - expected).max() / (np.abs(expected).max() or 1.0))


def wrong(error, tolerance):
    """Says that logits differ by more than they may."""
    return f'its logits differ by {error:.2g} of the largest, expected at most {tolerance:g}'


def check(expected, got, tolerance, format):
    """Compares logits.

    Args:
        expected, got: {kind of picture: float [N, K]}, of the model and of the graph.
        tolerance: difference that is allowed, relative to the largest logit.
        format: 'paddle' or 'onnx', for the message.

    Returns:
        What export.json says about it: `tolerance`, and {'count': N, 'error': difference} by kind.

    Raises:
        InputError: the shapes differ, or the logits by more than the tolerance.
    """
    result = {'tolerance': tolerance}
    for kind, logits in expected.items():
        if got[kind].shape != logits.shape:
            raise InputError(f'export: the graph gives logits {list(got[kind].shape)} for '
                             f'{len(logits)} {kind}, expected {list(logits.shape)}')
        error = difference(logits, got[kind])
        if not error <= tolerance:  # a NaN is not
            raise InputError(f'export: the {format} graph is wrong: on {len(logits)} {kind} '
                             f'{wrong(error, tolerance)}; nothing is written')
        result[kind] = {'count': len(logits), 'error': error}
    return result
