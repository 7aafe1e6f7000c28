"""Segmentation without PaddleSeg: recipes against the published tables, data, changes, UPerNet."""
import re
from argparse import Namespace

import numpy as np
import paddle
import pytest
from PIL import Image
from scipy import ndimage

from common.config import origin_of
from common.engines.segmentation import pictures, transforms
from common.engines.segmentation.components import build_model
from common.engines.segmentation.config import list_recipes, read_config
from common.engines.segmentation.data import (
    IGNORE,
    Pairs,
    check_pairs,
    find_pairs,
    read_mask,
    train_order,
)
from common.engines.segmentation.evaluation import Result
from common.engines.segmentation.run import recipe_of, with_classes
from common.engines.segmentation.training import build_optimizer, fingerprint, rate_at
from common.engines.segmentation.upernet import Decoder, UPerNetMMSeg
from common.layers.macs import count_parameters
from common.train.optim import trainable_parameters
from tests.conftest import ROOT, refusal

# The document's table of Cityscapes: crop, backbone, steps, mIoU at one scale and at several.
CITYSCAPES = '''
512x1024 swin_tiny        40k 78.9 79.9
512x1024 swin_tiny_vsa    40k 80.8 81.7
512x1024 vitaev2_window_s 40k 80.1 80.9
512x1024 vitaev2_vsa_s    40k 81.4 82.3
512x1024 swin_tiny        80k 79.3 80.2
512x1024 swin_tiny_vsa    80k 81.6 82.4
512x1024 vitaev2_window_s 80k 80.8 81.0
512x1024 vitaev2_vsa_s    80k 82.2 83.0
769x769  swin_tiny        40k 79.3 80.1
769x769  swin_tiny_vsa    40k 81.0 81.9
769x769  vitaev2_window_s 40k 79.6 80.6
769x769  vitaev2_vsa_s    40k 81.7 82.5
769x769  swin_tiny        80k 79.6 80.1
769x769  swin_tiny_vsa    80k 81.6 82.5
'''
ROWS = [line.split() for line in CITYSCAPES.strip().splitlines()]
# Upstream's config for ADE20K, and the bases of MMSegmentation below it.
ADE20K = {
    'MODEL.BACKBONE': 'vitaev2_s', 'MODEL.DROPPATH': 0.2, 'MODEL.NUM_CLASSES': 150,
    'MODEL.CHANNELS': 512, 'MODEL.AUX_CHANNELS': 256, 'MODEL.DROPOUT': 0.1,
    'MODEL.ALIGN_CORNERS': False, 'MODEL.CLASSIFIER_STD': 0.01,
    'MODEL.BATCH_NORM': 'train',
    'DATA.BATCH_SIZE': 2, 'DATA.SIDES': [2048, 512], 'DATA.SCALE': [0.5, 2.0],
    'DATA.CROP': [512, 512], 'DATA.MOST_OF_ONE': 0.75, 'DATA.DISTORT': True,
    'DATA.MEAN': [0.485, 0.456, 0.406], 'DATA.STD': [0.229, 0.224, 0.225],
    'TRAIN.NUM_STEPS': 160000, 'TRAIN.BASE_LR': 6e-5, 'TRAIN.END_LR': 0.0, 'TRAIN.POWER': 1.0,
    'TRAIN.WARMUP_STEPS': 1500, 'TRAIN.WARMUP_FACTOR': 1e-6, 'TRAIN.WEIGHT_DECAY': 0.01,
    'TRAIN.BETAS': [0.9, 0.999], 'TRAIN.AUX_WEIGHT': 0.4, 'TRAIN.MEAN_OF_LABELLED': False,
    'TRAIN.EVAL_FREQ': 16000, 'TEST.WINDOW': [0, 0], 'TEST.FLIP': True,
    'TEST.SCALES': [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], 'ZOO.MIOU': 44.95}


def value_of(config, key):
    for name in key.split('.'):
        config = config[name]
    return config


# Recipes

