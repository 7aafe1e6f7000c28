"""Detection with PaddleDetection: models, losses, training, evaluation, export, the command."""
import contextlib
import copy
import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

from common import detection
from common.core.signals import Stopped, StopSignal
from common.engines.detection import train
from common.engines.detection.config import list_recipes, read_config
from common.engines.detection.data import load_batches, open_images, to_tensors
from common.engines.detection.evaluate import evaluate_results
from common.engines.detection.export import ExportedDetector, batch_of_size, export
from common.engines.detection.model import build_detector, without_empty_boxes
from common.engines.detection.predict import Prediction, paste_mask, predict_batch
from common.engines.detection.shapes import write_shapes
from common.engines.detection.tables import matching_recipes, measure, parameter_rows
from common.zoo import create_model
from tests.conftest import ROOT, refusal
from tests.test_detection_data import broken

pytestmark = pytest.mark.engines

TINY = ['MODEL.FPN_CHANNELS=16', 'MODEL.FC_CHANNELS=16', 'MODEL.MASK_CONVS=1',
        'MODEL.PROPOSALS_TRAIN=[40, 20]', 'MODEL.PROPOSALS_TEST=[20, 10]', 'MODEL.RPN_SAMPLES=16',
        'MODEL.BOX_SAMPLES=16', 'MODEL.SCORE=0.0', 'MODEL.DETECTIONS=5', 'DATA.BATCH_SIZE=2',
        'DATA.SHORT_SIDES=[64, 96]', 'DATA.TEST_SHORT_SIDE=64', 'DATA.MAX_SIDE=128',
        'TRAIN.WARMUP_STEPS=0', 'REPORT_FREQ=1']
RECIPE = 'mask_rcnn_vitaev2_vsa_shapes'
KINDS = ['mask_rcnn', 'cascade_mask_rcnn']


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes') / 'data'
    write_shapes(folder, train=6, val=3)
    return folder


def config_of(shapes, *options):
    return read_config(RECIPE, [*TINY, f'DATA.DATA_PATH={shapes}', *options])


def batch_of(config, indices=(0, 1), is_train=True):
    images = open_images(config, is_train)
    batch, = load_batches(images, [[(1, index) for index in indices]], config.DATA, 1)
    return batch


# Models

@pytest.mark.smoke
@pytest.mark.parametrize('kind', KINDS)
def test_every_parameter_learns_and_pictures_without_objects_do_not_stop_it(kind, shapes):
    config = config_of(shapes, f'MODEL.DETECTOR={kind}')
    paddle.seed(0)
    detector = build_detector(config)
    batch = batch_of(config)
    before = copy.deepcopy(batch['gt_poly'])
    losses = detector.losses(to_tensors(batch))
    assert batch['gt_poly'] == before  # the engine moves arrays to each box
    parts = [value.item() for name, value in losses.items() if name != 'loss']
    assert losses['loss'].item() == pytest.approx(sum(parts), rel=1e-5)
    assert len(parts) == (4 if kind == 'mask_rcnn' else 11) + (kind == 'mask_rcnn')
    losses['loss'].backward()
    still = [name for name, parameter in detector.named_parameters()
             if parameter.grad is None and not parameter.stop_gradient]
    assert not still
    for key, empty in (('gt_bbox', np.zeros([0, 4], np.float32)),
                       ('gt_class', np.zeros([0, 1], np.int32)), ('gt_poly', [])):
        batch[key] = [empty, batch[key][1]]
    assert np.isfinite(detector.losses(to_tensors(batch))['loss'].item())
    for key in ('gt_bbox', 'gt_class', 'gt_poly'):
        batch[key] = [batch[key][0]] * 2
    assert np.isfinite(detector.losses(to_tensors(batch))['loss'].item())


