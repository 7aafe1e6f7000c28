"""Detection without PaddleDetection: recipes, annotations, transforms, schedule, the command."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.detection import make_parser
from common.engines.detection import transforms
from common.engines.detection.coco import read_annotations
from common.engines.detection.config import list_recipes, read_config
from common.engines.detection.data import load_batches, open_images, polygons_of
from common.engines.detection.optim import StepSchedule, is_left_out
from common.engines.detection.shapes import write_shapes
from common.engines.recipes import backbone_options
from common.zoo import list_models
from tests.conftest import ROOT, refusal

TABLE = ROOT / 'tests' / 'fixtures' / 'detection' / 'recipes.md'


def published():
    """{recipe: list of texts} of the table."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')]
            for line in TABLE.read_text().splitlines() if line.startswith('|')][2:]
    return {name: cells for name, *cells in (
        [cell.strip() for cell in row] for row in rows)}


# Recipes

@pytest.mark.parametrize('name', list_recipes())
def test_recipe_is_the_published_one(name):
    config = read_config(name)
    assert name == config.MODEL.NAME
    if name.endswith('shapes'):
        return
    is_cascade = name.startswith('cascade_')
    assert ('cascade_' if is_cascade else '') + 'mask_rcnn' == config.MODEL.DETECTOR
    assert name == f'{config.MODEL.DETECTOR}_{config.MODEL.BACKBONE}_{name[-2:]}'
    assert config.MODEL.BACKBONE in list_models() and not config.MODEL.BACKBONE_OPTIONS
    assert {'1x': 12, '3x': 36}[name[-2:]] == config.TRAIN.NUM_EPOCHS
    # of every recipe: README.md of the table's source
    assert config.DATA.BATCH_SIZE == 2 and config.TRAIN.BETAS == [0.9, 0.999]
    assert (config.TRAIN.WARMUP_STEPS, config.TRAIN.WARMUP_FACTOR) == (500, 0.001)
    assert config.TRAIN.GRAD_CLIP is None and config.MODEL.BATCH_NORM == 'train'
    assert list(range(480, 801, 32)) == config.DATA.SHORT_SIDES and config.DATA.MAX_SIDE == 1333
    assert config.DATA.CROP_SHORT_SIDES == [400, 500, 600]
    assert config.DATA.CROP_SIZE == [384, 600] and config.DATA.TEST_SHORT_SIDE == 800
    assert [2000, 2000 if is_cascade else 1000] == config.MODEL.PROPOSALS_TRAIN
    assert ('smooth_l1' if is_cascade else 'l1') == config.MODEL.RPN_LOSS
    lines = Path(list_recipes()[name]).read_text().splitlines()
    for word in ('Source:', 'Hardware:', 'Command:', 'Published:'):
        assert any(line.startswith(f'# {word}') for line in lines), word
    assert any(f'-cfg {name}' in line for line in lines)
    row = published().get(name)
    if row is None:
        assert config.ZOO.BOX_AP is None and config.ZOO.MASK_AP is None
        return
    lr, decay, drop_path, epochs, steps, box, mask, parameters = row
    assert float(lr) == config.TRAIN.BASE_LR and int(epochs) == config.TRAIN.NUM_EPOCHS
    assert [int(step) for step in steps.split()] == config.TRAIN.MILESTONES
    if decay != '-':
        assert float(decay) == config.TRAIN.WEIGHT_DECAY
        assert float(drop_path) == config.MODEL.DROPPATH
    assert (float(box), float(mask)) == (config.ZOO.BOX_AP, config.ZOO.MASK_AP)
    assert float(parameters) == config.ZOO.PARAMETERS


def test_every_published_row_has_a_recipe_and_the_base_is_the_default():
    assert published().keys() <= list_recipes().keys()
    default, base = read_config(), read_config(
        str(ROOT / 'vitaev2_vsa' / 'detection' / 'configs' / '_base.yaml'))
    assert (default.TRAIN, default.DATA) == (base.TRAIN, base.DATA)


