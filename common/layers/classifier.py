"""The base of all models: classifier, features, attention maps, and what they offer to the rest.

Letters: B batch, N tokens, C channels, h w map in tokens, n heads.
"""
import functools
import os
import sys

import paddle
from paddle import nn

from common.core.errors import InputError
from common.core.modules import import_file
from common.layers.basic import to_map
from common.layers.fast import Linear
from common.layers.init import init_linear
from common.layers.recording import AttentionPass, recorded_attention


class ImageClassifier(nn.Layer):
    """Base of an image classifier whose stages carry tokens and the height and width of their map.

    A model must have:

    | name            | what it is                                                               |
    |-----------------|--------------------------------------------------------------------------|
    | `stages(image)` | runs the model; yields (tokens [B, N, C], h, w) after each stage         |
    | `cells()`       | its blocks, in order: maps read the attention of each, `cell.attn`,      |
    |                 | layer-wise learning rates and recomputation take them as they are        |
    | `cell.attn`     | called as attn(x, ...), or as attn(x, ..., True) for (output, weights):  |
    |                 | [B, n, N, N], or in windows of s x s tokens [B, nW, n, s * s, s * s]     |
    | `num_features`  | the channels that the classifier reads                                   |
    | `num_classes`   | the classifier's outputs; 0 for no classifier                            |
    | `head`          | the classifier, a Linear or None; `classifier_name` may name another     |

    It may have, instead of what stands in this class:

    | name                    | what it is                                             | used by   |
    |-------------------------|--------------------------------------------------------|-----------|
    | `stride`                | what divides an image's height and width               | stages    |
    | `num_prefix_tokens`     | how many tokens stand before those of the map          | features  |
    | `reads_class_token`     | whether the classifier reads the first token           | maps      |
    | `pool(tokens)`          | makes the features of the last stage's tokens          | logits    |
    | `position_embeddings()` | the parameters that are resized for another image size | weights   |
    | `no_weight_decay()`     | the parameters that are not decayed                    | training  |
    | `representation_name`   | names the layer between features and classifier        | weights   |
    | `get_windows(image)`    | gives the learned windows                              | visualize |
    | `stage_sizes()`         | [(channels, stride)] of each stage's map               | backbones |
    | `has_pyramid`           | whether these are maps at strides 4, 8, ..., which a   | backbones |
    |                         | detector uses as they are                              |           |
    | `norms_maps`            | whether it puts a LayerNorm on each                    | backbones |
    | `pool_parts`            | names of the layers that `pool` alone needs            | backbones |
    | `optional_parts`        | names of layers that a weight file may lack, or have   | weights   |
    |                         | without the model                                      |           |
    | `runs_in_parts`         | whether a forward pass notes nothing in the model, so  | core/     |
    |                         | that threads may run parts of a batch at the same time | parts.py  |
    | NAME_names.py           | beside the model's NAME.py: DIALECTS, LOOKALIKES,      | weights   |
    |                         | PUBLISHED_CLASSES and config_of(shapes), see           |           |
    |                         | common/weights/dialects.py                             |           |

    Set from outside are `config`, by build_model; `class_names`, of the loaded weights; `known_as`,
    a function (model, {name: array}, layout) that says which model some weights are for that do not
    fit this one, common.zoo.known_as where the zoo is known.
    """

    classifier_name = 'head'
    representation_name = None
    num_prefix_tokens = 0
    reads_class_token = False
    stride = 1
    has_pyramid = False
    norms_maps = False
    pool_parts = ()
    optional_parts = ()
    runs_in_parts = True
    class_names = None
    known_as = None

    def stages(self, image):
        """Runs the stages; yields (tokens [B, N, C], h, w) after each.

        Args:
            image: [B, 3, H, W].
        """
        raise NotImplementedError

    def cells(self):
        """The blocks, in order."""
        raise NotImplementedError

    def stage_sizes(self):
        """(channels, by how much an image is reduced) of the map of each stage."""
        return [(self.num_features, self.stride)]

    def position_embeddings(self):
        """{name of a parameter: (prefix tokens, (h, w) of its grid)}, resized for other sizes."""
        return {}

    def no_weight_decay(self):
        """Parameters that are never decayed, beside biases and norms."""
        return set()

    def dialects(self):
        """The codes whose weight files this model understands, see common/weights/dialects.py."""
        return getattr(names_module(type(self)), 'DIALECTS', ())

    def lookalikes(self):
        """(pattern of a name, or a function that tells it of {name: array}; which model such a file
        is of) for files that look like this model's."""
        return getattr(names_module(type(self)), 'LOOKALIKES', ())

    def published_classes(self):
        """{number of classes: function that gives their names} for classifiers whose files, of
        other codes, do not say them."""
        return getattr(names_module(type(self)), 'PUBLISHED_CLASSES', {})

    def check_size(self, height, width):
        """Raises InputError for an image size in pixels that the model cannot divide."""
        if height % self.stride or width % self.stride or not height or not width:
            raise InputError(f'image size: got {height}x{width}, expected a height and a width '
                             f'that are multiples of {self.stride}')

    def pool(self, tokens):
        """The tokens of the last stage [B, N, C] -> features [B, C]."""
        return tokens[:, self.num_prefix_tokens:].mean(axis=1)

    def forward_features(self, image: paddle.Tensor) -> paddle.Tensor:
        """[B, 3, H, W] -> [B, num_features]"""
        tokens, _, _ = list(self.stages(image))[-1]
        return self.pool(tokens)

    def forward_head(self, features: paddle.Tensor) -> paddle.Tensor:
        """[B, num_features] -> logits [B, num_classes]."""
        classifier = getattr(self, self.classifier_name)
        return features if classifier is None else classifier(features)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """[B, 3, H, W], float, normalised -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(image))

    def extract_feat(self, image: paddle.Tensor, out_type: str | None = None) -> tuple:
        """Features, as a tuple with one entry for each stage.

        Args:
            image: [B, 3, H, W], float, normalised.
            out_type: 'raw' all tokens [B, N, C]; 'featmap' [B, C, h, w]; 'cls_token' [B, C], for
                the models that have one; 'avg_featmap' [B, C], the mean over the patches (of the
                last stage, where the classifier reads a mean, that mean); None, as
                MMClassification does, the map, or the pair [featmap, cls_token].

        Returns:
            A tuple of tensors, or of pairs. The last stage's are after the last norm, if the model
            has one over its tokens.

        Raises:
            InputError: an unknown out_type, or no class token.

        Source: the function of this name in MMClassification.

        Examples:
            >>> import paddle
            >>> from common.zoo import create_model
            >>> model = create_model('vit_digits')
            >>> featmap, = model.extract_feat(paddle.zeros([2, 3, 32, 32]), 'featmap')
            >>> tuple(featmap.shape)
            (2, 96, 4, 4)
        """
        check_feature_type(out_type)
        if out_type == 'cls_token' and not self.num_prefix_tokens:
            raise InputError("out_type: got 'cls_token', but this model has no class token")
        *first, last = self.stages(image)
        features = [self.feature(out_type, *stage) for stage in first]
        if out_type == 'avg_featmap' and not self.reads_class_token:
            return (*features, self.pool(last[0]))
        return (*features, self.feature(out_type, *last))

    def feature(self, out_type, tokens, h, w):
        """One stage's entry of `extract_feat`."""
        patches = tokens[:, self.num_prefix_tokens:]                  # [B, h * w, C]
        if out_type == 'raw':
            return tokens
        if out_type == 'cls_token':
            return tokens[:, 0]
        if out_type == 'avg_featmap':
            return patches.mean(axis=1)
        featmap = to_map(patches, h, w)                               # [B, C, h, w]
        pair = out_type is None and self.num_prefix_tokens
        return [featmap, tokens[:, 0]] if pair else featmap

    def get_attention(self, image: paddle.Tensor, layers: list | None = None) -> list:
        """The attention weights of some cells in a forward pass.

        Args:
            image: [B, 3, H, W], float, normalised.
            layers: indices of `cells()`, negative from the end; None for all.

        Returns:
            A list in the order of `layers` of [B, n, N, N], or, with windows of s x s tokens,
            [B, nW, n, s * s, s * s]; each row sums to 1.

        Raises:
            InputError: a layer that is not there.

        Source: this project; common.attention_maps makes maps of them.

        Examples:
            >>> import paddle
            >>> from common.zoo import create_model
            >>> model = create_model('vit_digits')
            >>> weights, = model.get_attention(paddle.zeros([2, 3, 32, 32]), layers=[-1])
            >>> tuple(weights.shape)
            (2, 4, 17, 17)
        """
        return [one.weights for one in self.attention_passes(image, layers)]

    def attention_passes(self, image, layers=None):
        """What the attention of some cells did in a forward pass, a list of AttentionPass.

        Args:
            image: as get_attention's.
            layers: as get_attention's.
        """
        attention = [cell.attn for cell in self.cells()]
        indices, stages = block_indices(layers, len(attention)), []
        with recorded_attention({attention[index] for index in indices}) as calls:
            for _, h, w in self.stages(image):
                stages.append([(*call, h, w) for call in calls])
                calls.clear()
        found = {call[0]: AttentionPass(*call, in_last_stage=stage is stages[-1])
                 for stage in stages for call in stage}
        return [found[attention[index]] for index in indices]

    def get_windows(self, image, layer=-1):
        """The learned windows of a cell, for the models that have them."""
        raise InputError(f'layer: got {layer}, expected a layer with varied-size windows')

    def reset_classifier(self, num_classes: int) -> None:
        """Puts a newly initialised classifier in the place of the old one.

        Args:
            num_classes: its outputs; 0 takes the classifier away, so that the model gives features.

        Source: the function of this name in timm.

        Examples:
            >>> import paddle
            >>> from common.zoo import create_model
            >>> model = create_model('vit_digits')
            >>> model.reset_classifier(5)
            >>> tuple(model(paddle.zeros([2, 3, 32, 32])).shape)
            (2, 5)
        """
        self.num_classes = num_classes
        self.class_names = None  # they were of the old one
        dtype = next(iter(self.parameters())).dtype
        setattr(self, self.classifier_name,
                new_classifier(self.num_features, num_classes, dtype))