@pytest.mark.smoke
def test_level_without_a_proposal_leaves_all_gradients_finite(shapes):
    """Paddle gives a box of zeros there, which RoIAlign makes NaN."""
    config = config_of(shapes)
    paddle.seed(0)
    detector = build_detector(config)
    head = detector.engine.rpn_head
    real = head.train_proposal

    def nothing_on_the_last_levels(scores, bbox_deltas, anchors, im_shape):
        if anchors.shape[0] > 16:
            return real(scores, bbox_deltas, anchors, im_shape)
        return (paddle.zeros([1, 4]), paddle.full([1, 1], 9.0), paddle.to_tensor([1]),
                real.post_nms_top_n)

    head.train_proposal = nothing_on_the_last_levels
    losses = detector.losses(to_tensors(batch_of(config)))
    losses['loss'].backward()
    wrong = [name for name, parameter in detector.named_parameters()
             if parameter.grad is not None and not np.isfinite(parameter.grad.numpy()).all()]
    assert not wrong
    assert without_empty_boxes(paddle.to_tensor([[0., 0., 0., 0.], [1., 1., 3., 4.]])).tolist() \
        == [[1, 1, 3, 4]]
    assert without_empty_boxes(paddle.zeros([2, 4])).tolist() == [[0, 0, 1, 1]]


@pytest.mark.smoke
def test_masks_of_a_cascade_are_the_mean_of_three_heads(shapes):
    config = config_of(shapes, 'MODEL.DETECTOR=cascade_mask_rcnn')
    detector = build_detector(config)
    head = detector.engine.mask_head
    batch = to_tensors(batch_of(config, is_train=False))
    detector.eval()
    with paddle.no_grad():
        maps = detector.engine.neck(detector.engine.backbone(batch))
        rois = paddle.to_tensor([[0., .9, 5., 5., 40., 40.], [1., .8, 10., 0., 60., 30.],
                                 [2., .7, 0., 0., 20., 20.]])
        counts = paddle.to_tensor([2, 1], dtype='int32')
        parts = [part(maps, rois, counts, batch).numpy() for part in head.heads]
        masks = head(maps, rois, counts, batch).numpy()
    assert len(parts) == 3 and masks.shape == (3, 28, 28)
    np.testing.assert_allclose(masks, np.mean(parts, 0), rtol=1e-5, atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3  # each has weights of its own


def decoded(deltas, rois, weights):
    """Boxes [n, 4] that deltas make of rois, plainly."""
    size = rois[:, 2:] - rois[:, :2]
    centre = rois[:, :2] + size / 2 + deltas[:, :2] / weights[:2] * size
    half = size * np.exp(deltas[:, 2:] / weights[2:]) / 2
    return np.concatenate([centre - half, centre + half], 1)


def giou(a, b):
    def area(box):
        return np.prod(np.clip(box[:, 2:] - box[:, :2], 0, None), 1)
    inner = np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], 1)
    outer = np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], 1)
    union = area(a) + area(b) - area(inner)
    return area(inner) / union - (area(outer) - union) / area(outer)


@pytest.mark.smoke
def test_loss_of_a_stage_is_the_giou_of_the_decoded_boxes_of_the_true_class(shapes):
    """PaddleDetection alone has the first stage's weights for all (see cascade.py)."""
    head = build_detector(config_of(shapes, 'MODEL.DETECTOR=cascade_mask_rcnn')).engine.bbox_head
    random = np.random.default_rng(0)
    rois = np.array([[0, 0, 20, 30], [10, 5, 50, 25], [3, 3, 9, 40], [0, 0, 8, 8]], np.float32)
    true = (rois + random.uniform(-1, 1, [4, 4])).astype(np.float32)
    labels = np.array([2, 0, 1, 3])  # 3 is the background
    deltas = random.normal(0, 1, [4, 12]).astype(np.float32)
    scores = paddle.to_tensor(random.normal(0, 1, [4, 4]).astype(np.float32))
    targets = ([paddle.to_tensor(labels)], [paddle.to_tensor(true)], None)
    for weights in head.bbox_weight:
        loss = head.stage_loss(scores, paddle.to_tensor(deltas), targets, [paddle.to_tensor(rois)],
                               weights)['loss_bbox_reg'].item()
        own = deltas.reshape(4, 3, 4)[np.arange(3), labels[:3]]
        boxes = decoded(own, rois[:3], np.array(weights))
        expected = 10 * (1 - giou(boxes, true[:3].astype(float))).sum() / 4
        assert loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.smoke