@pytest.mark.smoke
def test_recipe_of_ade20k_is_upstream_s():
    config = read_config('upernet_vitaev2_s_ade20k')
    assert {key: value_of(config, key) for key in ADE20K} == ADE20K


@pytest.mark.smoke
def test_recipes_of_cityscapes_are_the_table_s():
    names = {f'upernet_{backbone}_cityscapes_{crop}_{steps}': row
             for row in ROWS for crop, backbone, steps, *_ in [row]}
    others = {'upernet_vitaev2_s_ade20k', 'upernet_shapes'}
    assert list_recipes().keys() == names.keys() | others
    for name, (crop, backbone, steps, miou, multi_scale) in names.items():
        config = read_config(name)
        assert backbone == config.MODEL.BACKBONE and config.MODEL.NUM_CLASSES == 19
        assert [int(side) for side in crop.split('x')] == config.DATA.CROP
        assert config.TEST.WINDOW == config.DATA.CROP  # training and testing at this resolution
        assert f'{config.TRAIN.NUM_STEPS // 1000}k' == steps
        assert (float(miou), float(multi_scale)) == (config.ZOO.MIOU, config.ZOO.MIOU_MULTI_SCALE)
        assert (crop == '769x769') == config.MODEL.ALIGN_CORNERS
        assert config.DATA.DATASET == 'Cityscapes' and config.DATA.DATA_PATH.endswith('cityscapes')
        # what no document gives is upstream's of ADE20K
        for key in ('TRAIN.BASE_LR', 'TRAIN.WEIGHT_DECAY', 'TRAIN.WARMUP_STEPS', 'MODEL.DROPPATH'):
            assert value_of(config, key) == ADE20K[key] and not origin_of(config, key)


@pytest.mark.smoke
def test_recipe_says_where_it_comes_from():
    for name, file in list_recipes().items():
        with open(file) as stream:
            head = [line for line in stream.read().splitlines() if line.startswith('#')]
        words = {line[2:].partition(':')[0] for line in head if re.match(r'# [A-Z]\w+: ', line)}
        assert {'Source', 'Command'} <= words, name
        if 'shapes' not in name:
            assert 'Published' in words and f'{read_config(name).ZOO.MIOU:g}' in '\n'.join(head)
            assert name in '\n'.join(head)


@pytest.mark.parametrize('backbone, published', [
    ('vitaev2_s', 49), ('swin_tiny', 60)])
def test_parameters_are_the_published_number(backbone, published):
    """Upstream's 49 for ViTAEv2-S, and MMSegmentation's 60 for Swin-T, both with 150 classes."""
    args = Namespace(o=[f'MODEL.BACKBONE={backbone}'])
    with paddle.LazyGuard():
        model, _ = build_model(read_config('upernet_vitaev2_s_ade20k', args))
    assert round(count_parameters(model) / 1e6) == published
    c = model.backbone.channels
    C, A, K = 512, 256, 150
    # convolutions, and weight and bias of each BatchNorm
    heads = 4 * (c[3] * C + 2 * C) + (c[3] + 4 * C) * C * 9 + 2 * C \
        + sum(c[:3]) * C + 3 * 2 * C + 3 * (C * C * 9 + 2 * C) + 4 * C * C * 9 + 2 * C + C * K + K \
        + c[2] * A * 9 + 2 * A + A * K + K
    assert count_parameters(model) - count_parameters(model.backbone) == heads


@pytest.mark.smoke
def test_config_refuses():
    assert 'no such key' in refusal(read_config, 'upernet_shapes', Namespace(o=['DATA.CROPP=1'])) \
        or 'CROPP' in refusal(read_config, 'upernet_shapes', Namespace(o=['DATA.CROPP=1']))
    assert 'expected a yaml file or one of' in refusal(read_config, 'upernet')
    assert 'TEST.STRIDE' in refusal(read_config, None, Namespace(
        o=['TEST.WINDOW=[64, 64]', 'TEST.STRIDE=[65, 64]']))
    assert 'WARMUP' in refusal(read_config, None, Namespace(o=['TRAIN.NUM_STEPS=10']))
    assert 'DATA.SIDES' in refusal(read_config, None, Namespace(o=['DATA.SIDES=[64]']))


