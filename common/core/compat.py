"""The workarounds for faults and gaps of Paddle, Paddle2ONNX and oneDNN.

What can be a function is one here. What is woven into other code has a comment `compat: ID` there,
and a row here. To drop a version, delete its rows and what `grep -rn 'compat: ID'` finds.

ID | of which versions | where it is worked round; then what goes wrong, by the smallest example

super | Paddle 2.6 | forward methods of layers and models
    to_static does not know super(): `def forward(self, x): return super().forward(x)` cannot be
    exported; the base class is named instead.
shape-in-generator | Paddle 2.6, 3.x | layers/position.py
    to_static does not turn `x.shape[0]` into a tensor in what a generator (`stages`) calls; an open
    batch is -1 there, or 1.
detach | Paddle 2.6 | layers/fast/sampling.py
    In static mode `x - floor(x.detach())` is garbage where the rest of that file follows; floor
    has gradient 0 anyway.
static-autocast | Paddle 2.6 | full_precision
    `paddle.amp.auto_cast(enable=False)` is an AssertionError in static mode, which has no
    autocast.
static-buffer | Paddle 2.6, 3.x | layers/windows.py
    `register_buffer('x', paddle.to_tensor([1]))` is a TypeError in static mode.
nan-coordinate | Paddle 2.6 | grid_sample
    `F.grid_sample(x, grid)` ends the process (SIGSEGV) where the grid is NaN.
pad-channels-last | Paddle2ONNX | pad_map
    `F.pad(x, [l, r, t, b], data_format='NHWC')` is exported as garbage; the form for all axes
    is not.
leaky-relu | Paddle2ONNX 2 with Paddle 3.3 | leaky_relu
    `F.leaky_relu(x)` is exported with a wrong slope.
integer-factor | Paddle 3.3 with oneDNN | layers/fast/sampling.py
    In a graph `(i + j) * 4` of integers becomes `i + j * 4` (operator_scale_onednn_fuse_pass);
    eager and ONNX are right.
wrong-passes | Paddle 3.3 with oneDNN | WRONG_PASSES, deploy/paddle_inference.py
    Passes over an exported graph that change its result; see there.
onednn-resize | Paddle 3.3 with oneDNN | deploy/paddle_inference.py
    A graph with `F.interpolate(x, [h, w], mode='bilinear')` is a NotImplementedError
    (ConvertPirAttribute2RuntimeAttribute); it runs without oneDNN.
bfloat16-operators | Paddle 2.6 with oneDNN | BFLOAT16_OPERATORS, deploy/paddle_inference.py
    `enable_mkldnn_bfloat16()` fails at operators that are not matrix products.
bfloat16-graph | Paddle 2.6 | train/worker.py
    to_static in bfloat16 autocast makes a float16 graph; refused.
truncated-normal | Paddle 2.6, 3.x | layers/init.py
    `TruncatedNormal(std=.02)` cuts at 2 std in 2.6 and at -2 and 2 in 3.x; the plain normal is
    used.
index-type | Paddle 2.6, 3.x | layers/windows.py
    `layer.to(dtype='bfloat16')` casts integer buffers too; the index is made again.
flash-trial | Paddle 2.6, 3.x | layers/flash_attention.py
    Where a GPU has no FlashAttention, 2.6 raises at the call and 3.x is slow; it is tried
    first.
scaler-message | Paddle 2.6, 3.x | train/precision.py
    After an overflow GradScaler prints `float(tensor of shape [1])`, a TypeError with numpy 2.4:
    the first overflow would end a float16 training.
optimizer-state | Paddle 2.6 | train/checkpoint.py
    `optimizer.set_state_dict(state)` and then `optimizer.state_dict()` is empty before the
    first step.
graph-files | Paddle 2.6 | deploy/folder.py
    `paddle.jit.save` writes model.pdmodel and model.pdiparams.info instead of model.json.
zlib | Paddle 2.6 | common/__init__.py
    `import paddle, PIL.Image` and then a PNG crash, since Paddle exports its own zlib.
remarks | Paddle 3 | core/quiet_paddle.py
    `import paddle` says that there is no ccache, and that OMP_NUM_THREADS is set.
kernels-by-pieces | Paddle 2.6 | layers/fast/kernels.py
    to_static by pieces (full_graph=False) stops where code asks for a tensor's address; it goes
    with PADDLE_VITAE_KERNELS=0, or before set_up_cpu.
mkl-amd | Paddle 2.6, 3.x | core/processes.py
    Its MKL of 2019 leaves an AMD processor's AVX2 alone.
pip-install | Paddle2ONNX 2 | deploy/graph.py
    `paddle2onnx.export(..., 'file.onnx')` has pip install packages; into memory it does not.
"""
import contextlib

import paddle
import paddle.nn.functional as F

# compat: wrong-passes
# Passes over a graph in which Paddle 3.3 with oneDNN makes mistakes. No time is lost without them.
WRONG_PASSES = (
    # merges a reshape into the transpose before it, also where that has more axes than the result
    'operator_reshape_onednn_fuse_pass',
    # applies the factor of a sum of integers to one of the terms only
    'operator_scale_onednn_fuse_pass',
    # overwrites what oneDNN computed, where another operator still needs it
    'inplace_pass',
)
# compat: bfloat16-operators
BFLOAT16_OPERATORS = {'fc'}  # those that Paddle 2.6 runs in bfloat16


# compat: static-autocast
def full_precision():
    """A block without autocast."""
    return paddle.amp.auto_cast(enable=False) if paddle.in_dynamic_mode() \
        else contextlib.nullcontext()


# compat: leaky-relu
def leaky_relu(x, slope=0.01):
    """x where it is positive, slope * x elsewhere; in two parts."""
    return F.relu(x) - slope * F.relu(-x)


# compat: pad-channels-last
def pad_map(x, top, bottom, left, right):
    """Puts zeros around a map [B, H, W, C]; no operator where there is nothing to put."""
    if top + bottom + left + right == 0:
        return x
    return F.pad(x, [0, 0, top, bottom, left, right, 0, 0])  # of all axes


# compat: nan-coordinate
def grid_sample(features, columns, rows, size):
    """Bilinear samples of a map, zero outside of it; NaN where a coordinate is NaN.

    Args:
        features: [B, D, H, W].
        columns, rows: from -1 at the first pixel's centre to 1 at the last one's; they broadcast
            to B * h * w coordinates.
        size: (h, w).

    Returns:
        [B, D, h, w], in the type of the coordinates.
    """
    zeros = (columns + rows) * 0  # NaN where one of them is
    # 9 is outside; a comparison with NaN is false
    columns, rows = (paddle.where(paddle.logical_and(value > -9, value < 9), value,
                                  paddle.full_like(value, 9.0))
                     for value in (columns + zeros, rows + zeros))
    grid = paddle.stack([columns, rows], axis=-1).reshape([-1, *size, 2])
    samples = F.grid_sample(features.astype(grid.dtype), grid, mode='bilinear',
                            padding_mode='zeros', align_corners=True)
    return samples + zeros.reshape([-1, 1, *size])
