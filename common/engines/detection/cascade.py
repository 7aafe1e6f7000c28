"""What Cascade Mask R-CNN of the published recipes has and PaddleDetection has otherwise.

Source: CascadeRoIHead of mmdetection (cascade_mask_rcnn_swin_fpn.py): each stage samples its boxes
anew and has a mask head of its own, and the loss of a box is the GIoU of the decoded boxes.
"""
from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import nn


class StageAssigner:
    """Chooses the boxes that each stage is trained on, and remembers them for the mask heads.

    PaddleDetection samples for the first stage only; the later ones see all that come.

    Args:
        samples: boxes of an image.
        ious: the least IoU of a foreground box, for each stage.
        num_classes: K.
    """

    def __init__(self, samples, ious, num_classes):
        from ppdet.modeling.proposal_generator.target_layer import BBoxAssigner
        self.assigners = [BBoxAssigner(batch_size_per_im=samples, fg_thresh=iou, bg_thresh=iou,
                                       num_classes=num_classes) for iou in ious]
        self.chosen = [None] * len(ious)

    def __call__(self, rois, rois_num, inputs, stage=0, is_cascade=False,
                 add_gt_as_proposals=True):
        """As BBoxAssigner's; the true boxes are among the proposals of every stage."""
        self.chosen[stage] = self.assigners[stage](rois, rois_num, inputs)
        return self.chosen[stage]


class CascadeMaskHead(nn.Layer):
    """A mask head for each stage of a cascade.

    In training each sees the boxes of its stage; in a prediction all see the final boxes, and the
    mask is the mean of theirs.

    Args:
        heads: list of MaskHead.
        assigner: StageAssigner of the box head.
        weights: of the stages' losses.
    """

    def __init__(self, heads, assigner, weights):
        super().__init__()
        self.heads = nn.LayerList(heads)
        self.assigner = assigner
        self.weights = weights

    def forward(self, body_feats, rois, rois_num, inputs, targets=None, bbox_feat=None):
        """body_feats: list of [B, C, h, w]. Returns a dict of losses, or masks [N, 28, 28] for the
        boxes rois [N, 6] (class, score, box in pixels of the input)."""
        if not self.training:
            masks = [head(body_feats, rois, rois_num, inputs) for head in self.heads]
            return paddle.add_n(masks) / len(masks)
        losses = {}
        for stage, head in enumerate(self.heads):
            rois, rois_num, targets = self.assigner.chosen[stage]
            loss = head(body_feats, rois, rois_num, inputs, targets)['loss_mask']
            losses[f'loss_mask_stage{stage}'] = loss * self.weights[stage]
        return losses


def build_box_head(head, in_channel, roi_extractor, assigner, num_classes, weights, **options):
    """CascadeHead of PaddleDetection with another forward pass, and the loss of mmdetection.

    PaddleDetection trains the first stages on the box of the class with the highest score instead
    of the true one's, and decodes the boxes of all stages by the weights of the first one for their
    loss. (A GIoU does not change when both boxes are moved and stretched alike, so with the
    stage's own weights it is that of the decoded boxes.)

    Args: as CascadeHead's; `assigner` is a StageAssigner, and each class has a box of its own.
    """
    from ppdet.modeling import CascadeHead

    class BoxHead(CascadeHead):

        def forward(self, body_feats=None, rois=None, rois_num=None, inputs=None):
            """rois: for each image proposals [n, 4]. Returns (losses, None), or ((deltas [N, 4 K],
            scores [N, K + 1]), head) of the last stage, the scores being the mean of the stages'.
            """
            losses, scores, targets = {}, [], None
            for stage, weights in enumerate(self.bbox_weight):
                if self.training:
                    rois, rois_num, targets = self.bbox_assigner(rois, rois_num, inputs, stage)
                features = self.head(self.roi_extractor(body_feats, rois, rois_num), stage)
                scores.append(self.bbox_score_list[stage](features))         # [N, K + 1]
                deltas = self.bbox_delta_list[stage](features)               # [N, 4 K]
                if self.training:
                    for name, loss in self.stage_loss(scores[-1], deltas, targets, rois,
                                                      weights).items():
                        losses[f'{name}_stage{stage}'] = loss * self.stage_loss_weights[stage]
                if stage + 1 < self.num_cascade_stages:
                    boxes = self._get_pred_bbox(self.of_best_class(deltas, scores[-1], targets),
                                                rois, weights)
                    if self.training:
                        boxes = without_true_boxes(boxes, rois, targets[1])
                    rois, rois_num = self._get_rois_from_boxes(boxes, inputs['im_shape'])
            if self.training:
                return losses, None
            self.refined_rois = rois
            mean = paddle.add_n([F.softmax(score) for score in scores]) / len(scores)
            return (deltas, mean), self.head

        def stage_loss(self, scores, deltas, targets, rois, weights):
            self.bbox_transform = partial(CascadeHead.bbox_transform, self,
                                          weights=[1 / value for value in weights])
            return self.get_loss(scores, deltas, targets, rois, weights, self.loss_normalize_pos)

        def of_best_class(self, deltas, scores, targets):
            """[N, 4]: of the true class in training, where a box has one; else of the highest
            score."""
            labels = scores[:, :-1].argmax(axis=-1)                          # [N]
            if self.training:
                true = paddle.concat(targets[0]).astype(labels.dtype)
                has_one = paddle.logical_and(true >= 0, true < self.num_classes)
                labels = paddle.where(has_one, true, labels)
            deltas = deltas.reshape([-1, self.num_classes, 4])
            index = paddle.tile(labels.reshape([-1, 1, 1]), [1, 1, 4])
            return paddle.take_along_axis(deltas, index, axis=1).reshape([-1, 4])

        def get_assigned_rois(self):  # MaskHead's, which asks the assigner instead
            return None, None

        def get_assigned_targets(self):
            return None

    return BoxHead(head, in_channel, roi_extractor, assigner, num_classes, weights, **options)


def without_true_boxes(boxes, rois, true_boxes):
    """For each image the moved boxes [n, 4] of all rois that are no true box: those join the
    proposals of each stage anew. All lists have an entry for each image."""
    kept = []
    for moved, roi, true in zip(boxes, rois, true_boxes, strict=True):
        found = paddle.nonzero((roi != true).any(axis=1)).flatten()
        kept.append(paddle.gather(moved, found).detach() if found.shape[0] else moved.detach())
    return kept