def test_stages_sample_by_their_own_iou_and_true_boxes_do_not_pass_on(shapes):
    config = config_of(shapes, 'MODEL.DETECTOR=cascade_mask_rcnn', 'MODEL.BOX_SAMPLES=8')
    head = build_detector(config).engine.bbox_head
    true = np.array([[0, 0, 40, 40]], np.float32)
    rois = np.array([[0, 0, 40, 40 * iou] for iou in (0.95, 0.65, 0.55, 0.3)], np.float32)
    inputs = {'gt_bbox': [paddle.to_tensor(true)],
              'gt_class': [paddle.to_tensor(np.array([[1]], np.int32))]}
    for stage, expected in enumerate((3, 2, 1)):
        chosen, _, (labels, boxes, _) = head.bbox_assigner(
            [paddle.to_tensor(rois)], None, inputs, stage)
        found = {tuple(roi) for roi, label in zip(chosen[0].numpy().tolist(), labels[0].tolist(),
                                                  strict=True) if label == 1}
        # a quarter of 8 samples; the true box is one of those that may be drawn
        assert len(found) == min(2, expected + 1)
        good = {(0.0, 0.0, 40.0, 40.0), *(tuple(roi) for roi in rois[:expected].tolist())}
        assert found <= good
        from common.engines.detection.cascade import without_true_boxes
        kept, = without_true_boxes(chosen, chosen, boxes)
        assert [0.0, 0.0, 40.0, 40.0] not in kept.numpy().tolist()


# (published rows whose figures contradict others of the same tables; what is built is between)
ODD = {
    # the same model has 37 here and 39 in the 3x row, and 77 with the cascade
    'mask_rcnn_vitaev2_window_s_1x': 2.1, 'mask_rcnn_vitaev2_vsa_s_1x': 2.5,
    # full attention has as many parameters as windows, for which the table says 39 and 77
    'mask_rcnn_vitaev2_s_1x': 2.1, 'mask_rcnn_vitaev2_s_3x': 2.1,
    'cascade_mask_rcnn_vitaev2_s_1x': 1.9, 'cascade_mask_rcnn_vitaev2_s_3x': 1.9,
    # the cascade adds 39 here and 38 in all other rows
    'mask_rcnn_vitaev2_vsa_48m_1x': 1.7, 'mask_rcnn_vitaev2_vsa_48m_3x': 1.7}
COUNTED = [name for name in list_recipes() if re.search('swin_(tiny|small)_|_s_[13]x|48m_3x', name)]


def test_recipes_are_found_by_patterns():
    assert matching_recipes(['mask*vsa_s_?x', 'cascade*vitaev2_s_1x']) == [
        'cascade_mask_rcnn_vitaev2_s_1x', 'mask_rcnn_vitaev2_vsa_s_1x',
        'mask_rcnn_vitaev2_vsa_s_3x']
    assert "got 'mask', expected the name or a pattern" in refusal(matching_recipes, ['mask'])



def test_parameters_are_the_published_ones():
    """Schedules do not change them, so one recipe of each model is built."""
    built, counts = {}, {}
    for name in COUNTED:
        config = read_config(name)
        key = config.MODEL.DETECTOR, config.MODEL.BACKBONE
        if config.ZOO.PARAMETERS is None:
            continue
        if key not in built:
            (_, built[key], *_), = parameter_rows([name])
        counts[name] = built[key] / 1e6, config.ZOO.PARAMETERS
    assert len(counts) == 20
    for name, (count, published) in counts.items():
        low, high = (0.5, 0.5) if name not in ODD else (0.0, ODD[name])
        assert published - low <= count <= published + high, (name, count, published)
    for model in {model for _, model in built}:  # box convolutions and heads of the stages
        with_cascade, plain = (built.get((kind, model)) for kind in reversed(KINDS))
        assert with_cascade - plain == 37_842_000 or abs(with_cascade - plain - 37.8e6) < 0.1e6


# Predictions

