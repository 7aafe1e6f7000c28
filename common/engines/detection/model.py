"""Mask R-CNN and Cascade Mask R-CNN: PaddleDetection's parts around a backbone of the zoo.

image -> backbone -> FPN -> proposals (RPN) -> boxes (one head, or a cascade of three) -> masks.

Source: the configs named in config.py, with mmdetection's defaults. The weights of necks and
heads start as PaddleDetection has it; all else that is known to differ is mended in cascade.py.

Forward passes in mixed precision end at the FPN: heads and losses are computed in float32.
"""
import contextlib

import paddle
from paddle import nn

from common.config import ConfigNode
from common.core.errors import InputError
from common.engines.detection.cascade import CascadeMaskHead, StageAssigner, build_box_head
from common.engines.recipes import backbone_options
from common.engines.shim import use_detection

RATIOS = (0.5, 1.0, 2.0)  # height to width of the anchors
BOX_RESOLUTION, MASK_RESOLUTION = 7, 14  # of the maps that RoIAlign cuts out
# 1 / standard deviation of the four numbers by which a stage moves a box
BOX_WEIGHTS = ((10., 10., 5., 5.), (20., 20., 10., 10.), (30., 30., 15., 15.))
STAGE_IOUS, STAGE_WEIGHTS = (0.5, 0.6, 0.7), (1.0, 0.5, 0.25)
GIOU_WEIGHT = 10.0
RPN_BETA = 1 / 9  # of the smooth L1 loss
LAYER_DEFAULT = 1.0  # learning rate of a parameter, relative to the others


class EngineBackbone(nn.Layer):
    """A backbone as PaddleDetection's models call theirs.

    Args:
        net: common.backbone.Backbone.

    Attributes:
        precision: common.train.precision.Precision, or None for float32; its caller sets it.
    """

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.precision = None

    def forward(self, inputs):
        if self.precision is None:
            return self.net(inputs['image'])
        with self.precision.autocast():
            return self.net(inputs['image'])

    @property
    def out_shape(self):
        from ppdet.modeling.shape_spec import ShapeSpec
        return [ShapeSpec(channels=channels, stride=stride)
                for channels, stride in zip(self.net.channels, self.net.strides, strict=True)]


class Neck(nn.Layer):
    """FPN: maps [B, C_i, h_i, w_i] -> float32 [B, C, h_i, w_i], and one of half the last size.

    Args:
        fpn: FPN of PaddleDetection.

    Attributes:
        precision: as EngineBackbone's.
    """

    def __init__(self, fpn):
        super().__init__()
        self.fpn = fpn
        self.precision = None

    def forward(self, maps):
        if self.precision is None:
            return self.fpn(maps)
        with self.precision.autocast():
            maps = self.fpn(maps)
        return [x.astype('float32') for x in maps]


class Detector(nn.Layer):
    """A detector as the rest of this project sees it.

    Args:
        engine: MaskRCNN or CascadeRCNN of PaddleDetection.

    Shapes: `losses(batch)` gives a dict of scalars with their sum under 'loss'. `forward(image,
    im_shape, scale_factor)`, [B, 3, H, W], [B, 2] (height, width without the padding), [B, 2]
    (y, x: size now / original size), gives boxes [N, 6] (class, score, x1, y1, x2, y2 in pixels of
    the original images), how many are of each image [B], and masks [N, 28, 28] (probabilities
    within a box). An image without a detection has one box of class 0 and score 0.
    """

    def __init__(self, engine, num_classes):
        super().__init__()
        self.engine = engine
        self.num_classes = num_classes

    def losses(self, batch):
        return self.engine(batch)

    def forward(self, image, im_shape, scale_factor):
        found = self.engine({'image': image, 'im_shape': im_shape, 'scale_factor': scale_factor})
        return found['bbox'], found['bbox_num'], found['mask']

    def use_precision(self, precision):
        """Has the backbone and the FPN compute in a precision from now on."""
        self.engine.backbone.precision = self.engine.neck.precision = precision