@pytest.mark.smoke
def test_rates_are_mmcv_s():
    train = read_config('upernet_vitaev2_s_ade20k').TRAIN
    for step in (0, 1, 700, 1499, 1500, 90000, 159999):
        regular = 6e-5 * (1 - step / 160000)          # PolyLrUpdaterHook with power 1
        k = (1 - step / 1500) * (1 - 1e-6)            # LrUpdaterHook.get_warmup_lr, linear
        expected = regular * (1 - k) if step < 1500 else regular
        np.testing.assert_allclose(rate_at(train, step), expected, rtol=1e-12)


def test_what_is_decayed():
    config = read_config('upernet_shapes')
    model, _ = build_model(config)
    optimizer = build_optimizer(config.TRAIN, model)
    parameters = trainable_parameters(model)
    decayed = {name for name, parameter in parameters
               if optimizer._apply_decay_param_fun(parameter.name)}
    rest = {name for name, _ in parameters} - decayed
    assert rest and all('norm' in name or 'relative_position_bias_table' in name for name in rest)
    assert any(name.endswith('.bias') for name in decayed)          # as in mmcv
    assert {'decoder.fuse.bn.weight', 'decoder.classifier.conv.bias'} <= decayed


# Data

def write_pair(root, image, mask, size=(12, 10), mask_size=None, value=1):
    """An image and, unless `mask` is None, its mask."""
    for name, side, pixel in ((image, size, 100), (mask, mask_size or size, value)):
        if name is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(side[::-1], pixel, np.uint8)).save(path)


def cityscapes(root):
    for split in ('train', 'val'):
        write_pair(root, f'leftImg8bit/{split}/aachen/aachen_000001_leftImg8bit.png',
                   f'gtFine/{split}/aachen/aachen_000001_gtFine_labelTrainIds.png')


def ade20k(root):
    for split in ('training', 'validation'):
        write_pair(root, f'images/{split}/ADE_1.jpg', f'annotations/{split}/ADE_1.png')


def lists(root):
    for split in ('train', 'val'):
        write_pair(root, f'a/{split} 1.png', f'b/{split}.png')
        (root / f'{split}.txt').write_text(f'a/{split} 1.png\tb/{split}.png\n\n')


def folders(root):
    for split in ('train', 'val'):
        write_pair(root, f'images/{split}/1.jpg', f'masks/{split}/1.png')


def folders_by_split(root):
    for split in ('train', 'val'):
        write_pair(root, f'{split}/images/1.jpg', f'{split}/masks/1.png')


LAYOUTS = {'Cityscapes': cityscapes, 'ADE20K': ade20k, 'lists': lists, 'folders': folders}


@pytest.mark.smoke
@pytest.mark.parametrize('layout, write', [*LAYOUTS.items(), ('folders', folders_by_split)])
def test_layout_is_found(layout, write, tmp_path):
    write(tmp_path)
    for split in ('train', 'val'):
        pairs = find_pairs(str(tmp_path), split)
        assert pairs.layout == layout and len(pairs.images) == len(pairs.masks) == 1
        check_pairs(pairs, 3)
        expected = 0 if layout == 'ADE20K' else 1     # its classes count from 1
        assert (read_mask(pairs.masks[0], layout, 3) == expected).all()
    names = find_pairs(str(tmp_path), 'val').class_names
    assert len(names) == 19 if layout == 'Cityscapes' else names is None


