"""A small Swin by its definition, in float64 with numpy, and its weights in each code's names.

Written from microsoft/Swin-Transformer's models/swin_transformer.py, window by window and pair by
pair; it shares nothing with vitaev2_vsa/swin.py. The writers take Microsoft's names and layouts
(PyTorch's, [out, in]) to those of the other codes.
"""
import math
import re

import numpy as np

DIMS, DEPTHS, HEADS, WINDOW, PATCH, IMAGE, CLASSES = (12, 24), (2, 2), (2, 4), 3, 4, 48, 5
# The same as arguments of create_model('swin_tiny').
SMALL = {'attention': ['window', 'window'], 'token_dims': list(DIMS), 'depths': list(DEPTHS),
         'num_heads': list(HEADS), 'window_size': WINDOW, 'image_size': IMAGE}


def weights(num_classes=CLASSES, seed=0):
    """{Microsoft's name: float32 array}, without buffers."""
    random, state = np.random.RandomState(seed), {}

    def draw(name, *shape, scale=None, mean=0.0):
        scale = scale or 1 / math.sqrt(math.prod(shape[1:]))
        state[name] = (mean + scale * random.standard_normal(shape)).astype(np.float32)

    def norm(name, size):
        draw(f'{name}.weight', size, scale=0.2, mean=1.0)
        draw(f'{name}.bias', size, scale=0.2)

    def linear(name, size_out, size_in, bias=True):
        draw(f'{name}.weight', size_out, size_in)
        if bias:
            draw(f'{name}.bias', size_out, scale=0.2)

    draw('patch_embed.proj.weight', DIMS[0], 3, PATCH, PATCH)
    draw('patch_embed.proj.bias', DIMS[0], scale=0.2)
    norm('patch_embed.norm', DIMS[0])
    for stage, dim in enumerate(DIMS):
        for block in range(DEPTHS[stage]):
            name = f'layers.{stage}.blocks.{block}'
            norm(f'{name}.norm1', dim)
            draw(f'{name}.attn.relative_position_bias_table', (2 * WINDOW - 1) ** 2, HEADS[stage],
                 scale=1.0)
            linear(f'{name}.attn.qkv', 3 * dim, dim)
            linear(f'{name}.attn.proj', dim, dim)
            norm(f'{name}.norm2', dim)
            linear(f'{name}.mlp.fc1', 4 * dim, dim)
            linear(f'{name}.mlp.fc2', dim, 4 * dim)
        if stage < len(DIMS) - 1:
            linear(f'layers.{stage}.downsample.reduction', 2 * dim, 4 * dim, bias=False)
            norm(f'layers.{stage}.downsample.norm', 4 * dim)
    norm('norm', DIMS[-1])
    linear('head', num_classes, DIMS[-1])
    return state


# The computation

def logits(state, images):
    """[B, 3, IMAGE, IMAGE] -> [B, classes], one image at a time."""
    state = {name: value.astype(np.float64) for name, value in state.items()}
    return np.stack([one_image(state, image) for image in images.astype(np.float64)])


def one_image(state, image):
    x = embed(state, image)
    for stage in range(len(DIMS)):
        for block in range(DEPTHS[stage]):
            name = f'layers.{stage}.blocks.{block}'
            shift = WINDOW // 2 if block % 2 and x.shape[0] > WINDOW else 0
            x = x + attention(state, f'{name}.attn', normed(state, f'{name}.norm1', x),
                              HEADS[stage], shift)
            hidden = dense(state, f'{name}.mlp.fc1', normed(state, f'{name}.norm2', x))
            x = x + dense(state, f'{name}.mlp.fc2', gelu(hidden))
        if stage < len(DIMS) - 1:
            x = merged(state, f'layers.{stage}.downsample', x)
    x = normed(state, 'norm', x).mean(axis=(0, 1))
    return dense(state, 'head', x)


def embed(state, image):
    """[3, H, W] -> [h, w, C]: each patch's products with the kernels."""
    kernel, side = state['patch_embed.proj.weight'], IMAGE // PATCH
    x = np.empty((side, side, DIMS[0]))
    for row in range(side):
        for column in range(side):
            patch = image[:, row * PATCH:(row + 1) * PATCH, column * PATCH:(column + 1) * PATCH]
            x[row, column] = (kernel * patch).sum(axis=(1, 2, 3)) + state['patch_embed.proj.bias']
    return normed(state, 'patch_embed.norm', x)


def attention(state, name, x, heads, shift):
    """[H, W, C] -> [H, W, C] in windows, of a map that is turned by `shift`; of what the turn
    brings together, two tokens see each other that were neighbours before it."""
    side, d = x.shape[0], x.shape[2] // heads
    turned = np.roll(x, (-shift, -shift), (0, 1))
    out = np.empty_like(turned)
    for top in range(0, side, WINDOW):
        for left in range(0, side, WINDOW):
            window = turned[top:top + WINDOW, left:left + WINDOW].reshape(WINDOW ** 2, -1)
            q, k, v = np.split(dense(state, f'{name}.qkv', window), 3, axis=1)
            mixed = [softmax(q[:, part] @ k[:, part].T / math.sqrt(d)
                             + pair_bias(state, name, head, top, left, side, shift)) @ v[:, part]
                     for head in range(heads) for part in [slice(head * d, (head + 1) * d)]]
            mixed = dense(state, f'{name}.proj', np.concatenate(mixed, axis=1))
            out[top:top + WINDOW, left:left + WINDOW] = mixed.reshape(WINDOW, WINDOW, -1)
    return np.roll(out, (shift, shift), (0, 1))