def build_detector(config: ConfigNode, backbone: nn.Layer | None = None) -> Detector:
    """Builds the detector of a config, in training mode, with new weights.

    Args:
        config: of read_config; its MODEL.PRETRAINED is not looked at.
        backbone: what create_backbone gives; None builds that of the config.

    Raises:
        InputError: PaddleDetection is missing or of another version, or as create_backbone.

    Source: see the top of this file; parts of PaddleDetection 2.6 (ppdet/modeling).
    """
    use_detection()
    if backbone is None:
        backbone = config_backbone(config)
    if tuple(backbone.strides) != (4, 8, 16, 32):
        raise InputError(f'MODEL.BACKBONE: got maps of strides {list(backbone.strides)}, expected '
                         f'4, 8, 16, 32')
    build = build_mask_rcnn if config.MODEL.DETECTOR == 'mask_rcnn' else build_cascade
    engine = build(config.MODEL, EngineBackbone(backbone))
    engine.mask_post_process = keep_masks
    for parameter in engine.parameters():  # the engine's own rates and decay: 2 for some biases
        parameter.optimize_attr['learning_rate'] = LAYER_DEFAULT
        parameter.regularizer = None
    return Detector(engine, config.MODEL.NUM_CLASSES)


def config_backbone(config, pretrained=None):
    """The backbone of a config, with new weights or those of a file."""
    from common.backbone import create_backbone
    model = config.MODEL
    return create_backbone(model.BACKBONE, batch_norm=model.BATCH_NORM, recompute=model.RECOMPUTE,
                           drop_path=model.DROPPATH, pretrained=pretrained,
                           **backbone_options(config))


def keep_masks(mask_out, bboxes, bbox_num, origin_shape):
    """Instead of PaddleDetection's, which pastes each mask into an image of its own: that takes
    gigabytes for a large photo. See predict.py."""
    return mask_out


def build_mask_rcnn(model, backbone):
    """MaskRCNN of PaddleDetection from the MODEL node of a config."""
    from ppdet.modeling import BBoxHead, MaskRCNN, TwoFCHead
    from ppdet.modeling.proposal_generator.target_layer import BBoxAssigner
    neck = build_neck(model, backbone)
    box_head = BBoxHead(
        TwoFCHead(model.FPN_CHANNELS, model.FC_CHANNELS, BOX_RESOLUTION), model.FC_CHANNELS,
        roi_extractor(neck, BOX_RESOLUTION),
        BBoxAssigner(batch_size_per_im=model.BOX_SAMPLES, num_classes=model.NUM_CLASSES),
        num_classes=model.NUM_CLASSES, bbox_weight=list(BOX_WEIGHTS[0]))
    return MaskRCNN(backbone, build_rpn(model), box_head, build_mask_head(model, neck),
                    build_post_process(model, BOX_WEIGHTS[0]), None, neck)


def build_cascade(model, backbone):
    """CascadeRCNN of PaddleDetection with a mask head for each stage, as upstream's."""
    from ppdet.modeling import CascadeRCNN, CascadeXConvNormHead
    from ppdet.modeling.losses import GIoULoss
    neck = build_neck(model, backbone)
    assigner = StageAssigner(model.BOX_SAMPLES, STAGE_IOUS, model.NUM_CLASSES)
    features = CascadeXConvNormHead(model.FPN_CHANNELS, model.BOX_CONVS, model.FPN_CHANNELS,
                                    model.FC_CHANNELS, BOX_RESOLUTION, norm_type='bn')
    box_head = build_box_head(
        features, model.FC_CHANNELS, roi_extractor(neck, BOX_RESOLUTION), assigner,
        model.NUM_CLASSES, [list(weights) for weights in BOX_WEIGHTS],
        bbox_loss=GIoULoss(loss_weight=GIOU_WEIGHT, reduction='none'), reg_class_agnostic=False,
        stage_loss_weights=list(STAGE_WEIGHTS), loss_normalize_pos=True)
    mask_head = CascadeMaskHead([build_mask_head(model, neck) for _ in STAGE_IOUS], assigner,
                                STAGE_WEIGHTS)
    return CascadeRCNN(backbone, build_rpn(model), box_head,
                       build_post_process(model, BOX_WEIGHTS[-1]), neck, mask_head)


