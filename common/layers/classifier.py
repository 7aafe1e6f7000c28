"""What the models of several stages have in common: classifier, features and attention maps.

Letters: B batch, N tokens, C channels, h w map in tokens.
"""
from paddle import nn

from common.core.errors import InputError
from common.layers.basic import to_map
from common.layers.fast import Linear
from common.layers.init import init_linear


class StagedModel(nn.Layer):
    """Base of a classifier whose stages carry tokens and the height and width of their map.

    A subclass gives `stages`, `cells`, and `head` (a linear layer or None); `num_features`,
    the channels of the last stage; and, where they differ, `pool` and `num_prefix_tokens`.
    """

    classifier_name = 'head'
    num_prefix_tokens = 0
    # (pattern of a name, what a file with it is of) for files that look like this model's
    lookalikes = ()

    def stages(self, image, on_cell=None):
        """Runs the stages; yields (tokens [B, N, C], h, w) after each.

        Args:
            image: [B, 3, H, W].
            on_cell: called with (cell, its input tokens, h, w) before each cell of `cells`.
        """
        raise NotImplementedError

    def cells(self):
        """The layers with attention, in order; each has `attention_weights(tokens, h, w)`."""
        raise NotImplementedError

    def position_embeddings(self):
        """{name of a parameter: (prefix tokens, (h, w) of its grid)}, resized for other sizes."""
        return {}

    def no_weight_decay(self):
        """Parameters that are never decayed, beside biases and norms."""
        return set()

    def pool(self, tokens):
        """The tokens of the last stage [B, N, C] -> features [B, C]."""
        return tokens[:, self.num_prefix_tokens:].mean(axis=1)

    def forward_features(self, image):
        """[B, 3, H, W] -> [B, num_features]"""
        tokens, _, _ = list(self.stages(image))[-1]
        return self.pool(tokens)

    def forward_head(self, features):
        """[B, num_features] -> logits [B, num_classes]."""
        return features if self.head is None else self.head(features)

    def forward(self, image):
        """[B, 3, H, W], float, normalised -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(image))

    def extract_feat(self, image, out_type=None):
        """Features, as a tuple with one entry for each stage.

        Args:
            image: [B, 3, H, W], float, normalised.
            out_type: 'raw' all tokens [B, N, C]; 'featmap' [B, C, h, w]; 'cls_token' [B, C], for
                the models that have one; 'avg_featmap' [B, C], the mean over the patches (in the
                last stage what the classifier gets); None: the map, or the pair
                [featmap, cls_token].

        Raises:
            InputError: an unknown out_type, or no class token.
        """
        check_feature_type(out_type)
        if out_type == 'cls_token' and not self.num_prefix_tokens:
            raise InputError("out_type: got 'cls_token', but this model has no class token")
        *first, last = self.stages(image)
        features = [self.feature(out_type, *stage) for stage in first]
        if out_type == 'avg_featmap':
            return (*features, self.pool(last[0]))
        return (*features, self.feature(out_type, *last))

    def feature(self, out_type, tokens, h, w):
        patches = tokens[:, self.num_prefix_tokens:]                  # [B, h * w, C]
        if out_type == 'raw':
            return tokens
        if out_type == 'cls_token':
            return tokens[:, 0]
        if out_type == 'avg_featmap':
            return patches.mean(axis=1)
        featmap = to_map(patches, h, w)
        pair = out_type is None and self.num_prefix_tokens
        return [featmap, tokens[:, 0]] if pair else featmap

    def get_attention(self, image, layers=None):
        """The attention weights of some cells, computed beside the ordinary forward pass.

        Args:
            image: [B, 3, H, W], float, normalised.
            layers: indices of `cells()`, negative from the end; None for all.

        Returns:
            list in the order of `layers`: [B, n, N, N], or, with windows of s x s tokens,
            [B, windows, n, s * s, s * s]; each row sums to 1.
        """
        return self.look(image, layers, lambda cell, *place: cell.attention_weights(*place))

    def look(self, image, layers, function):
        """`function(cell, tokens, h, w)` of some cells at the forward pass of an image."""
        cells = self.cells()
        wanted, found = [id(cells[index]) for index in block_indices(layers, len(cells))], {}

        def on_cell(cell, *place):
            if id(cell) in wanted:
                found[id(cell)] = function(cell, *place)

        for _ in self.stages(image, on_cell):
            pass
        return [found[key] for key in wanted]

    def reset_classifier(self, num_classes):
        """Puts a newly initialised classifier in place; 0 takes it away."""
        self.num_classes = num_classes
        self.class_names = None  # they were of the old one
        dtype = next(iter(self.parameters())).dtype
        self.head = new_classifier(self.num_features, num_classes, dtype)



# what extract_feat of every family can give
FEATURE_TYPES = ('raw', 'featmap', 'cls_token', 'avg_featmap')


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


def new_classifier(num_features, num_classes, dtype):
    """A newly initialised linear layer of a model's type; None for no classes."""
    if not num_classes:
        return None
    layer = Linear(num_features, num_classes)
    init_linear(layer)
    layer.to(dtype=dtype)
    return layer
