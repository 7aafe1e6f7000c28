"""Backbones for dense prediction: a model of the zoo without its classifier, which gives maps.

Source: the backbones in upstream's code for detection and segmentation; docs/backbone.md names the
files. Plain transformers get the pyramid of ViTDet (arXiv 2203.16527), of which upstream has
nothing. No engine for detection or segmentation is imported: what one asks of a backbone stands
around this one.

Different from upstream, on purpose: images of any size (it needs multiples of 32); the statistics
of BatchNorm, norms of maps and gradient checkpointing are options of every model.

Letters: B batch, C channels, H W image in pixels, h w map in tokens.
"""
import itertools
import os
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.layer.norm import _BatchNormBase

from common.config import keys_of_arguments, origin_of, set_key
from common.core.errors import InputError
from common.layers.basic import to_map
from common.layers.classifier import ImageClassifier, check_classifier
from common.layers.fast import LayerNorm
from common.layers.feature_pyramid import CHANNELS, STRIDE, STRIDES, SimpleFeaturePyramid
from common.layers.recompute import recompute_cells
from common.zoo import build_model, load_plan, plan_model

BATCH_NORMS = ('train', 'frozen', 'sync')


class Backbone(nn.Layer):
    """The maps of a model's stages, or of a pyramid upon its last one, for images of any size.

    An image is padded with zeros at the bottom and right, to what the model can divide, and the
    maps are cut to what belongs to the image.

    Args:
        model: an ImageClassifier, which loses its classifier.
        out_indices, norm, batch_norm, recompute: see create_backbone.

    Attributes:
        channels, strides, out_indices: of the maps, tuples with an entry for each.
        model: the model; its parameters' names begin with 'model.' here.
        notes: sentences about the loading of its weights.

    Raises:
        InputError: maps that the model has not, or options that it cannot have.

    Source: this project; see the top of the file.

    Examples:
        >>> from common.backbone import Backbone
        >>> from common.zoo import create_model
        >>> backbone = Backbone(create_model('swin_tiny', depths=[1, 1, 1, 1]), batch_norm='frozen')
        >>> backbone.channels, backbone.strides
        ((96, 192, 384, 768), (4, 8, 16, 32))
    """

    def __init__(self, model: ImageClassifier, out_indices: Sequence[int] = (0, 1, 2, 3),
                 norm: bool | str = 'auto', batch_norm: str = 'train', recompute: bool = False):
        super().__init__()
        check_classifier(model)
        self.out_indices = tuple(out_indices)
        maps = maps_of(model)
        check_indices(self.out_indices, len(maps))
        self.channels = tuple(maps[index][0] for index in self.out_indices)
        self.strides = tuple(maps[index][1] for index in self.out_indices)
        self.notes = []
        self.model = model
        self.has_norms = checked_norm(model, norm)
        leave_out_pool(model, len(maps))
        last, stride = model.stage_sizes()[-1]
        self.step = model.stride if model.has_pyramid else stride  # what must divide an image
        if not model.has_pyramid:
            model.pyramid = SimpleFeaturePyramid(last, self.out_indices)
        for index, channels in zip(self.out_indices, self.channels, strict=True):
            if self.has_norms:
                setattr(model, f'norm{index}', LayerNorm(channels, epsilon=1e-5))
        set_batch_norm(model, batch_norm)
        if recompute:
            recompute_cells(model)

    def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        """[B, 3, H, W], float, normalised -> maps [B, C_i, ceil(H / s_i), ceil(W / s_i)], s_i of
        `strides`, in the order of `out_indices`."""
        H, W = image.shape[2:]
        if H < 1 or W < 1:
            raise InputError('Backbone: got an open height or width, or none, expected fixed ones '
                             '(the batch may be open)')
        down, right = -H % self.step, -W % self.step
        if down or right:
            image = F.pad(image, [0, right, 0, down])                      # left right top bottom
        maps = self.stage_maps(image) if self.model.has_pyramid else self.pyramid_maps(image)
        return [cropped(x, H, W, self.strides[at]) for at, x in enumerate(maps)]

    def stage_maps(self, image):
        """The maps of the stages that out_indices names; later stages are not computed."""
        count = max(self.out_indices) + 1
        stages = list(itertools.islice(self.model.stages(image), count))   # [B, N, C], h, w
        maps = []
        for index in self.out_indices:
            tokens, h, w = stages[index]
            if self.has_norms:
                tokens = getattr(self.model, f'norm{index}')(tokens)
            maps.append(to_map(tokens, h, w))                              # [B, C, h, w]
        return maps

    def pyramid_maps(self, image):
        """The pyramid over the map of the last stage."""
        tokens, h, w = list(self.model.stages(image))[-1]
        return self.model.pyramid(to_map(tokens[:, self.model.num_prefix_tokens:], h, w))


