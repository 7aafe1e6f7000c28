"""Vision Transformer (ViT) and its ResNet hybrid, for image classification.

Sources: "An Image is Worth 16x16 Words" (arXiv 2010.11929); the parameter names are those of
PaddleViT's image_classification/ViT/vit.py, so that its released .pdparams load unchanged.
Deliberate differences from PaddleViT are listed in vit/README.md. The hybrid's numbers follow
timm's vit_base_r50_s16 (weight standardisation with 1e-8 under the root, GroupNorm eps 1e-5).

Letters: B batch, N tokens (class token first), C channels, H W image in pixels,
h w grid of patches, n heads, d = C / n.
"""
import paddle
import paddle.nn.functional as F
from paddle import nn

from common.core.errors import InputError
from common.core.sizes import to_pair
from common.layers.attention import Attention
from common.layers.basic import Dropout, DropPath, Mlp, drop_path_rates, to_map, to_tokens
from common.layers.classifier import block_indices, check_feature_type, new_classifier
from common.layers.fast import Conv2D, LayerNorm
from common.layers.init import init_linear, kaiming_normal_, lecun_normal_, normal_, ones_, zeros_
from common.layers.position import with_class_token
from common.weights.dialects import Dialect, count_of

NORM_EPS = 1e-6

# Names of other codes, and PaddleViT's, which are this model's own but for two in 2021.
# timm's are also those of MAE, DeiT and Meta's.
PADDLEVIT = Dialect(
    'the first PaddleViT', r'^encoder\.layers\.0\.attn_norm\.weight$',
    names=((r'^patch_embedding\.position_embeddings?$', 'position_embedding'),
           (r'^patch_embedding\.cls_token$', 'cls_token')))
TIMM = Dialect(
    'timm', r'^blocks\.0\.norm1\.weight$',
    names=(
        (r'^patch_embed\.backbone\.stem\.conv\.', 'patch_embedding.backbone.conv_root.'),
        (r'^patch_embed\.backbone\.stem\.norm\.', 'patch_embedding.backbone.gn_root.'),
        (r'^patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\.',
         lambda m: f'patch_embedding.backbone.block{int(m[1]) + 1}.unit{int(m[2]) + 1}.'),
        (r'(unit\d+)\.norm(\d)\.', r'\1.gn\2.'),
        (r'\.downsample\.conv\.', '.conv_proj.'), (r'\.downsample\.norm\.', '.gn_proj.'),
        (r'^pos_embed$', 'position_embedding'),
        (r'^patch_embed\.proj\.', 'patch_embedding.patch_embedding.'),
        (r'^blocks\.', 'encoder.layers.'), (r'\.norm1\.', '.attn_norm.'),
        (r'\.norm2\.', '.mlp_norm.'), (r'\.attn\.proj\.', '.attn.out.'),
        (r'^norm\.', 'encoder.encoder_norm.'), (r'^pre_logits\.fc\.', 'pre_logits.0.'),
        (r'^head\.', 'classifier.')),
    dropped=(r'^decoder_', r'^mask_token$'))  # MAE's decoder
