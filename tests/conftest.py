import gc
import os
import subprocess
import sys
from pathlib import Path

# Two of the tests' processes share two cores, and a test that says nothing of cores has one.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
import paddle
import pytest
from PIL import Image

from common.core import native
from common.core.errors import InputError
from common.core.processes import set_up_mkl
from common.runner import run
from common.zoo import load_family_file

set_up_mkl()  # half the time for the larger models

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish():
    """What the imports have made stays, so the collector need not look at it again and again:
    Paddle's tracer calls it for each function that it sees."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_kernels_left():
    """A test's set_up_cpu is its own: the compiled kernels, where there are some, round otherwise
    than Paddle's operators, whichever test ran before."""
    yield
    native.Kernels.library = None


@pytest.fixture
def float64():
    """Everything that is built in the test is float64."""
    paddle.set_default_dtype('float64')
    yield
    paddle.set_default_dtype('float32')


def run_script(arguments, folder='vit', timeout=240, env=None, whole=False):
    """Runs a command in a family's folder as a user does: (exit code, stdout, stderr).

    env: variables beside those of this process; with `whole` all that there are.
    """
    result = subprocess.run([sys.executable, *map(str, arguments)],
                            cwd=ROOT / folder, capture_output=True, text=True, timeout=timeout,
                            env=env if whole else {**os.environ, **(env or {})})
    return result.returncode, result.stdout, result.stderr


def refusal(function, *args, **options):
    """The message of the InputError; it is one line."""
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def refused_run(arguments, capfd, family='vit'):
    """The one error of a training program that ends with code 1; it runs in this process, since a
    new one takes a second for its imports."""
    config, datasets, model = (load_family_file(family, name)
                               for name in ('config', 'datasets', family))
    with pytest.raises(SystemExit) as end:
        run(config.get_config, config.update_config, getattr(model, f'build_{family}'),
            datasets.get_dataset, list(map(str, arguments)))
    err = capfd.readouterr().err
    error, = [line for line in err.splitlines() if line.startswith('error: ')]
    assert end.value.code == 1 and 'Traceback' not in err, err
    return error


def entries(images):
    """(name, label) of all images of a source."""
    return [(images.name(i), int(images.labels[i])) for i in range(len(images))]


def write_image_list(folder, train=16, val=8, classes=10, size=(48, 40), seed=0):
    """A small data set of noise JPEGs in the list layout; class k is brighter than class k - 1."""
    random = np.random.RandomState(seed)
    for split, count in (('train', train), ('val', val)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for index in range(count):
            label = index % classes
            pixels = random.randint(0, 60, (size[1], size[0], 3)) + label * 190 // classes
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / f'{index}.jpg')
            lines.append(f'{split}/{index}.jpg {label}\n')
        (folder / f'{split}_list.txt').write_text(''.join(lines))
    return folder


@pytest.fixture(scope='session')
def small_data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('small_data'))
