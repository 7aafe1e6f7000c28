"""What PaddleDetection and PaddleSeg of PyPI need on Paddle 2.6 and 3: the one file of patches.

Both were written for Paddle below 2.5, where a number was a tensor of shape [1]; now it has no
axis. A patch gives one module of an engine another `paddle`, in which some operations take and
return the old shapes; nothing else in the process sees it. They hold for one version of each
engine (ENGINES), and any other is refused. Without patches run, from git:

    PaddleDetection 666f597 with Paddle 3.3.1, numpy 1.26.4 and imgaug (which numpy 2 breaks)
    PaddleSeg       d7975e7 with Paddle 3.3.1 and numpy 2.3.5

What `zlib` in core/compat.py says holds for them too; `import common` sees to it.
"""
import contextlib
import functools
import importlib
import importlib.metadata
import io
import os
from collections.abc import Callable
from typing import NamedTuple

import paddle

from common.core.errors import InputError

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'requirements.txt')
HOW = f'`make engines` installs it, or pip install --no-deps -r {REQUIREMENTS}'


class Engine(NamedTuple):
    """An engine: the package that is imported, its name in the index, the version."""
    package: str
    distribution: str
    version: str


DETECTION = Engine('ppdet', 'paddledet', '2.6.0')
SEGMENTATION = Engine('paddleseg', 'paddleseg', '2.8.0')


class OldPaddle:
    """paddle, as one module of an engine sees it: with some other operations.

    Args:
        operations: {name: function} of those.
    """

    def __init__(self, **operations):
        self.__dict__.update(operations)

    def __getattr__(self, name):
        return getattr(paddle, name)


# Operations of old shapes

def concat(x, axis=0, name=None):
    """paddle.concat, which also takes numbers: each is a vector of one."""
    return paddle.concat([value.reshape([1]) if value.ndim == 0 else value for value in x], axis)


def float_ones_like(x):
    """paddle.ones_like as float32, whatever the type of x."""
    return paddle.ones_like(x, dtype='float32')


def mean_of_old(x):
    """paddle.mean as a vector of one."""
    return paddle.mean(x).reshape([1])


def number_of(value):
    """float() of a tensor or number of any shape with one value."""
    return value.item() if isinstance(value, paddle.Tensor) else float(value)


def no_flops(*args, **options):
    """Instead of paddle.flops, whose figure is printed at a training's end."""
    return 0


def slice_to_number(input, axes, starts, ends):  # noqa: A002 - the name is Paddle's
    """paddle.slice of one value, as a number."""
    return paddle.slice(input, axes, starts, ends).reshape([])


def multiclass_nms(bboxes, scores, score_threshold, nms_top_k, keep_top_k, nms_threshold=0.3,
                   normalized=True, nms_eta=1.0, background_label=-1, return_index=False,
                   return_rois_num=True, rois_num=None):
    """multiclass_nms of ppdet/modeling/ops.py, also in a graph of Paddle 3."""
    found, index, counts = paddle._C_ops.multiclass_nms3(
        bboxes, scores, rois_num, score_threshold, nms_top_k, keep_top_k, nms_threshold, normalized,
        nms_eta, background_label)
    return found, counts, index if return_index else None


# Patches

class Place(NamedTuple):
    """A line of an engine that fails without the patch: its number, its text, the error."""
    line: int
    code: str
    error: str


class Patch(NamedTuple):
    """What one module of an engine gets.

    Attributes:
        engine: Engine.
        module: name within its package.
        operations: {name: function} that its `paddle` has instead of Paddle's.
        places: list of Place.
        names: {name: function} that it has instead of its own, or of Python's.
        paddle_3: whether Paddle 2.6 needs none of it.
    """
    engine: Engine
    module: str
    operations: dict[str, Callable]
    places: list[Place]
    names: dict[str, Callable] = {}
    paddle_3: bool = False