MMCLS = Dialect(
    'MMClassification', r'^backbone\.layers\.0\.ln1\.weight$',
    names=(
        (r'^backbone\.', ''), (r'^pos_embed$', 'position_embedding'),
        (r'^patch_embed\.projection\.', 'patch_embedding.patch_embedding.'),
        (r'^layers\.', 'encoder.layers.'), (r'\.ln1\.', '.attn_norm.'), (r'\.ln2\.', '.mlp_norm.'),
        (r'\.attn\.proj\.', '.attn.out.'), (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
        (r'\.ffn\.layers\.1\.', '.mlp.fc2.'), (r'^ln1\.', 'encoder.encoder_norm.'),
        (r'^head\.layers\.pre_logits\.', 'pre_logits.0.'),
        (r'^head\.layers\.head\.', 'classifier.')))
HUGGING_FACE = Dialect(
    'Hugging Face', r'^(vit\.)?encoder\.layer\.0\.attention\.attention\.query\.weight$',
    names=(
        (r'^vit\.', ''), (r'^embeddings\.cls_token$', 'cls_token'),
        (r'^embeddings\.position_embeddings$', 'position_embedding'),
        (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embedding.patch_embedding.'),
        (r'^encoder\.layer\.', 'encoder.layers.'), (r'\.layernorm_before\.', '.attn_norm.'),
        (r'\.layernorm_after\.', '.mlp_norm.'), (r'\.attention\.output\.dense\.', '.attn.out.'),
        (r'\.intermediate\.dense\.', '.mlp.fc1.'), (r'\.output\.dense\.', '.mlp.fc2.'),
        (r'^layernorm\.', 'encoder.encoder_norm.')),
    fused=((r'^(.*)\.attention\.attention\.(?P<part>query|key|value)\.(weight|bias)$',
            ('query', 'key', 'value'), r'\1.attn.qkv.\3'),),
    dropped=(r'^(vit\.)?pooler\.',))
GOOGLE = Dialect(
    'Google', r'^Transformer/encoderblock_0/',
    names=(
        (r'^cls$', 'cls_token'),
        (r'^Transformer/posembed_input/pos_embedding$', 'position_embedding'),
        (r'^embedding/', 'patch_embedding.patch_embedding/'),
        (r'^(conv_root|gn_root|block\d/)', r'patch_embedding.backbone.\1'),
        (r'^Transformer/encoderblock_(\d+)/', r'encoder.layers.\1/'),
        (r'/LayerNorm_0/', '/attn_norm/'), (r'/LayerNorm_2/', '/mlp_norm/'),
        (r'/MultiHeadDotProductAttention_1/', '/attn/'),
        (r'/MlpBlock_3/Dense_0/', '/mlp/fc1/'), (r'/MlpBlock_3/Dense_1/', '/mlp/fc2/'),
        (r'^Transformer/encoder_norm/', 'encoder.encoder_norm/'), (r'^head/', 'classifier/'),
        (r'^pre_logits/', 'pre_logits.0/'),
        (r'/(kernel|scale)$', '.weight'), (r'/', '.')),
    fused=((r'^(.*)/(?P<part>query|key|value)/(kernel|bias)$', ('query', 'key', 'value'),
            r'\1/qkv/\3'),))
DIALECTS = (PADDLEVIT, TIMM, MMCLS, HUGGING_FACE, GOOGLE)
# Names in files of other models, and what these are.
LOOKALIKES = (
    (r'(^|\.)(dist_token|distillation_token)$',
     'a distilled DeiT, whose second token and classifier this model lacks; take the file of the '
     'same DeiT without "distilled" in its name'),
    (r'(^|\.)(reg_token|register_tokens)$', 'a ViT with register tokens, which this model lacks'),
    (r'\.(ls1\.gamma|gamma_1|layer_scale1\.lambda1)$',
     'a ViT with LayerScale (DeiT III, BEiT, DINOv2), which this model lacks'),
    (r'(^|\.)(norm_pre|ln_pre|pre_layrnorm)\.weight$', 'an image encoder of CLIP, which has a '
     'norm before its blocks'),
    (r'(^|\.)fc_norm\.weight$', 'a ViT that averages its patch tokens (a fine-tuned MAE); this '
     'model classifies by the class token'))


class StdConv2D(nn.Conv2D):
    """Convolution with a standardised weight (arXiv 1903.10520) and TensorFlow's SAME padding."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias_attr=False)

    def forward(self, x):
        weight = self.weight
        mean = weight.mean(axis=[1, 2, 3], keepdim=True)
        variance = ((weight - mean) ** 2).mean(axis=[1, 2, 3], keepdim=True)
        weight = (weight - mean) / paddle.sqrt(variance + 1e-8)
        return F.conv2d(x, weight, stride=self._stride, padding='SAME')


def group_norm(channels):
    return nn.GroupNorm(32, channels, epsilon=1e-5)


class Bottleneck(nn.Layer):
    """1x1 - 3x3 - 1x1 residual unit with GroupNorm, ReLU after the addition."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        hidden = out_channels // 4
        self.conv1 = StdConv2D(in_channels, hidden, 1)
        self.gn1 = group_norm(hidden)
        self.conv2 = StdConv2D(hidden, hidden, 3, stride)
        self.gn2 = group_norm(hidden)
        self.conv3 = StdConv2D(hidden, out_channels, 1)
        self.gn3 = group_norm(out_channels)
        self.conv_proj = None
        if stride != 1 or in_channels != out_channels:
            self.conv_proj = StdConv2D(in_channels, out_channels, 1, stride)
            self.gn_proj = group_norm(out_channels)

    def forward(self, x):
        shortcut = x if self.conv_proj is None else self.gn_proj(self.conv_proj(x))
        x = F.relu(self.gn1(self.conv1(x)))
        x = F.relu(self.gn2(self.conv2(x)))
        return F.relu(self.gn3(self.conv3(x)) + shortcut)


class ResNetBackbone(nn.Layer):
    """The first three stages of the paper's ResNet-50 (BiT): [B, 3, H, W] -> [B, 1024, H/16, W/16].

    The paper moves the fourth stage's units into the third, so the units are 3, 4 and 9.
    """

    out_channels = 1024
    stride = 16

    def __init__(self, in_channels=3, units=(3, 4, 9)):
        super().__init__()
        self.conv_root = StdConv2D(in_channels, 64, 7, 2)
        self.gn_root = group_norm(64)
        channels = 64
        for stage, count in enumerate(units):
            out_channels = 256 * 2 ** stage
            blocks = nn.LayerDict()
            for unit in range(count):
                stride = 2 if unit == 0 and stage > 0 else 1
                blocks[f'unit{unit + 1}'] = Bottleneck(channels, out_channels, stride)
                channels = out_channels
            setattr(self, f'block{stage + 1}', blocks)
        self.num_stages = len(units)

    def forward(self, x):
        x = F.relu(self.gn_root(self.conv_root(x)))                      # [B, 64, H/2, W/2]
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding='SAME')     # [B, 64, H/4, W/4]
        for stage in range(self.num_stages):
            for unit in getattr(self, f'block{stage + 1}').values():
                x = unit(x)
        return x                                                         # [B, 1024, H/16, W/16]


class PatchEmbedding(nn.Layer):
    """Non-overlapping patches, projected: [B, 3, H, W] -> [B, h * w, C].

    With `backbone='r50'` the patches are the pixels of the ResNet's feature map.
    """

    def __init__(self, patch_size=16, in_channels=3, embed_dim=768, backbone=None):
        super().__init__()
        self.patch_size = patch_size
        self.backbone = None
        kernel = patch_size
        if backbone is not None:
            if backbone != 'r50':
                raise InputError(f"MODEL.BACKBONE: got {backbone!r}, expected None or 'r50'")
            self.backbone = ResNetBackbone(in_channels)
            if patch_size % self.backbone.stride:
                raise InputError(f'MODEL.PATCH_SIZE: got {patch_size}, expected a multiple of '
                                 f'{self.backbone.stride} with MODEL.BACKBONE {backbone!r}')
            kernel = patch_size // self.backbone.stride
            in_channels = self.backbone.out_channels
        self.patch_embedding = Conv2D(in_channels, embed_dim, kernel, stride=kernel)

    def grid(self, height, width):
        """The patches (h, w) of an image in pixels; a size that does not divide is an error."""
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise InputError(f'image size: got {height}x{width}, expected a height and a width '
                             f'that are multiples of the patch size {self.patch_size}')
        return height // self.patch_size, width // self.patch_size

    def forward(self, x):
        if self.backbone is not None:
            x = self.backbone(x)
        return to_tokens(self.patch_embedding(x))    # [B, C, h, w] -> [B, h * w, C]


class TransformerLayer(nn.Layer):
    """Pre-norm encoder block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, embed_dim, num_heads, attn_head_size, qkv_bias, mlp_ratio,
                 dropout, attention_dropout, drop_path):
        super().__init__()
        self.attn_norm = LayerNorm(embed_dim, epsilon=NORM_EPS)
        self.attn = Attention(embed_dim, num_heads, qkv_bias, dropout, attention_dropout,
                              head_dim=attn_head_size, out_name='out')
        self.mlp_norm = LayerNorm(embed_dim, epsilon=NORM_EPS)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.attn_norm(x)))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


class Encoder(nn.Layer):
    """The stack of blocks and the final norm. [B, N, C] -> [B, N, C]"""

    def __init__(self, embed_dim, depth, num_heads, attn_head_size, qkv_bias, mlp_ratio,
                 dropout, attention_dropout, drop_path):
        super().__init__()
        self.layers = nn.LayerList([
            TransformerLayer(embed_dim, num_heads, attn_head_size, qkv_bias, mlp_ratio,
                             dropout, attention_dropout, rate)
            for rate in drop_path_rates(drop_path, depth)])
        self.encoder_norm = LayerNorm(embed_dim, epsilon=NORM_EPS)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.encoder_norm(x)


class VisionTransformer(nn.Layer):
    """ViT with a class token.

    Args:
        image_size: int or (height, width) in pixels; fixes the size of the position embedding.
            Other sizes run too: the embedding is then resized on the way.
        patch_size: side of a patch in pixels (with a backbone, of its total stride).
        in_channels: channels of the image.
        num_classes: outputs of the classifier; 0 makes `forward` return the features.
        embed_dim, depth, num_heads, mlp_ratio, qkv_bias: as in the paper.
        attn_head_size: width of a head; None is embed_dim / num_heads.
        dropout: after the position embedding and every dense layer but q, k and v, in [0, 1).
        attention_dropout: on the attention weights, in [0, 1).
        drop_path: stochastic depth of the last block, in [0, 1); linear from 0 at the first.
        representation_size: width of the tanh layer before the classifier (the paper's
            pre-training head); None for none.
        backbone: None, or 'r50' for the hybrid.
    """

    num_prefix_tokens = 1
    classifier_name = 'classifier'
    representation_name = 'pre_logits'
    lookalikes = LOOKALIKES

    def __init__(self, image_size=224, patch_size=16, in_channels=3, num_classes=1000,
                 embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0, qkv_bias=True,
                 attn_head_size=None, dropout=0.0, attention_dropout=0.0, drop_path=0.0,
                 representation_size=None, backbone=None):
        super().__init__()
        self.patch_embedding = PatchEmbedding(patch_size, in_channels, embed_dim, backbone)
        self.grid = self.patch_embedding.grid(*to_pair(image_size))
        self.position_embedding = self.create_parameter(
            [1, self.num_prefix_tokens + self.grid[0] * self.grid[1], embed_dim])
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        self.pos_dropout = Dropout(dropout)
        self.encoder = Encoder(embed_dim, depth, num_heads, attn_head_size, qkv_bias, mlp_ratio,
                               dropout, attention_dropout, drop_path)
        self.pre_logits = None
        if representation_size is not None:
            self.pre_logits = nn.Sequential(nn.Linear(embed_dim, representation_size), nn.Tanh())
        self.num_features = representation_size or embed_dim
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else None
        init_weights(self)

    # The loader of common/weights/load.py resizes these; {name: (prefix tokens, (h, w))}.
    def position_embeddings(self):
        return {'position_embedding': (self.num_prefix_tokens, self.grid)}

    def dialects(self):
        """The codes whose weight files this model understands, see common/weights/dialects.py."""
        return DIALECTS

    def cells(self):
        """The blocks, in order."""
        return list(self.encoder.layers)

    def no_weight_decay(self):
        """Parameters that are never decayed, beside biases and norms."""
        return {'position_embedding', 'cls_token'}

    def embed(self, image):
        """[B, 3, H, W] -> [B, 1 + h * w, C], class token first, with the position embedding."""
        grid = self.patch_embedding.grid(*image.shape[2:])
        x = self.patch_embedding(image)                                       # [B, h * w, C]
        return self.pos_dropout(with_class_token(
            x, self.cls_token, self.position_embedding, self.grid, grid))

    def forward_features(self, image):
        """[B, 3, H, W] -> [B, num_features]: the class token after the last norm."""
        x = self.encoder(self.embed(image))[:, 0]
        return x if self.pre_logits is None else self.pre_logits(x)

    def forward_head(self, features):
        """[B, num_features] -> logits [B, num_classes]."""
        return features if self.classifier is None else self.classifier(features)

    def forward(self, image):
        """[B, 3, H, W], float, normalised -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(image))

    def extract_feat(self, image, out_type=None):
        """Features after the last norm, as a tuple with one entry for each stage (here one).

        Args:
            image: [B, 3, H, W], float, normalised.
            out_type: 'raw' all tokens [B, 1 + h * w, C]; 'featmap' [B, C, h, w];
                'cls_token' [B, C]; 'avg_featmap' [B, C], the mean over the patches;
                None, as MMClassification does, the pair [featmap, cls_token].

        Raises:
            InputError: an unknown out_type.
        """
        check_feature_type(out_type)
        h, w = self.patch_embedding.grid(*image.shape[2:])
        tokens = self.encoder(self.embed(image))                              # [B, 1 + h * w, C]
        if out_type == 'raw':
            return (tokens,)
        if out_type == 'cls_token':
            return (tokens[:, 0],)
        patches = tokens[:, self.num_prefix_tokens:]                          # [B, h * w, C]
        if out_type == 'avg_featmap':
            return (patches.mean(axis=1),)
        featmap = to_map(patches, h, w)                                       # [B, C, h, w]
        return (featmap,) if out_type == 'featmap' else ([featmap, tokens[:, 0]],)

    def get_attention(self, image, layers=None):
        """The attention weights of some layers, computed beside the ordinary forward pass.

        Args:
            image: [B, 3, H, W], float, normalised.
            layers: indices of blocks, negative from the end; None for all.

        Returns:
            list of [B, n, N, N], in the order of `layers`; each row sums to 1.
        """
        wanted, found = block_indices(layers, len(self.encoder.layers)), {}
        x = self.embed(image)
        for index, layer in enumerate(self.encoder.layers):
            if index in wanted:
                found[index] = layer.attn.weights_and_values(layer.attn_norm(x))[0]
            x = layer(x)
        return [found[index] for index in wanted]

    def reset_classifier(self, num_classes):
        """Puts a newly initialised classifier in place; 0 takes it away."""
        self.num_classes = num_classes
        self.class_names = None  # they were of the old one
        self.classifier = new_classifier(self.num_features, num_classes, self.cls_token.dtype)