def test_wrong_keys_and_names_are_one_line(tmp_path):
    file = tmp_path / 'mine.yaml'
    file.write_text('MODEL:\n  BACKBON: swin_tiny\n')
    assert f'{file}:2: unknown key MODEL.BACKBON; the nearest key is MODEL.BACKBONE' in refusal(
        read_config, str(file))
    assert 'mask_rcnn_swin_tiny_1x' in refusal(read_config, 'nothing')
    assert 'DATA.BATCH_SIZE: got 0' in refusal(read_config, None, ['DATA.BATCH_SIZE=0'])
    assert 'expected KEY=VALUE' in refusal(read_config, None, ['DATA'])
    config = read_config(None, ["MODEL.BACKBONE_OPTIONS=['depths=[1, 2]', 'mlp_ratio=2.0']"])
    assert backbone_options(config) == {'depths': [1, 2], 'mlp_ratio': 2.0}
    assert 'NAME=VALUE' in refusal(backbone_options, read_config(
        None, ["MODEL.BACKBONE_OPTIONS=['depths']"]))


def test_schedule_is_mmdetection_s():
    train = read_config('mask_rcnn_swin_tiny_1x', ['TRAIN.BATCH_OF_LR=16']).TRAIN
    schedule = StepSchedule(train, steps_per_epoch=100, global_batch=8)
    for step in (0, 1, 250, 499, 500, 799, 800, 1099, 1100, 1199):
        rate = 0.5e-4 * 0.1 ** ((step >= 800) + (step >= 1100))
        if step < 500:
            rate *= 1 - (1 - step / 500) * (1 - 0.001)
        assert schedule(step) == pytest.approx(rate, rel=1e-12)


def test_decay_leaves_out_norms_of_the_backbone_only():
    words = read_config().TRAIN.NO_DECAY
    assert is_left_out('engine.backbone.net.model.layers.0.NC.0.norm1.weight', words)
    assert is_left_out('engine.backbone.net.model.x.attn.relative_position_bias_table', words)
    assert not is_left_out('engine.backbone.net.model.layers.0.NC.0.PCM.1.weight', words)
    assert not is_left_out('engine.bbox_head.head.0.stage0_bbox_head_conv0.norm.weight', words)


# Annotations

@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes') / 'data'
    write_shapes(folder, train=6, val=3)
    return folder


def test_shapes_are_new_pictures_with_boxes_around_their_masks(shapes, tmp_path):
    assert 'something in it' in refusal(write_shapes, shapes)
    write_shapes(tmp_path / 'again', train=6, val=3)
    for split in ('train', 'val'):
        text = (shapes / 'annotations' / f'{split}.json').read_text()
        assert text == (tmp_path / 'again' / 'annotations' / f'{split}.json').read_text()
    first = [np.asarray(Image.open(shapes / split / '00001.png')) for split in ('train', 'val')]
    assert first[0].shape != first[1].shape or (first[0] != first[1]).any()
    annotations = read_annotations(shapes / 'annotations' / 'train.json', num_classes=3)
    assert annotations.class_names == ['disc', 'square', 'triangle']
    for image in annotations.images:
        for item in annotations.objects[image['id']]:
            polygon = np.array(item['segmentation'][0]).reshape(-1, 2)
            x, y, width, height = item['bbox']
            assert np.abs(polygon.min(0) - [x, y]).max() <= 1.5
            assert np.abs(polygon.max(0) - [x + width, y + height]).max() <= 1.5


def broken(shapes, tmp_path, change):
    """The file of a data set whose annotations a function has changed."""
    content = json.loads((shapes / 'annotations' / 'train.json').read_text())
    change(content)
    file = tmp_path / 'broken.json'
    file.write_text(json.dumps(content))
    return file


