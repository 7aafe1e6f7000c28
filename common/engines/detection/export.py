"""A detector as a graph for Paddle Inference: one image of a fixed size at a time.

FOLDER/model.json (Paddle 2.6: model.pdmodel), model.pdiparams, detection.json. Inputs are image
[1, 3, H, W], im_shape [1, 2] and scale_factor [1, 2], outputs boxes [N, 6], their number [1] and
masks [N, 28, 28]; see Detector. An image is resized to fit, and padded with zeros.
"""
import contextlib
import glob
import json
import os
import sys

import numpy as np
import paddle

from common.core.cores import core_count
from common.core.errors import InputError, one_line
from common.core.files import replace_atomically
from common.deploy.paddle_inference import Predictor
from common.deploy.silence import silenced
from common.engines.detection.config import read_config
from common.engines.detection.predict import predict_batch, split_predictions
from common.engines.detection.transforms import STRIDE, normalize

INPUTS = ('image', 'im_shape', 'scale_factor')
NO_SCORE = -1e9
CLOSE = 1e-2  # pixels, and probability, by which a graph may differ from the model


class OneImage(paddle.nn.Layer):
    """A Detector's forward pass for one image, without PaddleDetection's loops over images and
    their conditions, of which Paddle 3.3 makes no graph.

    There is one more box at the end, of score 0, so that no tensor is empty.

    Args:
        detector: Detector.
    """

    def __init__(self, detector):
        super().__init__()
        self.engine = detector.engine

    def forward(self, image, im_shape, scale_factor):
        """[1, 3, H, W], [1, 2], [1, 2] -> boxes [N, 6], [1], masks [N, 28, 28]; see Detector."""
        engine = self.engine
        inputs = {'image': image, 'im_shape': im_shape, 'scale_factor': scale_factor}
        maps = engine.neck(engine.backbone(inputs))
        rois = self.proposals(maps, im_shape)                               # [n, 4]
        count = paddle.shape(rois)[0:1].astype('int32')                     # [1]
        predicted, _ = engine.bbox_head(maps, [rois], count, inputs)
        if hasattr(engine.bbox_head, 'refined_rois'):  # of the cascade's last stage
            rois = engine.bbox_head.refined_rois[0]
        process = engine.bbox_post_process
        boxes, scores = process.decode(predicted, ([rois], count), im_shape, scale_factor)
        found, number, _ = process.nms(boxes, scores, process.num_classes)  # [N, 6], [1]
        found = paddle.concat([found, paddle.to_tensor([[0., 0., 0., 0., 1., 1.]])])
        number = number + 1
        masks = engine.mask_head(maps, found, number, inputs)
        return self.to_original(found, im_shape, scale_factor), number, masks

    def proposals(self, maps, im_shape):
        """The boxes of the RPN, [n, 4]."""
        head = self.engine.rpn_head
        features = head.rpn_feat(maps)
        anchors = head.anchor_generator(features)
        rois, scores, most = [], [], head.test_proposal.post_nms_top_n
        for feature, anchor in zip(features, anchors):  # noqa: B905 - to_static knows no strict
            roi, score, _, _ = head.test_proposal(
                head.rpn_rois_score(feature), head.rpn_rois_delta(feature), anchor, im_shape)
            rois.append(roi)
            scores.append(score.flatten())
        # topk needs as many: some are put beside the real ones, and left out again (a score is a
        # logit, so that real ones may be negative)
        rois = paddle.concat([*rois, paddle.zeros([most, 4])])
        scores = paddle.concat([*scores, paddle.full([most], 2 * NO_SCORE)])
        best, index = paddle.topk(scores, most)
        rois = paddle.gather(rois, index)
        # and a level without a proposal has given a box of area 0
        real = ((best > NO_SCORE).astype('int32') * (rois[:, 2] > rois[:, 0]).astype('int32')
                * (rois[:, 3] > rois[:, 1]).astype('int32'))
        return paddle.gather(rois, paddle.nonzero(real).flatten())

    def to_original(self, found, im_shape, scale_factor):
        """Boxes [N, 6] in pixels of the original image; those without an area get class -1."""
        scale = paddle.concat([scale_factor[:, 1:], scale_factor[:, :1]] * 2, axis=1)  # [1, 4]
        size = paddle.floor(im_shape / scale_factor + 0.5)                 # [1, 2]: H, W
        limit = paddle.concat([size[:, 1:], size[:, :1]] * 2, axis=1)
        boxes = paddle.minimum(paddle.maximum(found[:, 2:] / scale, paddle.zeros([1, 4])), limit)
        has_area = ((boxes[:, 2:3] > boxes[:, 0:1]).astype('float32')
                    * (boxes[:, 3:4] > boxes[:, 1:2]).astype('float32'))   # [N, 1]
        labels = found[:, 0:1] * has_area - (1 - has_area)
        return paddle.concat([labels, found[:, 1:2], boxes], axis=1)