def cropped(x, H, W, stride):
    """The part [B, C, h, w] of a map that belongs to the image; no operator where it is all."""
    h, w = -(-H // stride), -(-W // stride)
    return x if list(x.shape[2:]) == [h, w] else x[:, :, :h, :w]


def create_backbone(name: str | None, *, pretrained: str | os.PathLike | bool | None = None,
                    out_indices: Sequence[int] = (0, 1, 2, 3), norm: bool | str = 'auto',
                    batch_norm: str = 'train', recompute: bool = False, **config) -> Backbone:
    """A model of the zoo as a backbone for detection or segmentation, in training mode.

    Models with learned windows have upstream's form for detection here; `vsa_form` says otherwise.
    Models without maps of four sizes get the simple feature pyramid of ViTDet over their last map,
    four maps of 256 channels.

    Args:
        name: as create_model's; None takes the model that the weights are of.
        pretrained: as create_model's, of a classifier or of a backbone, also inside a detector.
            What the file has and a backbone has not is left out, what it has not (norms of maps, a
            pyramid) stays as it starts; `notes` and the log say so.
        out_indices: which maps, in which order; 0 is the largest one, at stride 4.
        norm: whether each map gets a LayerNorm; 'auto': where upstream's detector has one, which
            Swin's has. A pyramid has norms of its own.
        batch_norm: 'train'; 'frozen': the stored statistics are used and stay as they are, also in
            training mode (weight and bias are trained); 'sync': statistics over all ranks, on GPUs.
        recompute: gradient checkpointing of the cells.
        config: as create_model's, e.g. drop_path=0.1.

    Returns:
        A Backbone from float32 [B, 3, H, W], normalised, of any size, to a list of maps
        [B, C_i, ceil(H / s_i), ceil(W / s_i)]. Its `channels`, `strides` and `out_indices` have an
        entry for each map.

    Raises:
        InputError: as create_model, or maps, norms or statistics that the model cannot have.

    Source: `features_only` of timm, and upstream's backbones; see the top of common/backbone.py.

    Examples:
        >>> import paddle
        >>> from common.backbone import create_backbone
        >>> backbone = create_backbone('swin_tiny', depths=[1, 1, 1, 1], out_indices=(1, 3))
        >>> backbone.channels, backbone.strides
        ((192, 768), (8, 32))
        >>> [tuple(maps.shape) for maps in backbone(paddle.zeros([1, 3, 60, 90]))]
        [(1, 192, 8, 12), (1, 768, 2, 3)]
    """
    if 'num_classes' in config:
        raise InputError(f"num_classes: got {config['num_classes']}, expected nothing: a backbone "
                         f"has no classifier")
    values = keys_of_arguments(num_classes=0, **config)
    plan = plan_model(name, pretrained, values)
    plan = plan._replace(config=for_detection(plan.config, plan.file))
    backbone = Backbone(build_model(plan.config), out_indices, norm, batch_norm, recompute)
    load_plan(backbone.model, plan)
    backbone.notes = backbone.model.notes
    return backbone


def for_detection(config, file):
    """A config with the form of learned windows that is upstream's for detection, unless the user
    has set another.

    file: of weights, or None; a checkpoint of a classifier says the form of the classifier.
    """
    key = 'MODEL.VSA_FORM'
    if 'VSA_FORM' not in config.MODEL or origin_of(config, key) not in (None, file):
        return config
    config = config.clone()
    config.defrost()
    set_key(config, key, 'detection', 'backbone')
    config.freeze()
    return config


def maps_of(model):
    """(channels, stride) of each map that a model can give."""
    maps = model.stage_sizes()
    if model.has_pyramid:
        return maps
    channels, stride = maps[-1]
    if stride != STRIDE or channels % 4:
        raise InputError(f'backbone: got a model whose last map has stride {stride} and {channels} '
                         f'channels, expected stride {STRIDE} and a multiple of 4 channels, which '
                         f'the simple feature pyramid needs')
    return [(CHANNELS, stride) for stride in STRIDES]


def check_indices(out_indices, count):
    """Raises InputError for indices of maps that are not there, or twice."""
    if not out_indices or len(set(out_indices)) < len(out_indices) \
            or not all(type(index) is int and 0 <= index < count for index in out_indices):
        raise InputError(f'out_indices: got {list(out_indices)}, expected different numbers from 0 '
                         f'to {count - 1}')


def checked_norm(model, norm):
    """Whether the maps of a model get norms."""
    if norm not in ('auto', True, False):
        raise InputError(f"norm: got {norm!r}, expected 'auto', True or False")
    if norm is True and not model.has_pyramid:
        raise InputError("norm: got True, expected 'auto' or False: the simple feature pyramid has "
                         "norms of its own")
    return model.norms_maps if norm == 'auto' else norm


def leave_out_pool(model, count):
    """Takes away what only the classifier needs: layers whose parameters would get no gradient.

    count: of the maps; a weight file may have norms for them.
    """
    model.reset_classifier(0)
    for part in model.pool_parts:
        setattr(model, part, None)
    model.optional_parts = (*model.pool_parts, 'pyramid', *(f'norm{i}' for i in range(count)))


def set_batch_norm(model, batch_norm):
    """Gives a model's BatchNorm its statistics: see create_backbone."""
    if batch_norm not in BATCH_NORMS:
        raise InputError(f'batch_norm: got {batch_norm!r}, expected one of '
                         f'{", ".join(BATCH_NORMS)}')
    if batch_norm == 'sync':
        if paddle.get_device() == 'cpu':
            raise InputError("batch_norm: got 'sync', for which Paddle has no operator on a CPU; "
                             "expected 'train' or 'frozen' there")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for layer in model.sublayers():
        if batch_norm == 'frozen' and isinstance(layer, _BatchNormBase):
            # not eval(): train() of a detector around this reaches every layer by itself
            layer._use_global_stats = True
