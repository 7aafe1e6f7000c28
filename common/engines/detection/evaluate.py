"""Average precision of boxes and masks, by pycocotools; and the files of predictions.

A prediction file is a list of COCO's results: `bbox.json` with boxes [x, y, width, height],
`segm.json` with masks as run-length codes.
"""
import contextlib
import io
import json
import os

import numpy as np

from common.core.errors import InputError, one_line
from common.core.files import replace_atomically

KINDS = {'bbox': 'box', 'segm': 'mask'}  # pycocotools' names and ours
# pycocotools' first six figures
FIGURES = ('AP', 'AP50', 'AP75', 'AP_small', 'AP_medium', 'AP_large')


def to_results(image, prediction, categories):
    """The results of one image: {'bbox': list, 'segm': list}.

    Args:
        image: entry of the annotations.
        prediction: Prediction.
        categories: the categories' ids, by class.
    """
    from pycocotools import mask as codes
    found = {'bbox': [], 'segm': []}
    for index, (box, label, score) in enumerate(zip(prediction.boxes, prediction.labels,
                                                    prediction.scores, strict=True)):
        result = {'image_id': image['id'], 'category_id': categories[label],
                  'score': round(float(score), 6)}
        x1, y1, x2, y2 = (round(float(value), 3) for value in box)
        found['bbox'].append({**result, 'bbox': [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]})
        mask = prediction.pasted(index, (image['height'], image['width']))
        code = codes.encode(np.asfortranarray(mask.astype(np.uint8)))
        found['segm'].append({**result, 'segmentation': {
            'size': [image['height'], image['width']], 'counts': code['counts'].decode()}})
    return found


def write_results(folder, results):
    """Writes bbox.json and segm.json."""
    for kind, found in results.items():
        path = os.path.join(folder, f'{kind}.json')
        with replace_atomically(path) as temporary, open(temporary, 'w') as stream:
            json.dump(found, stream)


def read_results(folder):
    """The content of bbox.json and segm.json. Raises InputError if one cannot be read."""
    found = {}
    for kind in KINDS:
        file = os.path.join(folder, f'{kind}.json')
        try:
            with open(file) as stream:
                found[kind] = json.load(stream)
        except OSError as error:
            raise InputError(f'{file}: cannot read it: {error.strerror}; expected the predictions '
                             f'that `eval` writes') from None
        except ValueError as error:
            raise InputError(f'{file}: no json: {one_line(error)}') from None
    return found


def evaluate_results(annotation_file: str | os.PathLike, results: dict) -> dict:
    """Evaluates predictions.

    Args:
        annotation_file: json in COCO's layout.
        results: {'bbox': list of results, 'segm': list of results}, as COCO has them.

    Returns:
        {'box': {'AP': ..., 'AP50', 'AP75', 'AP_small', 'AP_medium', 'AP_large'}, 'mask': ...},
        fractions of 1; -1 where there is no such object.

    Raises:
        InputError: results for other images.

    Source: COCOeval of pycocotools; its printing is left out.
    """
    from pycocotools import mask as codes
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(os.fspath(annotation_file))
        truth.dataset.setdefault('info', {})  # own data may lack what is COCO's
        for annotation in truth.dataset['annotations']:
            annotation.setdefault('iscrowd', 0)
            if 'area' not in annotation:
                annotation['area'] = float(codes.area(truth.annToRLE(annotation)))
        for kind, found in results.items():
            strangers = {result['image_id'] for result in found} - set(truth.getImgIds())
            if strangers:
                raise InputError(f'{annotation_file}: got predictions for image_id '
                                 f'{sorted(strangers)[0]}, which is not among its images')
            if not found:
                figures[KINDS[kind]] = dict.fromkeys(FIGURES, 0.0)
                continue
            evaluation = COCOeval(truth, truth.loadRes([dict(item) for item in found]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            figures[KINDS[kind]] = {name: float(value) for name, value in
                                    zip(FIGURES, evaluation.stats, strict=False)}
    return figures


def result_text(figures):
    """'box AP 46.3 (50: 68.1, 75: 50.9), mask AP 41.8 (...)', in percent."""
    return ', '.join(f'{kind} AP {100 * value["AP"]:.1f} (50: {100 * value["AP50"]:.1f}, 75: '
                     f'{100 * value["AP75"]:.1f})' for kind, value in figures.items())