BROKEN = {
    'unknown category': (lambda c: c['annotations'][0].update(category_id=9),
                         'annotation 1: got category_id 9, expected one of the categories: 1, 2'),
    'label out of range': (lambda c: c['annotations'][0].update(category_id=-1), 'category_id -1'),
    'unknown image': (lambda c: c['annotations'][0].update(image_id=99), 'got image_id 99'),
    'box outside': (lambda c: c['annotations'][0].update(bbox=[900, 0, 5, 5]),
                    'got bbox [900, 0, 5, 5], expected one within the'),
    'negative box': (lambda c: c['annotations'][0].update(bbox=[5, 5, -5, 5]), 'bbox [5, 5, -5'),
    'no box': (lambda c: c['annotations'][0].update(bbox=None), 'expected [x, y, width, height]'),
    'mask of another size': (
        lambda c: c['annotations'][0].update(segmentation={'size': [7, 9], 'counts': [63]}),
        "got a mask of '[7, 9]', expected [height, width] of 00001.png"),
    'no polygon': (lambda c: c['annotations'][0].update(segmentation=[[1, 2]]),
                   'expected polygons'),
    'image twice': (lambda c: c['images'].append(dict(c['images'][0])), 'the id 1 twice'),
    'other layout': (lambda c: c.pop('categories'), "got no list 'categories'"),
    'categories without a name': (lambda c: c['categories'][0].pop('name'), 'categories: got name'),
    'other number of categories': (
        lambda c: c['categories'].append({'id': 8, 'name': 'star'}),
        'got 4 categories (disc, square, triangle, star), expected MODEL.NUM_CLASSES 3; '
        '-o MODEL.NUM_CLASSES=4'),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_broken_annotations_are_one_line(kind, shapes, tmp_path):
    change, message = BROKEN[kind]
    file = broken(shapes, tmp_path, change)
    found = refusal(read_annotations, file, 3)
    assert str(file) in found and message in found


def test_missing_files_are_one_line(shapes, tmp_path):
    nowhere = tmp_path / 'nowhere'
    config = read_config('mask_rcnn_vitaev2_vsa_shapes', [f'DATA.DATA_PATH={nowhere}'])
    assert refusal(open_images, config, True) == (
        f'-data_path: got {nowhere}, which is no folder; expected one with annotations/train.json '
        f'and train/')
    options = [f'DATA.DATA_PATH={shapes}']
    for option, message in (('DATA.TRAIN_JSON=a.json', 'a.json: cannot read it: No such file'),
                            ('DATA.TRAIN_IMAGES=b', 'b: no such folder; expected the images of')):
        assert message in refusal(open_images, read_config(
            'mask_rcnn_vitaev2_vsa_shapes', [*options, option]), True)
    bad = tmp_path / 'bad.json'
    bad.write_text('{"images": [')
    assert f'{bad}: no json' in refusal(read_annotations, bad)


def images_of(shapes, annotations_file, is_train=True):
    return open_images(read_config('mask_rcnn_vitaev2_vsa_shapes', [
        f'DATA.DATA_PATH={shapes}', f'DATA.TRAIN_JSON={annotations_file}']), is_train)


def test_images_without_an_object_are_left_out_and_said(shapes, tmp_path):
    def empty(content):
        content['annotations'] = [item for item in content['annotations'] if item['image_id'] > 2]
        content['annotations'][0]['bbox'][2] = 0
    file = broken(shapes, tmp_path, empty)
    images = images_of(shapes, file)
    assert len(images) in (3, 4)
    assert any('1 boxes without width' in note for note in images.notes)
    assert any('images without an object are left out' in note for note in images.notes)
    assert 'no image with an object' in refusal(images_of, shapes, broken(
        shapes, tmp_path, lambda content: content['annotations'].clear()))


def test_image_of_another_size_or_none_is_one_line(shapes, tmp_path):
    file = broken(shapes, tmp_path, lambda content: content['images'][0].update(height=700))
    assert '00001.png: got' in refusal(images_of(shapes, file).__getitem__, (1, 0))
    file = broken(shapes, tmp_path, lambda content: content['images'][0].update(file_name='x.png'))
    assert 'x.png: cannot read the image: No such file' in refusal(
        images_of(shapes, file).__getitem__, (1, 0))


# Transforms

def test_size_within_both_limits():
    assert transforms.size_within(480, 640, 800, 1333) == (800, 1067)
    assert transforms.size_within(400, 1000, 800, 1333) == (533, 1333)
    assert transforms.size_within(1000, 400, 800, 1333) == (1333, 533)


def sample_of(image, boxes, polygons):
    return {'image': image, 'boxes': np.array(boxes, np.float32).reshape(-1, 4),
            'labels': np.arange(len(polygons), dtype=np.int32),
            'polygons': [[np.array(polygon, float).reshape(-1, 2)] for polygon in polygons]}


def filled(polygon, size):
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [polygon.round().astype(np.int32)], 1)
    return mask