@pytest.mark.smoke
def test_pasted_mask_is_the_engine_s():
    from ppdet.modeling.post_process import paste_mask as reference
    random = np.random.default_rng(0)
    H, W = 37, 53
    for box in ([3.2, 4.7, 30.1, 20.9], [-4, -3, 20, 50], [40.5, 10.2, 60, 36.9],
                [10, 10, 10.4, 30], [0, 0, 53, 37]):
        coarse = random.random([7, 7]).astype(np.float32)
        mask = np.kron(coarse, np.ones([4, 4], np.float32)) * .998 + .001
        expected = reference(paddle.to_tensor(mask[None, None]),
                             paddle.to_tensor(np.array([box], np.float32)), H, W).numpy()[0]
        sure = np.abs(expected - 0.5) > 1e-3
        assert (paste_mask(mask, box, (H, W)) == (expected >= 0.5))[sure].all(), box


@pytest.mark.smoke
def test_predictions_are_in_pixels_of_the_original_image(shapes):
    config = config_of(shapes, 'DATA.TEST_SHORT_SIDE=96')
    detector = build_detector(config)
    detector.eval()
    batch = batch_of(config, is_train=False)
    found = predict_batch(detector, batch)
    images = open_images(config, False).images
    for prediction, image in zip(found, images, strict=False):
        assert 0 < len(prediction.scores) <= 5 and (np.diff(prediction.scores) <= 0).all()
        assert prediction.masks.shape == (len(prediction.scores), 28, 28)
        assert (prediction.boxes >= 0).all()
        assert (prediction.boxes[:, 2] <= image['width']).all()
        assert (prediction.boxes[:, 3] <= image['height']).all()
    assert not detector.training
    # one at a time gives the same boxes, if both images have the same size with padding
    assert found[0].labels.max() < 3


def perfect(annotations):
    """The predictions that are the truth, with some wrong ones."""
    from pycocotools import mask as codes
    content = json.loads(annotations.read_text())
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    found = {'bbox': [], 'segm': []}
    for number, item in enumerate(content['annotations']):
        wrong = number % 4 == 0
        result = {'image_id': item['image_id'], 'score': 0.9 - 0.01 * number,
                  'category_id': item['category_id'] % 3 + 1 if wrong else item['category_id']}
        found['bbox'].append({**result, 'bbox': [value + number % 5 for value in item['bbox']]})
        code = codes.merge(codes.frPyObjects(item['segmentation'], *sizes[item['image_id']]))
        found['segm'].append({**result, 'segmentation': {
            'size': list(sizes[item['image_id']]), 'counts': code['counts'].decode()}})
    return found


@pytest.mark.smoke
def test_evaluation_of_saved_predictions_is_that_of_pycocotools(shapes, tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    annotations = shapes / 'annotations' / 'train.json'
    found = perfect(annotations)
    figures = evaluate_results(annotations, found)
    for kind, name in (('bbox', 'box'), ('segm', 'mask')):
        file = tmp_path / f'{kind}.json'
        file.write_text(json.dumps(found[kind]))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(annotations))
            plain = COCOeval(truth, truth.loadRes(str(file)), kind)
            plain.evaluate()
            plain.accumulate()
            plain.summarize()
        assert list(figures[name].values()) == plain.stats[:6].tolist()
        assert 0.2 < figures[name]['AP'] < 1
    detection.main(['eval', '-cfg', RECIPE, '-data_path', str(shapes), '-predictions',
                    str(tmp_path), '-o', 'DATA.VAL_JSON=annotations/train.json'])
    said = capsys.readouterr().out
    assert f'box AP {100 * figures["box"]["AP"]:.1f}' in said
    assert f'mask AP {100 * figures["mask"]["AP"]:.1f}' in said
    found['bbox'][0]['image_id'] = 999
    assert 'image_id 999' in refusal(evaluate_results, annotations, found)


def test_own_annotations_without_area_are_evaluated(shapes, tmp_path):
    def no_area(content):
        for item in content['annotations']:
            del item['area'], item['iscrowd']
    file = broken(shapes, tmp_path, no_area)
    annotations = shapes / 'annotations' / 'train.json'
    with_area, without = (evaluate_results(json_file, perfect(annotations))
                          for json_file in (annotations, file))
    assert with_area['box']['AP'] == without['box']['AP']


# Training

