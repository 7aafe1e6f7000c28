"""Detections on a user's images: pictures, and a table as JSON."""
import json
import os

import numpy as np

from common.core.errors import complain, one_line, say
from common.core.files import replace_atomically
from common.data.images import load_image
from common.engines.detection.data import to_batch
from common.engines.detection.draw import draw
from common.engines.detection.predict import predict_batch
from common.engines.detection.transforms import resize


def batch_of(pixels, data):
    """The batch of one image, uint8 [H, W, 3]."""
    nothing = {'boxes': np.zeros([0, 4], np.float32), 'labels': np.zeros(0, np.int32),
               'polygons': []}
    sample = resize({'image': pixels, **nothing}, data.TEST_SHORT_SIDE, data.MAX_SIDE)
    return to_batch([{**sample, 'im_id': 0, 'size': pixels.shape[:2]}], data)


def infer(predict, files, output, class_names, threshold):
    """Writes a picture for each image, and detections.json; a bad image is reported, and the others
    go on.

    Args:
        predict: uint8 [H, W, 3] -> Prediction.
        files: image files.
        output: folder, made if it is missing.
        class_names: list of str.
        threshold: least score.

    Returns:
        How many images could not be read.
    """
    os.makedirs(output, exist_ok=True)
    table, bad, used = [], 0, set()
    for file in files:
        try:
            pixels = np.asarray(load_image(file, upright=True))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            bad += 1
            reason = getattr(error, 'strerror', None) or one_line(error)
            complain(f'{file}: cannot read the image: {reason}')
            continue
        prediction = predict(pixels)
        shown = np.flatnonzero(prediction.scores >= threshold)
        name = free_name(os.path.splitext(os.path.basename(file))[0], used)
        path = os.path.join(output, name)
        with replace_atomically(path) as temporary:
            draw(pixels, prediction, class_names, threshold).save(temporary, 'PNG')
        table.append({'file': file, 'picture': name, 'detections': [
            {'class': class_names[prediction.labels[index]],
             'score': round(float(prediction.scores[index]), 4),
             'box': [round(float(value), 1) for value in prediction.boxes[index]]}
            for index in shown]})
        say(f'{file}: {len(shown)} detections, {path}')
    with replace_atomically(os.path.join(output, 'detections.json')) as temporary, \
            open(temporary, 'w') as stream:
        json.dump(table, stream, indent=1)
    return bad


def free_name(stem, used):
    """STEM.png, or STEM-2.png where that is taken by another image of this run."""
    name, number = f'{stem}.png', 1
    while name in used:
        number += 1
        name = f'{stem}-{number}.png'
    used.add(name)
    return name


def predict_one(detector, data):
    """A function uint8 [H, W, 3] -> Prediction of a Detector."""
    return lambda pixels: predict_batch(detector, batch_of(pixels, data))[0]
