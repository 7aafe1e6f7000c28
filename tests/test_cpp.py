"""The C++ programs of examples/cpp, compiled against the installed packages: they read, resize and
normalise a picture as `predict` does, and give the logits of the same runtime in Python."""
import json
import os
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from PIL import Image

from common.data.input_images import pixel_batches
from common.runtimes import load_exported
from tests.conftest import ROOT
from tests.test_export import exported, needs_openvino  # noqa: F401 - a fixture

CXX = os.environ.get('CXX', 'g++')
needs_compiler = pytest.mark.skipif(not shutil.which(CXX) or not shutil.which('make'),
                                    reason='no C++ compiler, or no make')
LIBPYTHON = sysconfig.get_config_var('Py_ENABLE_SHARED')
PROGRAMS = [
    pytest.param('classify_openvino', 'onnx', 'openvino', marks=needs_openvino),
    pytest.param('classify_paddle', 'paddle', 'paddle', marks=pytest.mark.skipif(
        not LIBPYTHON, reason='this Python was built without a libpython to link with'))]
# wider and higher than the model's 32 pixels, smaller, as large, and more than twice as high as
# wide, which Pillow 13 resizes in the other order
SIZES = [(90, 120), (60, 41), (20, 24), (32, 32), (100, 37)]


@needs_compiler
@pytest.mark.parametrize('program, format, runtime', PROGRAMS)
def test_a_program_gives_the_logits_of_python(program, format, runtime, exported,  # noqa: F811
                                              tmp_path):
    subprocess.run(['make', '-s', '-C', ROOT / 'examples' / 'cpp', program, f'OUT={tmp_path}',
                    f'PYTHON={sys.executable}', f'CXX={CXX}', 'CXXFLAGS=-O0'], check=True)
    _, source = exported('vit_digits', format)
    folder = tmp_path / 'export'
    shutil.copytree(source, folder)
    facts = json.loads((folder / 'export.json').read_text())
    facts['preprocessing']['crop_pct'] = 0.9   # a centre, 32 of 35
    facts['class_names'][0] = 'n\u00fcll "0" \u706b'
    (folder / 'export.json').write_text(json.dumps(facts))
    random, pictures = np.random.RandomState(0), []
    for number, (height, width) in enumerate(SIZES):
        pictures.append(str(tmp_path / f'{number}.ppm'))
        pixels = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures[-1])
    classifier = load_exported(folder, runtime, threads=1)
    pixels, _ = next(pixel_batches(classifier.preprocessing, pictures, 8, 0))
    expected = classifier(pixels)

    def run(*words):
        return subprocess.run([tmp_path / program, *words], capture_output=True, text=True)

    done = run(folder, *pictures[:-1], '-logits')
    assert done.returncode == 0, done.stderr
    logits = np.array([line.split() for line in done.stdout.splitlines()], np.float64)
    assert np.abs(logits - expected[:-1]).max() < 1e-5 * np.abs(expected).max()
    # the order of the two passes depends on the version of Pillow
    done = run(folder, pictures[-1])
    names = {part.rsplit(': ', 1)[0] for part in done.stdout.strip().split('  ')[1:]}
    assert len(names) == 5 and names <= set(facts['class_names']), done.stdout

    done = run(folder, folder / 'export.json')
    assert done.returncode == 1 and 'expected a PPM file' in done.stderr
    facts['format'] = 'another'
    (folder / 'export.json').write_text(json.dumps(facts))
    done = run(folder, pictures[0])
    assert done.returncode == 1 and done.stderr.startswith(f'error: {folder}: got an export to '
                                                           f'another, expected one to {format}')