@pytest.mark.smoke
def test_own_classes_are_counted_by_their_names_or_the_user(tmp_path):
    folders(tmp_path)
    ade, shapes = read_config('upernet_vitaev2_s_ade20k'), read_config('upernet_shapes')
    pairs = find_pairs(str(tmp_path), 'train')
    assert '-num_classes' in refusal(with_classes, ade, pairs)
    by_user = read_config('upernet_vitaev2_s_ade20k', Namespace(num_classes=5))
    assert with_classes(by_user, pairs).MODEL.NUM_CLASSES == 5
    assert with_classes(shapes, pairs).MODEL.NUM_CLASSES == 4
    (tmp_path / 'classes.txt').write_text('sky\nroad\ntree\n')
    pairs = find_pairs(str(tmp_path), 'train')
    assert with_classes(ade, pairs).MODEL.NUM_CLASSES == 3
    assert with_classes(ade, pairs).DATA.DATASET == 'own'
    assert 'got 5 classes, expected 3' in refusal(with_classes, by_user, pairs)


@pytest.mark.smoke
def test_bad_data_is_one_line(tmp_path):
    message = refusal(find_pairs, str(tmp_path / 'nowhere'), 'train')
    assert 'no such folder of data' in message and '-data_path' in message
    assert 'images/train + masks/train' in refusal(find_pairs, str(tmp_path), 'train')
    folders(tmp_path)
    write_pair(tmp_path, 'images/train/2.jpg', None)
    message = refusal(find_pairs, str(tmp_path), 'train')
    assert '2.jpg: got no mask' in message and '1 of 2 images' in message
    write_pair(tmp_path, 'images/train/2.jpg', 'masks/train/2.png', mask_size=(10, 12))
    message = refusal(check_pairs, find_pairs(str(tmp_path), 'train'), 3)
    assert '2.png: got 10x12 pixels, expected 12x10 as in' in message
    write_pair(tmp_path, 'images/train/2.jpg', 'masks/train/2.png', value=7)
    message = refusal(check_pairs, find_pairs(str(tmp_path), 'train'), 3)
    assert '2.png: got 7 as classes at 120 pixels, expected 0 to 2, or 255' in message
    write_pair(tmp_path, 'images/train/2.jpg', 'masks/train/2.png', value=IGNORE)
    check_pairs(find_pairs(str(tmp_path), 'train'), 3)
    Image.new('RGB', (12, 10)).save(tmp_path / 'masks' / 'train' / '2.png')
    assert 'a mask in colours' in refusal(check_pairs, find_pairs(str(tmp_path), 'train'), 3)
    (tmp_path / 'images' / 'train' / '2.jpg').write_text('no image')
    assert '2.jpg' in refusal(check_pairs, find_pairs(str(tmp_path), 'train'), 3)


@pytest.mark.smoke
def test_bad_lists_are_one_line(tmp_path):
    (tmp_path / 'train.txt').write_text('a.png\n')
    assert 'train.txt:1: got 1 names' in refusal(find_pairs, str(tmp_path), 'train')
    (tmp_path / 'train.txt').write_text('a.png b.png\n')
    assert 'train.txt:1: no such image' in refusal(find_pairs, str(tmp_path), 'train')


@pytest.mark.smoke
def test_masks_of_16_bits_and_palettes_are_read(tmp_path):
    values = np.array([[0, 1, 300]], np.uint16)
    Image.fromarray(values).save(tmp_path / 'wide.png')
    assert 'got 300 as classes' in refusal(read_mask, str(tmp_path / 'wide.png'), 'folders', 3)
    Image.fromarray(values[:, :2]).save(tmp_path / 'wide.png')
    assert read_mask(str(tmp_path / 'wide.png'), 'folders', 3).tolist() == [[0, 1]]
    colours = Image.fromarray(np.array([[2, 255]], np.uint8))
    colours.putpalette([9, 9, 9] * 256)
    colours.save(tmp_path / 'palette.png')
    assert read_mask(str(tmp_path / 'palette.png'), 'folders', 3).tolist() == [[2, 255]]