def run(config, stop_after=None, monkeypatch=None):
    """Trains in this process; a signal comes after some steps."""
    with StopSignal() as signals:
        if stop_after is not None:
            step = train.Trainer.train_step
            count = []

            def counted(self, *arguments):
                count.append(1)
                if len(count) == stop_after:
                    os.kill(os.getpid(), signal.SIGTERM)
                return step(self, *arguments)

            monkeypatch.setattr(train.Trainer, 'train_step', counted)
        try:
            return train.train(config, signals)
        finally:
            if stop_after is not None:
                monkeypatch.undo()


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [(line['epoch'], line['step'], line['loss']) for line in lines
            if line['kind'] == 'train']


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    """(folder of a run of two epochs of three steps, the result)."""
    output = tmp_path_factory.mktemp('runs')
    config = config_of(shapes, f'SAVE={output}', 'TRAIN.NUM_EPOCHS=2')
    result = run(config)
    folder, = output.iterdir()
    return folder, result


@pytest.mark.smoke
@pytest.mark.parametrize('steps', [2, 5])
def test_stopped_run_goes_on_with_the_same_losses(steps, trained, shapes, tmp_path, monkeypatch):
    """Within the first epoch, and within the second one."""
    folder, result = trained
    config = config_of(shapes, f'SAVE={tmp_path}', 'TRAIN.NUM_EPOCHS=2')
    with pytest.raises(Stopped) as stopped:
        run(config, steps, monkeypatch)
    assert stopped.value.code == 128 + signal.SIGTERM
    other, = tmp_path.iterdir()
    assert losses_of(other) == losses_of(folder)[:steps]
    (other / 'last.pdparams.tmp99999999').write_text('of a run that was killed')
    again = run(config_of(shapes, f'MODEL.RESUME={other}', 'TRAIN.NUM_EPOCHS=2'))
    assert len(losses_of(folder)) == 6 and losses_of(other) == losses_of(folder)
    assert again == result
    assert not [name for name in os.listdir(other) if '.tmp' in name]


def test_run_that_is_stopped_in_its_evaluation_evaluates_again(trained, shapes, tmp_path,
                                                               monkeypatch):
    _, result = trained
    real = train.evaluate_detector

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(train, 'evaluate_detector', stopped)
    with pytest.raises(Stopped):
        run(config_of(shapes, f'SAVE={tmp_path}', 'TRAIN.NUM_EPOCHS=2', 'TRAIN.EVAL_FREQ=2'))
    monkeypatch.undo()
    folder, = tmp_path.iterdir()
    assert not (folder / 'result.json').exists()
    steps = len(losses_of(folder))
    assert run(config_of(shapes, f'MODEL.RESUME={folder}', 'TRAIN.NUM_EPOCHS=2',
                         'TRAIN.EVAL_FREQ=2')) == result
    assert steps == len(losses_of(folder)) == 6  # nothing was trained again


def test_run_of_another_recipe_or_data_does_not_go_on(trained, shapes, tmp_path):
    folder, _ = trained
    before = (folder / 'last.pdparams').read_bytes()
    for options, message in (
            (['TRAIN.NUM_EPOCHS=2'], 'nothing to train: 2 of 2 epochs are done'),
            (['TRAIN.NUM_EPOCHS=3', 'TRAIN.BASE_LR=0.1'], 'TRAIN.BASE_LR: was 0.001, is 0.1')):
        config = config_of(shapes, f'MODEL.RESUME={folder}', *options)
        assert message in refusal(run, config)
    file = broken(shapes, tmp_path, lambda content: content['annotations'].pop())
    config = config_of(shapes, f'MODEL.RESUME={folder}', 'TRAIN.NUM_EPOCHS=3',
                       f'DATA.TRAIN_JSON={file}')
    assert 'is a run of another recipe: DATA.TRAIN_JSON' in refusal(run, config)
    assert (folder / 'last.pdparams').read_bytes() == before
    assert not (tmp_path / 'output').exists()


