"""What layers of attention do in a forward pass, for attention maps and learned windows."""
import contextlib
from typing import NamedTuple

import paddle
from paddle import nn


class AttentionPass(NamedTuple):
    """What a layer of attention did in a forward pass."""

    layer: nn.Layer
    tokens: paddle.Tensor   # its input [B, N, C]
    weights: paddle.Tensor  # [B, n, N, N] or [B, nW, n, s * s, s * s]
    h: int                  # of the map of tokens
    w: int
    in_last_stage: bool


@contextlib.contextmanager
def recorded_attention(layers):
    """While it is open, a list gets (layer, its input tokens, its weights) at each call of some
    attention layers."""
    calls = []

    def ask_for_weights(layer, inputs):
        return (*inputs, True)  # return_weights

    def record(layer, inputs, outputs):
        x, weights = outputs
        calls.append((layer, inputs[0], weights))
        return x

    hooks = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(ask_for_weights))
        hooks.append(layer.register_forward_post_hook(record))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