def pair_bias(state, name, head, top, left, side, shift):
    """What is added to a window's scores: the table's entry, and -100 for tokens of two regions."""
    table, places = state[f'{name}.relative_position_bias_table'], np.ndindex(WINDOW, WINDOW)
    places, span = list(places), 2 * WINDOW - 1

    def region(place):
        came_round = (top + place[0] >= side - shift, left + place[1] >= side - shift)
        return came_round if shift else None

    bias = np.empty((WINDOW ** 2, WINDOW ** 2))
    for i, one in enumerate(places):
        for j, two in enumerate(places):
            row = (one[0] - two[0] + WINDOW - 1) * span + one[1] - two[1] + WINDOW - 1
            bias[i, j] = table[row, head] - (0 if region(one) == region(two) else 100)
    return bias


def merged(state, name, x):
    """[H, W, C] -> [H / 2, W / 2, 2 C]"""
    x = np.concatenate([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], axis=-1)
    return normed(state, f'{name}.norm', x) @ state[f'{name}.reduction.weight'].T


def dense(state, name, x):
    return x @ state[f'{name}.weight'].T + state[f'{name}.bias']


def normed(state, name, x):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


# The names and layouts of the codes

def buffers(end='attn'):
    """{name: array}: what Microsoft's code keeps beside the parameters."""
    found = {}
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            name = f'layers.{stage}.blocks.{block}'
            found[f'{name}.{end}.relative_position_index'] = np.arange(
                WINDOW ** 4).reshape(WINDOW ** 2, -1)
            if block % 2:
                found[f'{name}.attn_mask'] = np.full((4, WINDOW ** 2, WINDOW ** 2), -100.0,
                                                     np.float32)
    return found


def renamed(state, pairs):
    for pattern, new in pairs:
        state = {re.sub(pattern, new, name): value for name, value in state.items()}
    return state


def timm(state):
    """Of timm since 0.9: models/swin_transformer.py."""
    return renamed(state, [
        (r'^layers\.(\d)\.downsample', lambda m: f'layers.{int(m[1]) + 1}.downsample'),
        ('^head', 'head.fc')])


def mmpretrain(state, last_norm='norm1'):
    """Of mmpretrain: models/backbones/swin_transformer.py, models/utils/embed.py's PatchMerging,
    whose Unfold has the channel before the row and the column, mmcv's FFN."""
    found = {}
    for name, value in state.items():
        if '.downsample.' in name:
            parts = np.split(value, 4, axis=-1)  # of (row, column): (0, 0), (1, 0), (0, 1), (1, 1)
            value = np.stack([parts[0], parts[2], parts[1], parts[3]], axis=-1)  # row, then column
            value = value.reshape(*value.shape[:-2], -1)
        found[name] = value
    return renamed(found, [
        (r'\.attn\.', '.attn.w_msa.'), (r'\.mlp\.fc1', '.ffn.layers.0.0'),
        (r'\.mlp\.fc2', '.ffn.layers.1'), (r'^patch_embed\.proj', 'patch_embed.projection'),
        ('^layers', 'stages'), ('^norm', last_norm), ('^(?!head)', 'backbone.'),
        ('^head', 'head.fc')])


def hugging_face(state):
    """Of transformers: models/swin/convert_swin_timm_to_pytorch.py."""
    found = {}
    for name, value in state.items():
        if '.qkv.' in name:
            for part, third in zip(('query', 'key', 'value'), np.split(value, 3), strict=True):
                found[name.replace('attn.qkv', f'attention.self.{part}')] = third
        else:
            found[name] = value
    return renamed(found, [
        (r'attn\.proj', 'attention.output.dense'), (r'\.attn\.', '.attention.self.'),
        (r'patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
        (r'patch_embed\.norm', 'embeddings.norm'), ('norm1', 'layernorm_before'),
        ('norm2', 'layernorm_after'), (r'mlp\.fc1', 'intermediate.dense'),
        (r'mlp\.fc2', 'output.dense'), ('^norm', 'layernorm'), ('^layers', 'encoder.layers'),
        ('^(?!head)', 'swin.'), ('^head', 'classifier')])


def paddle_layout(state):
    """PyTorch's linear layers as Paddle's; a bias table is no linear layer."""
    return {name: np.ascontiguousarray(value.T)
            if value.ndim == 2 and name.endswith('.weight') else value
            for name, value in state.items()}


def paddlevit(state):
    """Of PaddleViT: image_classification/SwinTransformer/swin.py."""
    return renamed(paddle_layout(state), [
        (r'^patch_embed\.proj', 'patch_embedding.patch_embed'),
        (r'^patch_embed\.norm', 'patch_embedding.norm'), ('^layers', 'stages'), ('^head', 'fc')])
