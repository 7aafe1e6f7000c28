"""A table of images with several labels each: read, split, written as lists, trained on."""
import json

import numpy as np
import pytest

from common import verify_dataset
from common.config import base_config, set_options
from common.core.label_sets import classes_of
from common.data.csv_source import read_csv
from common.data.layouts import read_layout
from common.data.lists import read_list
from common.data.recognise import recognise
from common.data.split import rarest_labels, validation_part
from tests.conftest import refusal, run_script
from tests.reliability.runs import run_folder
from tests.test_multi_label import write_data

pytestmark = pytest.mark.smoke
NAMES = ['blue', 'green', 'my red', '黄']  # sorted; class k of write_data is NAMES[NUMBERS[k]]
NUMBERS = [2, 1, 0, 3]


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """(table of the images of `write_data`, their classes by name), without lists."""
    folder = write_data(tmp_path_factory.mktemp('table') / 'data', train=40, val=16)
    rows, expected = ['image;labels;class'], {}
    for split in ('train', 'val'):
        images = read_list(str(folder / f'{split}_list.txt'), multi_label=True)
        for index in range(len(images)):
            names = [NAMES[NUMBERS[k]] for k in classes_of(images.labels, index)]
            expected[images.name(index)] = sorted(names)
            rows.append(f'{images.name(index)};ignored;{" | ".join(names) or "-"}')
        (folder / f'{split}_list.txt').unlink()
    (folder / 'photos.csv').write_text('\n'.join(rows), encoding='utf-8')
    return folder / 'photos.csv', expected


def found(images, names):
    return {images.name(index): sorted(names[k] for k in classes_of(images.labels, index))
            for index in range(len(images))}


def test_classes_of_a_table(table):
    file, expected = table
    images, names, for_training = read_csv(str(file), multi_label=True)
    assert names == NAMES and for_training is None and found(images, names) == expected


@pytest.mark.parametrize('text, names, labels, split', [
    ('a.jpg,10|9\nb.jpg,\nc.jpg,9\n', ['9', '10'], [[1, 0], [], [0]], None),
    ('file,label,split\na.jpg,"x, y|z",train\nb.jpg,-,val\nc.jpg,z,val\n', ['x, y', 'z'],
     [[0, 1], [], [1]], [True, False, False])])
def test_forms_of_a_field(text, names, labels, split, tmp_path):
    (tmp_path / 'a.csv').write_text(text)
    images, classes, for_training = read_csv(str(tmp_path / 'a.csv'), multi_label=True)
    assert classes == names
    assert [classes_of(images.labels, index) for index in range(3)] == labels
    assert (None if for_training is None else for_training.tolist()) == split


@pytest.mark.parametrize('text, multi_label, said', [
    ('a.jpg,x|\n', True, ":1: label: got 'x|', expected names of classes, each once, joined by"),
    ('a.jpg,x|x\n', True, ":1: label: got 'x|x', expected names of classes, each once"),
    ('a.jpg,-\nb.jpg,\n', True, 'got no image with a class'),
    ('a.jpg,x\nb.jpg,y\nc.jpg,x;y\n', True, "got 'x;y', in which 'x' and others are classes, too; "
                                           "expected '|' between the classes of an image"),
    ('a.jpg,0\nb.jpg,3\nc.jpg,"0,3"\n', False, "got '0,3', in which '0' and others are classes, "
                                               "too; expected one class for each image; for "
                                               "several: '|' between them, train and evaluate "
                                               "with -o DATA.MULTI_LABEL=true"),
    ('a.jpg,x\nb.jpg,y\nc.jpg,x|y\n', False, "got 'x|y', in which"),
    ('a.jpg,\n', False, ":1: got 'a.jpg,', expected a path, a class")])
def test_wrong_labels_are_one_line(text, multi_label, said, tmp_path):
    (tmp_path / 'a.csv').write_text(text)
    message = refusal(read_csv, str(tmp_path / 'a.csv'), multi_label)
    assert said in message


def test_split_takes_its_part_of_the_rarest_classes(table):
    images, _, _ = read_csv(str(table[0]), multi_label=True)
    labels = images.labels
    counts = labels.table().sum(axis=0)
    rarest = rarest_labels(labels)
    for index in range(len(labels)):
        own = classes_of(labels, index)
        assert rarest[index] == (min(own, key=lambda k: (counts[k], k)) if own else -1)
    chosen = validation_part(images, 0.25)
    for label, count in zip(*np.unique(rarest, return_counts=True), strict=True):
        assert chosen[rarest == label].sum() == min(max(1, int(0.25 * count + 0.5)), count - 1)


def test_table_becomes_lists(table, tmp_path, capsys):
    file, expected = table
    copy = tmp_path / 'data'
    copy.mkdir()
    (copy / 'photos.csv').write_bytes(file.read_bytes())
    for split in ('train', 'val'):
        (copy / split).symlink_to(file.parent / split)
    with pytest.raises(SystemExit) as end:
        verify_dataset.main([str(copy), '-write', '-leave_out', '-multi_label'])
    assert end.value.code == 0, capsys.readouterr()
    data = base_config().DATA
    data.DATASET, data.DATA_PATH, data.MULTI_LABEL = 'list', str(copy), True
    both = {}
    for is_train in (True, False):
        images, names = read_layout(data, is_train)
        both |= found(images, names)
    assert names == NAMES and both == expected


def test_layout_of_one_label_for_each_image_is_refused(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '1.jpg').write_bytes(b'')
    config = base_config()
    set_options(config, ['DATA.MULTI_LABEL=True', 'TRAIN.LOSS=bce', f'DATA.DATA_PATH={tmp_path}'])
    assert 'DATA.DATASET: got class_folders, expected imagenet2012, list or csv' in \
        refusal(recognise, config)


def test_run_on_a_table(table, tmp_path):
    code, out, err = run_script([
        'main_multi_gpu.py', '-cfg=./configs/vit_digits.yaml', f'-data_path={table[0]}',
        f'-output={tmp_path}', '-batch_size=8', '-o', 'MODEL.DEPTH=1', '-o',
        'DATA.MULTI_LABEL=True', '-o', 'DATA.NUM_WORKERS=0', '-o', 'TRAIN.LOSS=bce', '-o',
        'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0'])
    assert code == 0, err
    assert "classes: 4: 'blue', 'green', 'my red', '黄'" in out
    folder = run_folder(tmp_path)
    lists = [read_list(str(folder / f'{split}_subset.txt'), multi_label=True)
             for split in ('train', 'val')]
    both = {name: labels for images in lists for name, labels in found(images, NAMES).items()}
    assert both == table[1]
    result = json.loads((folder / 'result.json').read_text())
    assert result['seen'] == len(lists[1]) and len(result['AP']) == 4