def config_of(shapes):
    """The MODEL keys that weights of a VisionTransformer tell, as far as they do.

    shapes: {own name: shape}; those of linear layers' weights are not to be read, since PyTorch's
        are not transposed yet.
    """
    width = shapes['encoder.layers.0.attn_norm.weight'][0]
    found = {'EMBED_DIM': width, 'DEPTH': count_of(r'encoder\.layers\.(\d+)\.', shapes),
             'QKV_BIAS': 'encoder.layers.0.attn.qkv.bias' in shapes,
             'BACKBONE': 'r50' if any('.backbone.' in name for name in shapes) else None}
    found['MLP_RATIO'] = shapes['encoder.layers.0.mlp.fc1.bias'][0] / width
    if found['BACKBONE'] is None:
        found['PATCH_SIZE'] = shapes['patch_embedding.patch_embedding.weight'][-1]
    found['REPRESENTATION_SIZE'] = shapes.get('pre_logits.0.bias', [None])[0]
    return found


def init_weights(model):
    """Initialises every parameter of a VisionTransformer.

    | parameter                               | weight                              | bias |
    |-----------------------------------------|-------------------------------------|------|
    | linear (qkv, out, fc1, fc2, classifier) | normal, std .02                     | 0    |
    | patch convolution                       | normal, std sqrt(1 / fan_in)        | 0    |
    | LayerNorm, GroupNorm                    | 1                                   | 0    |
    | position_embedding, cls_token           | normal, std .02                     |      |
    | ResNet convolutions                     | normal, std sqrt(2 / fan_out)       |      |
    | last GroupNorm of a ResNet unit (gn3)   | 0 (the unit starts as its shortcut) | 0    |
    """
    normal_(model.position_embedding)
    normal_(model.cls_token)
    for name, layer in model.named_sublayers():
        if isinstance(layer, nn.Linear):
            init_linear(layer)
        elif isinstance(layer, StdConv2D):
            kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Conv2D):
            lecun_normal_(layer.weight)
            zeros_(layer.bias)
        elif isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
            (zeros_ if name.endswith('.gn3') else ones_)(layer.weight)
            zeros_(layer.bias)


def build_vit(config):
    """The model that a config of vit/config.py describes."""
    model = config.MODEL
    return VisionTransformer(
        image_size=config.DATA.IMAGE_SIZE,
        patch_size=model.PATCH_SIZE,
        in_channels=config.DATA.IMAGE_CHANNELS,
        num_classes=model.NUM_CLASSES,
        embed_dim=model.EMBED_DIM,
        depth=model.DEPTH,
        num_heads=model.NUM_HEADS,
        mlp_ratio=model.MLP_RATIO,
        qkv_bias=model.QKV_BIAS,
        attn_head_size=model.ATTN_HEAD_SIZE,
        dropout=model.DROPOUT,
        attention_dropout=model.ATTENTION_DROPOUT,
        drop_path=model.DROPPATH,
        representation_size=model.REPRESENTATION_SIZE,
        backbone=model.BACKBONE)
