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


def slice_to_number(input, axes, starts, ends):  # noqa: A002 - the name is Paddle's
    """paddle.slice of one value, as a number."""
    return paddle.slice(input, axes, starts, ends).reshape([])


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
    """
    engine: Engine
    module: str
    operations: dict[str, Callable]
    places: list[Place]


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
        if patch.engine == engine:
            module = importlib.import_module(f'{engine.package}.{patch.module}')
            module.paddle = OldPaddle(**patch.operations)


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