def batch_of_size(pixels, size, data):
    """The batch of one image [H, W, 3], resized into `size` (height, width) and padded."""
    import cv2
    H, W = pixels.shape[:2]
    scale = min(size[0] / H, size[1] / W)
    height, width = max(1, min(round(H * scale), size[0])), max(1, min(round(W * scale), size[1]))
    image = normalize(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), data)
    padded = np.zeros([1, 3, *size], np.float32)
    padded[0, :, :height, :width] = image
    return {'image': padded, 'im_shape': np.array([[height, width]], np.float32),
            'scale_factor': np.array([[height / H, width / W]], np.float32)}


def export(detector, config, class_names, folder, size):
    """Writes the files, and compares the graph with the model on an image of noise and squares.

    Args:
        detector: Detector in evaluation mode.
        config: of read_config.
        class_names: list of str.
        folder: a new one.
        size: (height, width) of the images, multiples of 32.

    Returns:
        How many detections the comparison had.

    Raises:
        InputError: the size, or Paddle cannot make the graph, or it computes otherwise; no folder
            is left.
    """
    if min(size) < STRIDE or any(side % STRIDE for side in size):
        raise InputError(f'-size: got {size[0]} {size[1]}, expected multiples of {STRIDE}')
    if os.path.exists(folder):
        raise InputError(f'-output: {folder} exists, expected a new folder')
    os.makedirs(folder)
    try:
        specs = [paddle.static.InputSpec([1, 3, *size], 'float32', INPUTS[0]),
                 *(paddle.static.InputSpec([1, 2], 'float32', name) for name in INPUTS[1:])]
        with silenced(sys.stderr):
            paddle.jit.save(OneImage(detector), os.path.join(folder, 'model'), specs)
        for file in glob.glob(os.path.join(folder, '*.info')):
            os.remove(file)
        about = {'size': list(size), 'mean': config.DATA.MEAN, 'std': config.DATA.STD,
                 'class_names': class_names}
        with replace_atomically(os.path.join(folder, 'detection.json')) as temporary, \
                open(temporary, 'w') as stream:
            json.dump(about, stream, indent=1)
        return check(detector, folder, config, size)
    except BaseException as error:
        for file in glob.glob(os.path.join(folder, '*')):
            os.remove(file)
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        if isinstance(error, Exception) and not isinstance(error, (InputError, OSError)):
            raise InputError(f'export: Paddle {paddle.__version__} cannot make a graph: '
                             f'{one_line(error)}') from error
        raise


def check(detector, folder, config, size):
    """Compares a graph with its model; returns the number of detections."""
    random = np.random.default_rng(0)
    pixels = random.integers(60, 120, (*size, 3)).astype(np.uint8)
    for _ in range(8):
        top, left = (int(random.integers(0, max(side // 2, 1))) for side in size)
        pixels[top:top + size[0] // 4, left:left + size[1] // 4] = random.integers(0, 256, 3)
    expected, = predict_batch(detector, batch_of_size(pixels, size, config.DATA))
    found = ExportedDetector(folder).predict(pixels)
    if len(found.scores) != len(expected.scores) \
            or any(np.abs(a - b).max(initial=0) > CLOSE * max(1, np.abs(b).max(initial=0) / 100)
                   for a, b in zip(found, expected, strict=True)):
        raise InputError(f'{folder}: the graph finds other boxes than the model')
    return len(found.scores)


class ExportedDetector:
    """An export, run by Paddle Inference.

    Args:
        folder: what `export` has written.

    Attributes:
        class_names: list of str.

    Raises:
        InputError: files are missing, or of another Paddle.
    """

    def __init__(self, folder):
        try:
            with open(os.path.join(folder, 'detection.json')) as stream:
                about = json.load(stream)
            self.size, self.class_names = tuple(about['size']), about['class_names']
            config = read_config(None, [f'DATA.MEAN={about["mean"]}', f'DATA.STD={about["std"]}'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f'{folder}: no export of a detector: {one_line(error)}') from None
        self.data = config.DATA
        graphs = [os.path.join(folder, name) for name in ('model.json', 'model.pdmodel')
                  if os.path.isfile(os.path.join(folder, name))]
        if not graphs:
            raise InputError(f'{folder}: got no model.json or model.pdmodel')
        self.predictor = Predictor(folder, graphs[0], os.path.join(folder, 'model.pdiparams'),
                                   core_count())

    def predict(self, pixels):
        """uint8 [H, W, 3] -> Prediction."""
        return split_predictions(*self.predictor(batch_of_size(pixels, self.size, self.data)))[0]