def test_wrong_inputs_leave_no_run(trained, shapes, tmp_path):
    folder, _ = trained
    classifier = tmp_path / 'classifier.pdparams'
    paddle.save(create_model('vit_digits').state_dict(), str(classifier))
    output = tmp_path / 'out'
    file = broken(shapes, tmp_path, lambda c: c['categories'][0].update(name='circle'))
    for options, message in (
            ([f'MODEL.PRETRAINED={classifier}'], 'not for this model'),
            (['DATA.BATCH_SIZE=7'], 'got 6 images, expected at least one'),
            ([f'DATA.VAL_JSON={file}'], 'got the categories circle, square, triangle, expected'),
            (['MODEL.BACKBONE=vitaev2_vsa_x'], 'vitaev2_vsa_x')):
        assert message in refusal(run, config_of(shapes, f'SAVE={output}', *options))
    assert not output.exists() or not list(output.iterdir())
    options = ['EVAL=true', f'SAVE={output}']
    for pretrained, message in ((classifier, 'got weights of no detector, expected those of one'),
                                (folder, 'these weights are not for this model')):
        config = config_of(shapes, f'MODEL.PRETRAINED={pretrained}', *options,
                           'MODEL.FPN_CHANNELS=24')
        assert message in refusal(train.evaluate, config, StopSignal())
    assert not output.exists() or not list(output.iterdir())


@pytest.mark.smoke
def test_weights_of_a_classifier_and_of_a_detector_start_a_training(trained, shapes, tmp_path):
    folder, _ = trained
    config = config_of(shapes)
    from common.engines.recipes import backbone_options
    classifier = create_model('vitaev2_vsa_s', **backbone_options(config))
    file = tmp_path / 'classifier.pdparams'
    paddle.save(classifier.state_dict(), str(file))
    from common.engines.detection.weights import build_for_training
    detector, _ = build_for_training(config_of(shapes, f'MODEL.PRETRAINED={file}'))
    state, own = detector.engine.state_dict(), classifier.state_dict()
    shared = [name for name in own if f'backbone.net.model.{name}' in state]
    assert len(shared) > 100
    for name in shared:
        assert (state[f'backbone.net.model.{name}'].numpy() == own[name].numpy()).all(), name
    # of a detector, for other classes
    detector, notes = build_for_training(config_of(
        shapes, f'MODEL.PRETRAINED={folder}', 'MODEL.NUM_CLASSES=5'))
    assert 'for other classes' in notes[0]
    saved = paddle.load(str(folder / 'best.pdparams'))['model']
    state = detector.engine.state_dict()
    assert (state['neck.fpn.fpn_res3_sum.weight'].numpy()
            == saved['neck.fpn.fpn_res3_sum.weight'].numpy()).all()
    assert state['bbox_head.bbox_score.weight'].shape[1] == 6


# The rest of the command

@pytest.mark.smoke
def test_eval_infer_and_export_of_a_run(trained, shapes, tmp_path, capsys):
    folder, result = trained
    detection.main(['eval', '-pretrained', str(folder / 'last.pdparams'), '-output',
                    str(tmp_path / 'eval')])
    made, = (tmp_path / 'eval').iterdir()
    assert json.loads((made / 'result.json').read_text()) == result
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    images = [str(shapes / 'val' / '00001.png'), str(shapes / 'val' / '00002.png')]
    detection.main(['infer', *images, str(tmp_path / 'bad.jpg'), '-pretrained', str(folder),
                    '-output', str(tmp_path / 'pictures'), '-threshold', '0'])
    assert 'bad.jpg: cannot read the image' in capsys.readouterr().err
    table = json.loads((tmp_path / 'pictures' / 'detections.json').read_text())
    assert [line['picture'] for line in table] == ['00001.png', '00002.png']
    for line, file in zip(table, images, strict=True):
        assert line['detections'] and {item['class'] for item in line['detections']} <= {
            'disc', 'square', 'triangle'}
        drawn, original = (np.asarray(Image.open(name)) for name in (
            tmp_path / 'pictures' / line['picture'], file))
        assert drawn.shape[0] % original.shape[0] == 0 and min(drawn.shape[:2]) >= 320
    exported = tmp_path / 'exported'
    detection.main(['export', '-pretrained', str(folder), '-output', str(exported), '-size', '96',
                    '128'])
    assert re.search(r'finds the same [1-9]\d* boxes', capsys.readouterr().out)
    pixels = np.asarray(Image.open(images[0]))
    graph = ExportedDetector(str(exported))
    assert graph.class_names == ['disc', 'square', 'triangle']
    found = graph.predict(pixels)
    assert isinstance(found, Prediction) and len(found.scores)
    detection.main(['infer', images[0], '-exported', str(exported), '-output',
                    str(tmp_path / 'again'), '-threshold', '0'])
    assert (tmp_path / 'again' / '00001.png').is_file()
    assert 'expected a new folder' in said_by(['export', '-pretrained', str(folder), '-output',
                                               str(exported), '-size', '96', '128'])
    assert 'expected multiples of 32' in said_by([
        'export', '-pretrained', str(folder), '-output', str(tmp_path / 'x'), '-size', '90', '128'])


