"""What a config asks for: model, changes of the images, losses; and the same under PaddleSeg's
names, for its own tools and yamls."""
import paddle
from paddle import nn

from common.backbone import create_backbone
from common.config import ConfigNode
from common.core.errors import InputError
from common.engines.recipes import backbone_options
from common.engines.segmentation import transforms
from common.engines.segmentation.data import IGNORE
from common.engines.segmentation.upernet import UPerNetMMSeg
from common.engines.shim import use_segmentation
from common.weights.load import Weights, assign, check_state, read_weights

WHOLE = 'decoder.'  # what names begin with in the weights of a whole segmenter only
CLASSIFIERS = ('decoder.classifier.conv.weight', 'decoder.classifier.conv.bias',
               'auxiliary.1.conv.weight', 'auxiliary.1.conv.bias')
OUR_TRANSFORMS = (transforms.ResizeWithin, transforms.CropOfClasses,
                  transforms.PhotoMetricDistortion, transforms.PadTo)


def ZooBackbone(name, **options):  # noqa: N802 - PaddleSeg takes this name from here
    """A model of the zoo as PaddleSeg's backbone; the options are create_backbone's."""
    backbone = create_backbone(name, **options)
    backbone.feat_channels = list(backbone.channels)
    return backbone


def register() -> None:
    """Makes ZooBackbone, UPerNetMMSeg and the transforms known to PaddleSeg, whose own tools then
    build them from a yaml.

    Raises:
        InputError: PaddleSeg is not there, or in another version.

    Source: PaddleSeg's registry is cvlibs/manager.py there.
    """
    use_segmentation()
    from paddleseg.cvlibs import manager
    for kind, components in ((manager.BACKBONES, (ZooBackbone,)), (manager.MODELS, (UPerNetMMSeg,)),
                             (manager.TRANSFORMS, OUR_TRANSFORMS)):
        for component in components:
            if component.__name__ not in kind.components_dict:
                kind.add_component(component)


def build_transforms(config, is_train):
    """The changes of an image, and in training of its mask, as a list of functions."""
    use_segmentation()
    from paddleseg.transforms import Normalize, RandomHorizontalFlip
    data = config.DATA
    normalize = Normalize(data.MEAN, data.STD)
    if not is_train:
        return [transforms.ResizeWithin(*data.SIDES), normalize] if data.SIDES else [normalize]
    size = data.CROP[::-1]                                             # PaddleSeg's order
    return [*([transforms.ResizeWithin(*data.SIDES, data.SCALE)] if data.SIDES else []),
            transforms.CropOfClasses(size, data.MOST_OF_ONE, IGNORE),
            RandomHorizontalFlip(0.5),
            *([transforms.PhotoMetricDistortion()] if data.DISTORT else []),
            normalize,
            transforms.PadTo(size, IGNORE)]


def build_loss(config):
    """(list of logits, classes int64 [B, H, W]) -> loss: PaddleSeg's cross entropy of each output,
    with factors."""
    use_segmentation()
    from paddleseg.models.losses import CrossEntropyLoss
    loss = CrossEntropyLoss(ignore_index=IGNORE, avg_non_ignore=config.TRAIN.MEAN_OF_LABELLED)
    factors = [1.0, config.TRAIN.AUX_WEIGHT] if config.MODEL.AUX_CHANNELS else [1.0]
    return lambda outputs, classes: sum(
        factor * loss(output.astype('float32'), classes)
        for factor, output in zip(factors, outputs, strict=True))


def build_model(config: ConfigNode, is_new: bool = False,
                weights: Weights | None = None) -> tuple[nn.Layer, list[str]]:
    """Builds the model of a config, with the weights of MODEL.PRETRAINED: those of a backbone, in
    any file that create_backbone reads, or of a whole segmenter, such as a run's best.pdparams.

    Args:
        config: of read_config.
        is_new: whether a training begins: the classifiers may have another number of classes than
            the weights, and start anew then.
        weights: what MODEL.PRETRAINED holds, if it is read already.

    Returns:
        The model, image [B, 3, H, W] -> list of logits [B, K, H, W]; and sentences about its
        weights.

    Raises:
        InputError: the weights are of another model, or there is no such backbone.

    Source: this project.

    Examples:
        >>> import argparse
        >>> from common.engines.segmentation.components import build_model
        >>> from common.engines.segmentation.config import read_config
        >>> args = argparse.Namespace(num_classes=3)
        >>> model, notes = build_model(read_config('upernet_shapes', args))
        >>> model.num_classes, notes
        (3, [])
    """
    model = config.MODEL
    if model.BACKBONE is None:
        raise InputError('MODEL.BACKBONE: got none, expected the name of a model of the zoo')
    if weights is None and model.PRETRAINED:
        weights = read_weights(model.PRETRAINED)
    is_whole = weights is not None and any(name.startswith(WHOLE) for name in weights.state)
    if weights is not None and not (is_whole or is_new):
        raise InputError(f'-pretrained: {model.PRETRAINED} has the weights of a backbone only, '
                         f'expected those of a whole segmenter, such as best.pdparams of a run')
    backbone = create_backbone(
        model.BACKBONE, pretrained=None if is_whole else model.PRETRAINED,
        batch_norm=model.BATCH_NORM, recompute=model.RECOMPUTE, drop_path=model.DROPPATH,
        **backbone_options(config))
    if len(backbone.channels) != 4:
        raise InputError(f'MODEL.BACKBONE: got {model.BACKBONE} with {len(backbone.channels)} '
                         f'maps, expected a model with four')
    built = UPerNetMMSeg(backbone, model.NUM_CLASSES, model.CHANNELS, model.AUX_CHANNELS,
                         model.DROPOUT, model.ALIGN_CORNERS, model.CLASSIFIER_STD)
    if not is_whole:
        return built, list(backbone.notes)
    return built, load_whole(built, weights.state, model.PRETRAINED, is_new)


def load_whole(model, state, file, is_new):
    """Puts the weights of a whole segmenter in place, or raises InputError; returns sentences."""
    wanted = model.state_dict()
    others = [name for name in CLASSIFIERS if name in state and name in wanted
              and state[name].shape[0] != wanted[name].shape[0]]
    notes = []
    if others:
        classes = f'{state[others[0]].shape[0]} classes, MODEL.NUM_CLASSES is {model.num_classes}'
        if not is_new:
            raise InputError(f'{file}: these weights are for {classes}')
        notes.append(f'{file}: these weights are for {classes}; the classifiers start anew')
        state = {name: value for name, value in state.items() if name not in CLASSIFIERS}
    values, casts = check_state(state, wanted, set(CLASSIFIERS) if others else set(), file)
    assign(model, values)
    return notes + casts


def set_up_sync(model):
    """The heads' BatchNorm over all GPUs, as upstream's; the backbone's is MODEL.BATCH_NORM."""
    if paddle.get_device().startswith('gpu'):
        model.decoder = nn.SyncBatchNorm.convert_sync_batchnorm(model.decoder)
        if model.auxiliary is not None:
            model.auxiliary = nn.SyncBatchNorm.convert_sync_batchnorm(model.auxiliary)
