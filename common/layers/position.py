"""Learned position embeddings."""
import paddle
import paddle.nn.functional as F


def resize_position_embedding(position, num_prefix, old_grid, new_grid):
    """Resizes a learned position embedding to another grid of patches.

    Args:
        position: [1, num_prefix + h * w, C], the prefix (class token) first.
        num_prefix: how many leading tokens have no place in the grid.
        old_grid, new_grid: (h, w) in patches.

    Returns:
        [1, num_prefix + h' * w', C]: bicubic, no aligned corners, the prefix unchanged
        (as timm's resize_pos_embed without antialiasing).
    """
    if tuple(old_grid) == tuple(new_grid):
        return position
    channels = position.shape[-1]
    grid = position[:, num_prefix:].reshape([1, *old_grid, channels])      # [1, h, w, C]
    grid = F.interpolate(grid.transpose([0, 3, 1, 2]), size=list(new_grid),
                         mode='bicubic', align_corners=False)              # [1, C, h', w']
    grid = grid.flatten(2).transpose([0, 2, 1])                            # [1, h' * w', C]
    if num_prefix == 0:
        return grid
    return paddle.concat([position[:, :num_prefix], grid], axis=1)


def with_class_token(patches, cls_token, position, old_grid, new_grid):
    """Puts the class token before the patches and adds the position embedding.

    Args:
        patches: [B, h * w, C].
        cls_token: [1, 1, C].
        position: [1, 1 + h0 * w0, C], learned for `old_grid` (h0, w0).
        new_grid: (h, w) of the patches.

    Returns:
        [B, 1 + h * w, C].
    """
    B, _, C = patches.shape
    if not paddle.in_dynamic_mode():  # compat: shape-in-generator
        B = paddle.shape(patches)[0]  # an exported graph's batch is open
    cls_token = cls_token.expand([B, 1, C]).astype(patches.dtype)
    position = resize_position_embedding(position, 1, old_grid, new_grid)
    return paddle.concat([cls_token, patches], axis=1) + position