@pytest.mark.smoke
def test_weights_need_a_recipe(tmp_path):
    args = Namespace(cfg=None)
    assert '-cfg: got none' in refusal(recipe_of, args, None)
    assert 'config.yaml is missing' in refusal(recipe_of, args, str(tmp_path))
    (tmp_path / 'config.yaml').write_text('MODEL:\n  CHANNELS: 8\n')
    assert recipe_of(args, str(tmp_path)) == str(tmp_path / 'config.yaml')
    (tmp_path / 'config.yaml').write_text('MODEL:\n  DETECTOR: mask_rcnn\n')
    assert 'is a run of a detector' in refusal(recipe_of, args, str(tmp_path))
    assert recipe_of(Namespace(cfg='a'), str(tmp_path)) == 'a'


@pytest.mark.smoke
def test_order_is_a_function_of_the_step():
    count, seed, batch = 10, 3, 4
    steps = list(train_order(count, seed, batch, 0, 20))
    assert list(train_order(count, seed, batch, 7, 20)) == steps[7:]
    keys = [key for step in steps for key in step]
    for epoch in range(8):
        assert sorted(index for e, index in keys if e == epoch) == list(range(count))
    orders = [tuple(index for e, index in keys if e == epoch) for epoch in range(8)]
    assert len(set(orders)) > 6
    ranks = [list(train_order(count, seed, 2, 0, 20, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == steps  # two ranks share the batches


def test_fingerprint_is_of_the_names(tmp_path):
    pairs = Pairs('lists', str(tmp_path), [str(tmp_path / 'a.png')], [''], None)
    moved = Pairs('lists', '/x', ['/x/a.png'], [''], None)
    other = Pairs('lists', '/x', ['/x/b.png'], [''], None)
    assert fingerprint(pairs) == fingerprint(moved) != fingerprint(other)


# Changes of images

def picture(height=40, width=60, seed=0):
    random = np.random.RandomState(seed)
    return {'img': random.randint(0, 256, (height, width, 3)).astype(np.float32),
            'label': np.repeat(np.arange(4, dtype=np.uint8), 15)[None].repeat(height, 0),
            'gt_fields': ['label'], 'trans_info': []}


@pytest.mark.smoke
@pytest.mark.parametrize('size, sides, expected', [
    ((400, 600), (2048, 512), (512, 768)), ((100, 1000), (2048, 512), (205, 2048)),
    ((1024, 2048), (2049, 1025), (1025, 2049)), ((683, 512), (2048, 512), (683, 512))])
def test_sizes_are_mmcv_s(size, sides, expected):
    """rescale_size of mmcv: min of both ratios, half up."""
    assert transforms.resized_within(*size, *sides) == expected
    data = transforms.ResizeWithin(*sides)(picture(*(side // 10 for side in size)))
    assert data['trans_info'] == [('resize', tuple(side // 10 for side in size))]
    assert data['img'].shape[:2] == data['label'].shape


@pytest.mark.smoke
def test_scale_is_drawn_between_its_ends():
    change = transforms.ResizeWithin(60, 40, (0.5, 2.0))
    np.random.seed(0)
    heights = [change(picture())['label'].shape[0] for _ in range(60)]
    assert 20 <= min(heights) < 30 and 60 < max(heights) <= 80


@pytest.mark.smoke
def test_crop_moves_image_and_mask_together_and_avoids_one_class():
    np.random.seed(0)
    for _ in range(30):
        data = picture()
        data['img'] = data['label'][..., None].repeat(3, 2).astype(np.float32)
        data = transforms.CropOfClasses((20, 16), 0.75)(data)
        assert data['label'].shape == (16, 20)
        np.testing.assert_array_equal(data['img'][..., 1], data['label'])
        counts = np.bincount(data['label'].reshape(-1))
        assert counts.max() / counts.sum() < 0.75  # ten draws find such a crop here
    data = picture()
    data['label'][:] = 2                                               # none is there: the last one
    assert transforms.CropOfClasses((20, 16), 0.75)(data)['label'].shape == (16, 20)


@pytest.mark.smoke
def test_padding_is_the_mean_colour_and_no_label():
    data = transforms.PadTo((70, 50))(picture())
    assert data['img'].shape == (50, 70, 3) and data['label'].shape == (50, 70)
    assert not data['img'][40:].any() and (data['label'][:, 60:] == IGNORE).all()
    assert 'the crop comes before it' in refusal(transforms.PadTo((50, 50)), picture())


@pytest.mark.smoke
def test_distortion_is_opencv_s_by_hand():
    """Each part on its own against plain numpy; together they stay within 0 to 255."""
    pixels = picture()['img'].astype(np.uint8)
    got = transforms.linear(pixels, 1.3, -20)
    np.testing.assert_array_equal(
        got, np.trunc(np.clip(pixels.astype(np.float32) * np.float32(1.3) - 20, 0, 255)))
    np.random.seed(0)
    change, results = transforms.PhotoMetricDistortion(), set()
    for _ in range(40):
        data = change(picture())
        assert data['img'].dtype == np.float32
        assert 0 <= data['img'].min() <= data['img'].max() <= 255
        results.add(data['img'].tobytes())
    # with probability 1/16 nothing is drawn
    assert 30 < len(results) <= 40
    still = transforms.PhotoMetricDistortion(0, (1, 1), (1, 1), 1)
    assert np.abs(still(picture())['img'] - picture()['img']).max() <= 8  # hue there and back


# The model

def plain_conv(x, conv):
    weight = conv.weight.numpy()
    padding = conv.weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    result = np.stack([sum(ndimage.correlate(x[i], w[i], mode='constant') for i in range(len(x)))
                       for w in weight])
    end = -padding or None
    return result[:, padding:end, padding:end] + (
        0 if conv.bias is None else conv.bias.numpy()[:, None, None])


def plain_block(x, block):
    bn = block.bn
    x = plain_conv(x, block.conv)
    mean, variance, weight, bias = (value.numpy()[:, None, None] for value in (
        bn._mean, bn._variance, bn.weight, bn.bias))
    return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)


def plain_resize(x, size, align_corners):
    for axis, target in ((1, size[0]), (2, size[1])):
        count = x.shape[axis]
        at = np.arange(target)
        places = at * (count - 1) / max(target - 1, 1) if align_corners else \
            np.clip((at + 0.5) * count / target - 0.5, 0, None)
        low = np.minimum(np.floor(places).astype(int), count - 1)
        high, part = np.minimum(low + 1, count - 1), places - low
        part = part.reshape([-1, 1] if axis == 1 else [-1])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


def plain_pool(x, side):
    _, h, w = x.shape
    return np.stack([[x[:, i * h // side:-(-(i + 1) * h // side),
                        j * w // side:-(-(j + 1) * w // side)].mean((1, 2))
                      for j in range(side)] for i in range(side)]).transpose(2, 0, 1)


@pytest.mark.smoke
@pytest.mark.parametrize('align_corners', [False, True])
def test_decoder_is_a_plain_computation(align_corners, float64):
    paddle.seed(0)
    decoder = Decoder([2, 3, 4, 5], 3, 2, 0.1, align_corners)
    for layer in decoder.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            for value in (layer._mean, layer.weight, layer.bias):
                value.set_value(paddle.rand(value.shape, 'float64'))
    decoder.eval()
    maps = [paddle.rand([1, c, h, w], 'float64')
            for c, h, w in ((2, 14, 18), (3, 7, 9), (4, 4, 5), (5, 2, 3))]
    got = decoder(maps).numpy()[0]

    def resize(x, size):
        return plain_resize(x, size, align_corners)

    x = [m.numpy()[0] for m in maps]
    pooled = [resize(plain_block(plain_pool(x[3], side), branch[1]), x[3].shape[1:])
              for side, branch in zip((1, 2, 3, 6), decoder.pooling.branches, strict=True)]
    top = plain_block(np.concatenate([x[3], *pooled]), decoder.pooling.bottleneck)
    levels = [plain_block(m, lateral)
              for m, lateral in zip(x[:3], decoder.laterals, strict=True)] + [top]
    for i in (3, 2, 1):
        levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[1:])
    levels = [plain_block(m, out)
              for m, out in zip(levels[:3], decoder.outputs, strict=True)] + [top]
    fused = plain_block(np.concatenate([resize(m, x[0].shape[1:]) for m in levels]), decoder.fuse)
    # Paddle's resizing computes its factors in float32
    np.testing.assert_allclose(got, plain_conv(fused, decoder.classifier.conv), rtol=0, atol=1e-6)


class Maps(paddle.nn.Layer):
    """A backbone that pools."""
    channels = [3, 3, 3, 3]

    def forward(self, image):
        return [paddle.nn.functional.avg_pool2d(image, s, s) for s in (4, 8, 16, 32)]


@pytest.mark.smoke
def test_every_weight_is_trained_and_the_auxiliary_head_trains_only():
    """DataParallel expects a gradient of every weight."""
    model = UPerNetMMSeg(Maps(), 3, channels=4, aux_channels=2)
    outputs = model(paddle.rand([2, 3, 64, 96]))
    assert [output.shape for output in outputs] == [[2, 3, 64, 96]] * 2
    sum(output.sum() for output in outputs).backward()
    assert all(parameter.grad is not None for _, parameter in trainable_parameters(model))
    model.eval()
    assert len(model(paddle.rand([1, 3, 64, 64]))) == 1
    assert len(UPerNetMMSeg(Maps(), 3, 4, aux_channels=0)(paddle.rand([2, 3, 64, 64]))) == 1


@pytest.mark.smoke
def test_sides_that_32_does_not_divide_are_filled_up_and_cut():
    paddle.seed(0)
    model = UPerNetMMSeg(Maps(), 3, channels=4, aux_channels=2)
    model.eval()
    image = paddle.rand([1, 3, 50, 70])
    filled = paddle.nn.functional.pad(image, [0, 26, 0, 14])
    np.testing.assert_array_equal(model(image)[0].numpy(),
                                  model(filled)[0].numpy()[:, :, :50, :70])
    model.train()
    assert [output.shape for output in model(image.tile([2, 1, 1, 1]))] == [[2, 3, 50, 70]] * 2


# Results and pictures

@pytest.mark.smoke
def test_mean_iou_leaves_out_a_class_that_is_nowhere():
    result = Result(np.array([3, 2, 0, 0]), np.array([4, 2, 0, 1]), np.array([5, 2, 0, 0]), 2)
    np.testing.assert_allclose(result.class_iou, [0.5, 1.0, np.nan, 0.0])
    assert result.miou == 0.5 and result.accuracy == 5 / 7
    assert result.as_json()['class_iou'][2] is None and 'mIoU 0.5000' in str(result)
    assert Result(*np.zeros([3, 2], int), 0).miou == 0.0


@pytest.mark.smoke
def test_colours_and_overlays():
    colours = pictures.palette(150)
    assert len({tuple(colour) for colour in colours}) == 150
    np.testing.assert_array_equal(colours[:5], pictures.palette(5))
    image = np.full([6, 8, 3], 100, np.uint8)
    classes = np.zeros([6, 8], np.uint8)
    classes[:, 4:] = 1
    classes[5, 0] = IGNORE
    laid = pictures.overlay(image, classes, 2, ['background', 'disc'])
    assert (laid[0, 0] == 100).all() and (laid[0, 6] != 100).any()
    assert (laid[2, 3] == 255).all()                                   # the border
    named = pictures.with_legend(pictures.beside([[laid, laid]]), ['background', 'disc'], 2)
    assert named.shape[1] > 2 * laid.shape[1] and named.dtype == np.uint8
    narrow = pictures.with_legend(laid, ['background', 'disc'], 2)
    assert narrow.shape[0] > 6 and narrow.shape[1] > 8                 # made wide enough for names
    assert (narrow[:6, 8:] == 255).all() and (narrow[:6, :8] == laid).all()


def test_scripts_name_commands_that_are_there():
    folder = ROOT / 'vitaev2_vsa' / 'segmentation'
    for name in ('train', 'eval', 'infer'):
        assert f'main.py {name} \\' in (folder / f'{name}.sh').read_text()
