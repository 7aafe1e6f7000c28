"""The names that other codes have for ViT's weights, and PaddleViT's, which are ViT's own here but
for two in 2021. timm's are also those of MAE, DeiT and Meta's, and of PaddleClas, whose linear
layers have Paddle's layout.

common/weights/dialects.py says what a Dialect is; vit.py's model finds this file by its name.
"""
from common.core.class_names import imagenet_21k_classes
from common.weights.dialects import Dialect, count_of

FIRST_SMALL = ('the first ViT-S of timm (before 0.4) and PaddleClas, 8 blocks of 768 channels, '
               'whose scores have the factor 768^-0.5 and whose norms have eps 1e-5, unlike this '
               'model')


def is_first_small(state):
    """Whether weights in timm's names are of the model that FIRST_SMALL describes; no other one
    published has its sizes without a bias in q, k and v."""
    def shape(end):
        return next((value.shape for name, value in state.items()
                     if name == end or name.endswith(f'.{end}')), None)

    return (shape('blocks.0.norm1.weight') == (768,) and shape('blocks.0.mlp.fc1.bias') == (2304,)
            and shape('blocks.7.norm1.weight') is not None
            and shape('blocks.8.norm1.weight') is None and shape('blocks.0.attn.qkv.bias') is None)


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
    dropped=(r'^decoder_', r'^mask_token$'),  # MAE's decoder
    unless=is_first_small)
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
# Names in files of other models, or {name: array} -> whether it is one, and what these are.
LOOKALIKES = (
    (is_first_small, FIRST_SMALL),
    (r'(^|\.)(dist_token|distillation_token)$',
     'a distilled DeiT, whose logits are the mean of two classifiers on two tokens, and this model '
     'has one of each; take the file of the same DeiT without "distilled" in its name'),
    (r'(^|\.)(reg_token|register_tokens)$', 'a ViT with register tokens, which this model lacks'),
    (r'\.(ls1\.gamma|gamma_1|layer_scale1\.lambda1)$',
     'a ViT with LayerScale (DeiT III, BEiT, DINOv2), which this model lacks'),
    (r'(^|\.)(norm_pre|ln_pre|pre_layrnorm)\.weight$', 'an image encoder of CLIP, which has a '
     'norm before its blocks'),
    (r'(^|\.)fc_norm\.weight$', 'a ViT that averages its patch tokens (a fine-tuned MAE); this '
     'model classifies by the class token'))
# Google's order, and timm's of Google's weights.
PUBLISHED_CLASSES = {21843: imagenet_21k_classes}


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