def build_neck(model, backbone):
    from ppdet.modeling import FPN
    return Neck(FPN(list(backbone.net.channels), model.FPN_CHANNELS,
                    [1 / stride for stride in backbone.net.strides]))


def build_rpn(model):
    """The region proposal network."""
    from ppdet.modeling import RPNHead, SmoothL1Loss
    strides = [4, 8, 16, 32, 64]
    before, after = zip(model.PROPOSALS_TRAIN, model.PROPOSALS_TEST, strict=True)
    train, test = ({'min_size': 0.0, 'nms_thresh': 0.7, 'pre_nms_top_n': before[i],
                    'post_nms_top_n': after[i], 'topk_after_collect': True} for i in (0, 1))
    head = RPNHead(
        anchor_generator={'aspect_ratios': list(RATIOS), 'strides': strides,
                          'anchor_sizes': [[model.ANCHOR_SCALE * stride] for stride in strides]},
        rpn_target_assign={'batch_size_per_im': model.RPN_SAMPLES, 'fg_fraction': 0.5,
                           'negative_overlap': 0.3, 'positive_overlap': 0.7},
        train_proposal=train, test_proposal=test, in_channel=model.FPN_CHANNELS,
        loss_rpn_bbox=SmoothL1Loss(beta=RPN_BETA) if model.RPN_LOSS == 'smooth_l1' else None)
    generate = head._gen_proposal

    def generate_real(*arguments):
        rois = [without_empty_boxes(roi) for roi in generate(*arguments)[0]]
        return rois, paddle.to_tensor([roi.shape[0] for roi in rois], dtype='int32')

    head._gen_proposal = generate_real
    return head


def without_empty_boxes(rois):
    """Proposals [n, 4] without those of area 0; one of a pixel if no other is left.

    Paddle gives a box of zeros where a level has none, and RoIAlign makes it NaN: on a CPU the loss
    stays finite then, and the gradient of the first layer is not.
    """
    found = paddle.nonzero((rois[:, 2] > rois[:, 0]).astype('int32')
                            * (rois[:, 3] > rois[:, 1]).astype('int32')).flatten()
    if found.shape[0] == 0:
        return paddle.to_tensor([[0.0, 0.0, 1.0, 1.0]])
    return rois if found.shape[0] == rois.shape[0] else paddle.gather(rois, found)


def roi_extractor(neck, resolution):
    """RoIAlign over the first four maps of the FPN."""
    return {'resolution': resolution, 'sampling_ratio': 0, 'aligned': True,
            'spatial_scale': neck.fpn.spatial_scales}


def build_mask_head(model, neck):
    from ppdet.modeling import MaskFeat, MaskHead
    from ppdet.modeling.proposal_generator.target_layer import MaskAssigner
    features = MaskFeat(model.FPN_CHANNELS, model.FPN_CHANNELS, model.MASK_CONVS)
    features.out_channels = lambda: model.FPN_CHANNELS  # the engine's own calls itself
    return MaskHead(features, roi_extractor(neck, MASK_RESOLUTION),
                    MaskAssigner(model.NUM_CLASSES, 2 * MASK_RESOLUTION), model.NUM_CLASSES)


def build_post_process(model, weights):
    from ppdet.modeling.layers import MultiClassNMS, RCNNBox
    from ppdet.modeling.post_process import BBoxPostProcess
    return BBoxPostProcess(
        model.NUM_CLASSES, RCNNBox(list(weights), num_classes=model.NUM_CLASSES),
        MultiClassNMS(score_threshold=model.SCORE, keep_top_k=model.DETECTIONS,
                      nms_threshold=model.NMS))


@contextlib.contextmanager
def in_evaluation(detector):
    """A block in which a detector predicts; it is in the mode that it was in afterwards."""
    was_training = detector.training
    detector.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            detector.train()