def said_by(arguments):
    """The line with which the command ends."""
    with pytest.raises(SystemExit) as caught:
        detection.main(arguments)
    return str(caught.value)


def test_cascade_is_exported_with_the_same_boxes(shapes, tmp_path):
    config = config_of(shapes, 'MODEL.DETECTOR=cascade_mask_rcnn')
    paddle.seed(0)
    detector = build_detector(config)
    detector.eval()
    # as after a training, where most proposals are unlikely
    detector.engine.rpn_head.rpn_rois_score.bias.set_value(paddle.full([3], -5.0))
    assert export(detector, config, ['a', 'b', 'c'], str(tmp_path / 'graph'), (64, 96)) > 0


def test_graph_with_other_boxes_is_refused_and_removed(shapes, tmp_path, monkeypatch):
    config = config_of(shapes)
    detector = build_detector(config)
    detector.eval()
    monkeypatch.setattr(paddle.jit, 'save', lambda *arguments: None)

    class Other:
        def __init__(self, folder):
            assert os.listdir(folder) == ['detection.json']

        def predict(self, pixels):
            batch = batch_of_size(pixels, (64, 96), config.DATA)
            found, = predict_batch(detector, batch)
            return found._replace(boxes=found.boxes + 5)

    monkeypatch.setattr('common.engines.detection.export.ExportedDetector', Other)
    assert 'other boxes than the model' in refusal(
        export, detector, config, ['a', 'b', 'c'], str(tmp_path / 'graph'), (64, 96))
    assert not (tmp_path / 'graph').exists()


def test_flags_that_miss_something_are_one_line(trained, tmp_path):
    folder, _ = trained
    assert 'expected one of the two' in said_by(['infer', 'x.png'])
    assert 'x.png: no such file' in said_by(['infer', 'x.png', '-pretrained', str(folder)])
    assert '-cfg: got nothing' in said_by(['speed', '-size', '64', '64'])


def test_speed_is_measured(shapes):
    speeds = measure(config_of(shapes), (64, 64), 1, 1)
    assert speeds.keys() == {'inference', 'training'} and min(speeds.values()) > 0


def test_two_processes_train_and_evaluate_together(trained, shapes, tmp_path):
    """Each picture is predicted by one of them; the result is that of one process."""
    main = ROOT / 'vitaev2_vsa' / 'detection' / 'main.py'
    options = [word for option in (*TINY, 'TRAIN.NUM_EPOCHS=1', 'DATA.BATCH_SIZE=1',
                                   'DATA.SHORT_SIDES=[64]') for word in ('-o', option)]
    done = subprocess.run(
        [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir',
         str(tmp_path / 'log'), str(main), 'train', '-cfg', RECIPE, '-data_path', str(shapes),
         '-output', str(tmp_path / 'runs'), *options], capture_output=True, text=True,
        cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder, = (tmp_path / 'runs').iterdir()
    assert 'batch: 1 x 2 processes = 2' in (folder / 'log.txt').read_text()
    result = json.loads((folder / 'result.json').read_text())
    assert result.pop('epoch') == 1
    with StopSignal() as signals:
        again = train.evaluate(config_of(
            shapes, f'MODEL.PRETRAINED={folder / "last.pdparams"}', 'EVAL=true',
            f'SAVE={tmp_path / "eval"}'), signals)
    assert again == result