NO_NUMBERS = 'ValueError: Expected axis >= -rank && axis < rank'
PATCHES = [
    Patch(DETECTION, 'modeling.proposal_generator.rpn_head',
          {'concat': concat, 'slice': slice_to_number}, [
              Place(199, 'for i in range(batch_size):',
                    'TypeError with numpy 2: only 0-dimensional arrays can be converted'),
              Place(234, 'bs_rois_num_collect = paddle.concat(bs_rois_num_collect)', NO_NUMBERS)]),
    Patch(DETECTION, 'modeling.proposal_generator.target', {'concat': concat}, [
        Place(241, 'new_rois_num = paddle.concat(new_rois_num)', NO_NUMBERS),
        Place(389, 'mask_rois_num = paddle.concat(mask_rois_num)', NO_NUMBERS)]),
    Patch(DETECTION, 'modeling.heads.cascade_head', {'concat': concat}, [
        Place(304, 'rois_num = paddle.concat([paddle.shape(r)[0] for r in rois])', NO_NUMBERS)]),
    Patch(DETECTION, 'modeling.post_process', {'concat': concat}, [
        Place(134, 'bbox_num = paddle.concat(bbox_num_list)', NO_NUMBERS),
        Place(146, 'scale = paddle.concat([scale_x, scale_y, scale_x, scale_y])', NO_NUMBERS)]),
    Patch(DETECTION, 'modeling.ops', {}, [
        Place(612, 'helper.append_op(',
              "TypeError in a graph: The type of '%BBoxes' should be one of [... Variable]")],
          {'multiclass_nms': multiclass_nms}, paddle_3=True),
    Patch(SEGMENTATION, 'utils.metrics', {'concat': concat}, [
        Place(57, 'pred_area = paddle.concat(pred_area)', NO_NUMBERS),
        Place(58, 'label_area = paddle.concat(label_area)', NO_NUMBERS),
        Place(59, 'intersect_area = paddle.concat(intersect_area)', NO_NUMBERS)]),
    # the loss is a vector again for core/train.py, line 273
    Patch(SEGMENTATION, 'models.losses.cross_entropy_loss',
          {'ones_like': float_ones_like, 'mean': mean_of_old}, [
              Place(130, 'coef = paddle.ones_like(label)',
                    'TypeError on Paddle 3, at line 133: promotion of float32 and int64')]),
    Patch(SEGMENTATION, 'core.train', {'flops': no_flops}, [
        Place(262, 'avg_loss += float(loss)',
              'TypeError with numpy 2.4: only 0-dimensional arrays can be converted'),
        Place(273, 'avg_loss_list = [l[0] / log_iters for l in avg_loss_list]',
              'IndexError: too many indices for array'),
        Place(392, '_ = paddle.flops(',
              'TypeError with numpy 2.4: only 0-dimensional arrays can be converted')],
          names={'float': number_of}),
]


def use_detection():
    """Imports PaddleDetection and patches it, once in a process.

    Raises:
        InputError: it is not installed, or in another version.
    """
    use(DETECTION)


def use_segmentation():
    """Imports PaddleSeg and patches it, once in a process.

    Raises:
        InputError: it is not installed, or in another version.
    """
    use(SEGMENTATION)


@functools.cache
def use(engine):
    """Checks an engine's version, imports the engine and applies its patches."""
    check_version(engine)
    import_quietly(engine.package)
    for patch in PATCHES:
        if patch.engine == engine and not (patch.paddle_3 and paddle.__version__.startswith('2.')):
            module = importlib.import_module(f'{engine.package}.{patch.module}')
            if patch.operations:
                module.paddle = OldPaddle(**patch.operations)
            vars(module).update(patch.names)


def check_version(engine):
    """Raises InputError unless the engine is installed in the version of the patches."""
    try:
        version = importlib.metadata.version(engine.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f'{engine.distribution} {engine.version} is not installed; '
                         f'{HOW}') from None
    if version != engine.version:
        raise InputError(f'{engine.distribution}: got version {version}, expected '
                         f'{engine.version}, for which the patches are; {HOW}')


def import_quietly(package):
    """Imports an engine without its remarks about packages that are not used here, and without what
    it changes in Pillow (a truncated image would pass as a whole one).

    Raises:
        InputError: it needs a package that is not there.
    """
    from PIL import ImageFile
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(f'{package} needs {error.name}, which is not installed; '
                         f'{HOW}') from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
