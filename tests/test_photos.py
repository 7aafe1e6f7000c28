"""From a folder of photos, named and broken as people do, to a report: each step is one command."""
import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

CLASSES = ['Dog', 'my cat', 'null', '火箭']
PHOTOS = 'my photos'


def command(folder, *arguments):
    """Runs `paddle-vitae ...` in a folder; its (stdout, stderr); it must end well."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'paddle_vitae', *map(str, arguments)], cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Photos of one colour for each class: JPEG also of CMYK, PNG with a palette, one broken file
    and an empty class."""
    folder = tmp_path_factory.mktemp('user')
    random = np.random.RandomState(0)
    for number, name in enumerate(CLASSES):
        (folder / PHOTOS / name).mkdir(parents=True)
        for index in range(12):
            pixels = random.randint(0, 60, (40, 48, 3)) + np.eye(4, 3)[number] * 150
            Image.fromarray(pixels.astype(np.uint8)).save(
                folder / PHOTOS / name / f'IMG {index}.JPG', 'JPEG')
    first = Image.open(folder / PHOTOS / 'Dog' / 'IMG 0.JPG')
    first.convert('CMYK').save(folder / PHOTOS / 'Dog' / 'print.JPG', 'JPEG')
    first.convert('P').save(folder / PHOTOS / 'Dog' / '图 palette.png')
    (folder / PHOTOS / 'my cat' / 'broken (1).jpg').write_bytes(b'\xff\xd8\xff\xe0 no more')
    (folder / PHOTOS / 'empty class').mkdir()
    return folder


def test_seven_steps_from_photos_to_a_report(folder):
    _, err = command(folder, 'verify', PHOTOS, '-write', '-leave_out', '-decode')
    assert 'passed over 1 folders without an image: empty class' in err
    assert 'left out' in err and 'broken (1).jpg' in err

    out, _ = command(folder, 'train', '-cfg', 'vit_digits', '-data_path', PHOTOS, '-output', 'runs',
                     '-batch_size', 8, '-o', 'TRAIN.NUM_EPOCHS=4', '-o', 'TRAIN.WARMUP_EPOCHS=1',
                     '-o', 'DATA.NUM_WORKERS=0')
    assert "classes: 4: 'Dog', 'my cat', 'null', '火箭'" in out
    run, = (folder / 'runs').iterdir()
    result = json.loads((run / 'result.json').read_text())
    assert result['seen'] == 4 and (run / 'curves.png').exists()

    out, _ = command(folder, 'eval', '-data_path', PHOTOS, '-output', 'evals', '-pretrained', run)
    assert f'acc@1 {result["acc1"]:.2%}' in out.splitlines()[-1]

    out, _ = command(folder, 'predict', '-pretrained', run, f'{PHOTOS}/Dog/图 palette.png',
                     f'{PHOTOS}/Dog/print.JPG')
    first, second = (line.split('  ', 1)[1] for line in out.splitlines())
    assert sorted(part.split(': ')[0] for part in first.split('  ')) == CLASSES

    command(folder, 'visualize', 'attention', '-pretrained', run, f'{PHOTOS}/火箭/IMG 3.JPG',
            '-output', 'attention.png')
    assert Image.open(folder / 'attention.png').width > 300

    out, _ = command(folder, 'probe', '-pretrained', run, PHOTOS)
    assert '| logistic regression |' in out

    out, _ = command(folder, 'report', run, '-output', 'report')
    page = (folder / 'report' / 'report.html').read_text(encoding='utf-8')
    assert '火箭' in page and f'{result["acc1"] * 100:.2f}' in page
    with open(folder / 'report' / 'predictions.csv', encoding='utf-8', newline='') as file:
        assert len(list(csv.DictReader(file))) == 4