def check_classifier(model):
    """Raises InputError for a Layer that is no ImageClassifier."""
    if not isinstance(model, ImageClassifier):
        raise InputError(f'model: got a {type(model).__name__}, expected an ImageClassifier '
                         f'(common/layers/classifier.py)')


@functools.cache
def names_module(model_class):
    """The module of the names that other codes have for a model's weights: MODEL_names.py beside
    the file of the model's class, or of the class that it extends. None if there is none."""
    for one in model_class.__mro__:
        file = getattr(sys.modules.get(one.__module__), '__file__', None)
        if one is ImageClassifier:
            break
        if file is None:  # a class of an interactive session
            continue
        folder, file = os.path.split(os.path.abspath(file))
        name = f'{os.path.splitext(file)[0]}_names'
        if os.path.isfile(os.path.join(folder, f'{name}.py')):
            return import_file(*os.path.split(folder), name)
    return None


# what extract_feat of every family can give
FEATURE_TYPES = ('raw', 'featmap', 'cls_token', 'avg_featmap')


def feature_type_of(model):
    """The type of the features that a model's classifier gets."""
    return 'cls_token' if model.reads_class_token else 'avg_featmap'


def check_feature_type(out_type):
    """Raises InputError for what extract_feat of no family gives."""
    if out_type is not None and out_type not in FEATURE_TYPES:
        raise InputError(f'out_type: got {out_type!r}, expected None or one of '
                         f'{", ".join(FEATURE_TYPES)}')


def block_indices(layers, depth):
    """Indices of blocks, negative ones from the end, as numbers in [0, depth); None is all."""
    layers = range(depth) if layers is None else layers
    for index in layers:
        if not -depth <= index < depth:
            raise InputError(f'layer: got {index}, expected {-depth} to {depth - 1}')
    return [index % depth for index in layers]


def new_classifier(num_features, num_classes, dtype=None):
    """A newly initialised linear layer, of a model's type; None for no classes."""
    if not num_classes:
        return None
    layer = Linear(num_features, num_classes)
    init_linear(layer)
    if dtype is not None:
        layer.to(dtype=dtype)
    return layer