def test_transforms_move_image_boxes_and_polygons_alike():
    """A white square stays where its box and its polygon are."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:41, 50:71] = 255
    start = sample_of(image, [[50, 20, 71, 41], [0, 0, 5, 5]],
                      [[50, 20, 70, 20, 70, 40, 50, 40], [0, 0, 4, 0, 4, 4]])
    moved = {'resized': transforms.resize(start, 120, 1000), 'mirrored': transforms.flip(start),
             'cut': transforms.crop(start, 10, 30, 40, 45),
             'all': transforms.flip(transforms.resize(
                 transforms.crop(start, 5, 40, 50, 40), 100, 1000))}
    for kind, sample in moved.items():
        white = sample['image'][..., 0] > 128
        rows, columns = np.nonzero(white)
        x1, y1, x2, y2 = sample['boxes'][0]
        slack = 1.5 * sample['image'].shape[0] / 60 + 1
        assert np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                      - [x1, y1, x2, y2]).max() <= slack, kind
        mask = filled(sample['polygons'][0][0], white.shape) > 0
        assert (mask & white).sum() / (mask | white).sum() > 0.8, kind
    assert len(moved['cut']['boxes']) == len(moved['cut']['polygons']) == 1
    assert moved['cut']['labels'].tolist() == [0]


def test_augmentation_depends_on_seed_epoch_and_index_only(shapes):
    options = [f'DATA.DATA_PATH={shapes}', 'DATA.CROP_SHORT_SIDES=[100, 120]',
               'DATA.CROP_SIZE=[60, 90]']
    images = open_images(read_config('mask_rcnn_vitaev2_vsa_shapes', options), True)
    first, again = images[3, 1], images[3, 1]
    assert (first['image'] == again['image']).all() and (first['boxes'] == again['boxes']).all()
    others = [images[epoch, 1]['image'] for epoch in range(4, 10)]
    assert any(image.shape != first['image'].shape or (image != first['image']).any()
               for image in others)
    for epoch in range(30):
        sample = images[epoch, epoch % 6]
        height, width = sample['image'].shape[:2]
        assert min(height, width) in (112, 128, 144) or max(height, width) == 200
        boxes = sample['boxes']
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= width + 1e-3).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(boxes) == len(sample['labels']) == len(sample['polygons'])


def test_batches_are_padded_in_order_and_the_same_for_any_number_of_threads(shapes):
    images = open_images(read_config('mask_rcnn_vitaev2_vsa_shapes', [
        f'DATA.DATA_PATH={shapes}']), True)
    keys = [[(1, 0), (1, 4)], [(1, 2), (1, 1)], [(2, 5), (2, 3)]]
    one, three = (list(load_batches(images, keys, images.data, threads)) for threads in (1, 3))
    for a, b, pair in zip(one, three, keys, strict=True):
        assert (a['image'] == b['image']).all()
        assert a['im_id'][:, 0].tolist() == [images.images[index]['id'] for _, index in pair]
        assert a['image'].shape[2] % 32 == a['image'].shape[3] % 32 == 0
        for image, (height, width) in zip(a['image'], a['im_shape'].astype(int), strict=True):
            assert (image[:, height:] == 0).all() and (image[:, :, width:] == 0).all()
            assert (image[:, :height, :width] != 0).any()


def test_error_of_an_image_reaches_the_caller(shapes, tmp_path):
    file = broken(shapes, tmp_path, lambda content: content['images'][2].update(file_name='x.png'))
    images = images_of(shapes, file)
    keys = [[(1, index)] for index in range(len(images))]
    assert 'x.png' in refusal(lambda: list(load_batches(images, keys, images.data, 2)))


def test_polygons_stay_and_fewer_than_a_triangle_are_none():
    outline, = polygons_of([[0, 0, 4, 0, 4, 4]])
    assert outline.tolist() == [[0, 0], [4, 0], [4, 4]]


# The command

def test_flags_have_one_dash_or_two_and_the_help_names_all_commands():
    parser = make_parser()
    for dash in ('-', '--'):
        args = parser.parse_args(['train', f'{dash}cfg', 'x', f'{dash}o', 'A=1', f'{dash}amp'])
        assert (args.command, args.cfg, args.o, args.amp) == ('train', 'x', ['A=1'], True)
    text = parser.format_help()
    for command in ('train', 'eval', 'infer', 'export', 'params', 'speed', 'shapes'):
        assert command in text
