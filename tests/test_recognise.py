"""What a run finds out about its data: layout, split, classes; the lists that `verify` writes."""
import json

import numpy as np
import pytest
from PIL import Image

from common.config import base_config, leaf_keys, load_config, origin_of, update_config
from common.core.errors import InputError
from common.data.csv_source import read_csv
from common.data.datasets import get_dataset
from common.data.layouts import find_layout, read_source
from common.data.lists import read_list
from common.data.recognise import recognise
from common.data.split import validation_part
from common.train.checkpoint import save_weights
from common.zoo import create_model, model_config
from tests.conftest import refusal, run_script

pytestmark = pytest.mark.smoke
CLASSES = ['Dog', 'my cat', 'null', '火箭']
SHORT = ['-cfg=./configs/vit_digits.yaml', '-batch_size=4', '-o', 'TRAIN.NUM_EPOCHS=1', '-o',
         'TRAIN.WARMUP_EPOCHS=0', '-o', 'DATA.NUM_WORKERS=0', '-o', 'MODEL.DEPTH=1']


class Flags:
    """Parsed flags with some values."""

    def __init__(self, **values):
        self.__dict__.update(values)


def save_image(path, color=(200, 10, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (40, 32), color).save(path, 'JPEG')


def photos(root, count=10, classes=CLASSES):
    """A folder for each class, with names as people give them."""
    for number, name in enumerate(classes):
        for index in range(count):
            save_image(root / name / f'IMG {index}.JPG', (40 * number, 5 * index, 99))
    return root


def config_of(data_path, options=(), cfg='vit_digits', **flags):
    return recognise(update_config(model_config(cfg), Flags(
        data_path=str(data_path), o=list(options), **flags)))


# Who has set a key

def test_a_value_knows_who_has_set_it(tmp_path):
    file = tmp_path / 'mine.yaml'
    file.write_text('DATA:\n  IMAGE_SIZE: 32\n')
    config = update_config(load_config(base_config(), str(file)),
                           Flags(batch_size=8, o=['SEED=3']))
    found = {key: origin_of(config, key) for key in leaf_keys(config) if origin_of(config, key)}
    assert found == {'DATA.IMAGE_SIZE': f'{file}:2', 'DATA.BATCH_SIZE': '-batch_size',
                     'DATA.BATCH_SIZE_EVAL': '-batch_size', 'SEED': '-o SEED=3'}
    config = config.clone()
    config.defrost()
    config.DATA.CROP_PCT = 0.9
    assert origin_of(config, 'DATA.CROP_PCT') == 'Python'


# Layouts

@pytest.mark.parametrize('files, layout', [
    (['train_list.txt', 'val_list.txt', 'train/a/1.jpg'], 'list'),
    (['train/a/1.jpg', 'val/a/2.jpg', 'a.csv'], 'imagefolder'),
    (['a/1.jpg', 'b/2.jpg', 'labels.CSV'], 'csv'),
    (['a/1.jpg', 'b/2.jpg', 'one.csv', 'two.csv'], 'class_folders'),
    (['a/deeper/1.jpg', 'notes.txt'], 'class_folders'),
])
def test_layout_is_what_is_there(files, layout, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'x')
    assert find_layout(str(tmp_path)) == layout
    assert config_of_layout(tmp_path) == layout


def config_of_layout(path):
    config = update_config(base_config(), Flags(data_path=str(path)))
    return 'list' if find_layout(str(path)) == 'list' else find_layout(config.DATA.DATA_PATH)


@pytest.mark.parametrize('files', [[], ['notes.txt'], ['empty/notes.txt'], ['1.jpg']])
def test_folder_of_no_layout_is_one_line(files, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'x')
    message = refusal(find_layout, str(tmp_path))
    assert message.startswith(f'-data_path: {tmp_path}: found no images of a known layout, exp')
    assert 'a csv file with the columns file and label' in message
    assert 'no such folder' in refusal(find_layout, str(tmp_path / 'none'))


def test_evaluation_needs_val_only(tmp_path):
    save_image(tmp_path / 'val' / 'a' / '1.jpg')
    assert find_layout(str(tmp_path), is_train=False) == 'imagefolder'
    assert find_layout(str(tmp_path / 'val')) == 'class_folders'


# Classes

def test_number_of_classes_is_that_of_the_data_not_of_the_zoo_s_yaml(tmp_path):
    photos(tmp_path)
    for cfg in ('vit_digits', 'vit_small_patch16_224'):
        config = config_of(tmp_path, cfg=cfg)
        assert (config.DATA.DATASET, config.MODEL.NUM_CLASSES) == ('class_folders', 4)


def test_list_of_few_classes_never_trains_a_thousand(tmp_path):
    for split, labels in (('train', range(10)), ('val', (3, 10))):
        (tmp_path / f'{split}_list.txt').write_text(
            ''.join(f'{label}.jpg {label}\n' for label in labels))
    config = config_of(tmp_path, cfg='vit_base_patch16_224')
    assert (config.DATA.DATASET, config.MODEL.NUM_CLASSES) == ('imagenet2012', 11)
    (tmp_path / 'class_names.txt').write_text('\n'.join('abcdefghijklm'))
    assert config_of(tmp_path).MODEL.NUM_CLASSES == 13
    assert read_source(config_of(tmp_path), True)[1] == list('abcdefghijklm')


@pytest.mark.parametrize('how', ['option', 'yaml'])
def test_another_number_by_the_user_is_an_error_with_the_mend(how, tmp_path):
    photos(tmp_path / 'photos')
    if how == 'option':
        cfg, options, origin = 'vit_digits', ['MODEL.NUM_CLASSES=1000'], '-o MODEL.NUM_CLASSES=1000'
    else:
        cfg, options = str(tmp_path / 'mine.yaml'), []
        (tmp_path / 'mine.yaml').write_text('MODEL:\n  TYPE: vit\n  NUM_CLASSES: 1000\n')
        origin = f'{cfg}:3'
    assert refusal(config_of, tmp_path / 'photos', options, cfg) == (
        f'MODEL.NUM_CLASSES: got 1000 ({origin}), but {tmp_path / "photos"} has 4 classes; '
        f'expected -o MODEL.NUM_CLASSES=4, or none: it is the number of the data then')
    assert config_of(tmp_path / 'photos', ['MODEL.NUM_CLASSES=4']).MODEL.NUM_CLASSES == 4


def write_labels(folder, train, val):
    """Lists without names; no image is there."""
    for split, labels in (('train', train), ('val', val)):
        (folder / f'{split}_list.txt').write_text(
            ''.join(f'{label}.jpg {label}\n' for label in labels))
    return folder


def test_number_by_the_user_beyond_the_labels_is_an_error_with_the_mends(tmp_path):
    """In training: an evaluation has the head of its weights."""
    write_labels(tmp_path, range(10), (3, 10))
    for wanted in (12, 1000):
        assert refusal(config_of, tmp_path, [f'MODEL.NUM_CLASSES={wanted}']) == (
            f'MODEL.NUM_CLASSES: got {wanted} (-o MODEL.NUM_CLASSES={wanted}), but the labels in '
            f'{tmp_path} are 0 to 10; expected -o MODEL.NUM_CLASSES=11, or none: it is 11 then; if '
            f'there are classes without an image, {tmp_path}/class_names.txt with the names of all '
            f'{wanted}, one a line')
    assert config_of(tmp_path, ['MODEL.NUM_CLASSES=11']).MODEL.NUM_CLASSES == 11
    few = config_of(tmp_path, ['MODEL.NUM_CLASSES=9'])
    assert 'train_list.txt:10: label: got 9, expected 0 to 8' in refusal(get_dataset, few)
    (tmp_path / 'class_names.txt').write_text('\n'.join('abcdefghijkl'))
    assert config_of(tmp_path, ['MODEL.NUM_CLASSES=12']).MODEL.NUM_CLASSES == 12
    assert config_of(tmp_path).MODEL.NUM_CLASSES == 12
    assert ' has 12 classes; ' in refusal(config_of, tmp_path, ['MODEL.NUM_CLASSES=1000'])


def test_evaluation_may_have_more_classes_than_the_labels(tmp_path):
    """Those of its weights, whether the user says them or not; a label beyond them is an error."""
    write_labels(tmp_path, range(10), (3, 10))
    file = str(tmp_path / 'best.pdparams')
    save_weights(file, create_model('vit_digits', num_classes=40), {
        'class_names': [f'class {k}' for k in range(40)]})
    for options in ([], ['MODEL.NUM_CLASSES=40']):
        config = config_of(tmp_path, options, eval=True, pretrained=file)
        assert config.MODEL.NUM_CLASSES == 40 and len(get_dataset(config, is_train=False)) == 2
    write_labels(tmp_path, range(10), (3, 40))
    config = config_of(tmp_path, eval=True, pretrained=file)
    assert 'val_list.txt:2: label: got 40, expected 0 to 39' in refusal(get_dataset, config, False)


def test_evaluation_has_the_classes_of_its_weights(tmp_path):
    photos(tmp_path / 'photos', classes=CLASSES[:2])
    file = str(tmp_path / 'best.pdparams')
    model = create_model('vit_digits', num_classes=7)
    save_weights(file, model, {'class_names': list('abcdefg')})
    config = config_of(tmp_path / 'photos', eval=True, pretrained=file)
    assert config.MODEL.NUM_CLASSES == 7


# Split

class Images:
    def __init__(self, labels):
        self.labels = np.array(labels)

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f'{index}.jpg'


@pytest.mark.parametrize('fraction', [0.01, 0.1, 0.34, 0.9])
def test_split_takes_its_part_of_each_class(fraction):
    labels = np.random.RandomState(0).permutation(np.repeat([0, 1, 2, 5], [1, 2, 30, 400]))
    chosen = validation_part(Images(labels), fraction)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        expected = min(max(1, int(fraction * count + 0.5)), count - 1)
        assert chosen[labels == label].sum() == expected
    np.testing.assert_array_equal(chosen, validation_part(Images(labels), fraction))
    assert (chosen != validation_part(Images(labels), fraction, seed=1)).any()
    assert validation_part(Images(labels), 1.0).all()


def test_split_moves_little_when_images_are_added():
    before = validation_part(Images([0] * 1000), 0.1)
    after = validation_part(Images([0] * 1050), 0.1)[:1000]
    assert (before & ~after).sum() <= 10  # five more are chosen of five percent more


def test_both_parts_are_all_images_and_no_image_twice(tmp_path):
    photos(tmp_path, 7)
    config = config_of(tmp_path, val_fraction=0.3)
    train, val = (read_source(config, is_train)[0] for is_train in (True, False))
    names = [source.name(index) for source in (train, val) for index in range(len(source))]
    assert (len(train), len(val)) == (20, 8) and len(set(names)) == 28


# Tables

@pytest.mark.parametrize('text, names, labels, split', [
    ('file,label\na.jpg,Dog\nb/c d.jpg,cat\n', ['Dog', 'cat'], [0, 1], None),
    ('\ufefflabel;x;path\nDog;1;a.jpg\n\ncat;2;b/c d.jpg\n', ['Dog', 'cat'], [0, 1], None),
    ('a.jpg\t10\nb/c d.jpg\t9\n', ['9', '10'], [1, 0], None),
    ('image,class,split\r\na.jpg,火箭,train\r\nb/c d.jpg,火箭,val\r\n', ['火箭'], [0, 0],
     [True, False]),
    ('a.jpg,Dog,test\nb/c d.jpg,"x, y",training\n', ['Dog', 'x, y'], [0, 1], [False, True]),
    ('类别,图片,划分\n火箭,a.jpg,训练集\n火箭,b/c d.jpg,验证集\n', ['火箭'], [0, 0], [True, False]),
])
def test_tables(text, names, labels, split, tmp_path):
    file = tmp_path / 'table.csv'
    file.write_text(text, encoding='utf-8', newline='')
    images, classes, for_training = read_csv(str(file))
    assert [images.name(index) for index in range(2)] == ['a.jpg', 'b/c d.jpg']
    assert classes == names and images.labels.tolist() == labels
    assert (None if for_training is None else for_training.tolist()) == split
    assert images.path(0) == str(tmp_path / 'a.jpg')


@pytest.mark.parametrize('text, message', [
    ('', 'got no image'),
    ('file,label\n', 'got no image'),
    ('file,other\na.jpg,1\n', ':1: got .file,other., expected the names of two columns'),
    ('file,label\na.jpg,\n', ':2: got .a.jpg,., expected a path, a class'),
    ('a.jpg,x,train\nb.jpg,x,later\n', ':2: split: got .later., expected one of train'),
    ('file,label\n../a.jpg,x\n', ':2: path: got .* a path inside the data folder'),
    ('file,label\ndir\\a.jpg,x\n', ":2: path: got .* '/' between folders"),
])
def test_wrong_tables_are_one_line(text, message, tmp_path):
    file = tmp_path / 'table.csv'
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_csv(str(file))


def test_table_that_is_not_utf_8_says_how_to_convert_it(tmp_path):
    file = tmp_path / 'table.csv'
    file.write_bytes('file,label\na.jpg,火箭\n'.encode('gbk'))
    assert 'iconv -f GBK' in refusal(read_csv, str(file))


# From a folder of photos to a model

def test_photos_become_a_model_with_one_command(tmp_path):
    photos(tmp_path / 'photos')
    (tmp_path / 'photos' / 'empty one').mkdir()
    flags = [*SHORT, f'-data_path={tmp_path / "photos"}', f'-output={tmp_path / "out"}']
    code, out, err = run_script(['main_multi_gpu.py', *flags])
    assert code == 0, err
    assert err.count('passed over 1 folders without an image: empty one') == 1
    lines = [line.split(' ', 2)[2] for line in out.splitlines()[:3]]
    assert lines == [
        f'data: {tmp_path / "photos"}: a folder for each class (class_folders)',
        'images: 36 training and 4 validation; 10% of each class validate (-val_fraction), chosen '
        'by DATA.VAL_SEED 0', "classes: 4: 'Dog', 'my cat', 'null', '火箭'"]
    run, = (tmp_path / 'out').iterdir()
    kept = {split: read_list(str(run / f'{split}_subset.txt'), str(tmp_path / 'photos'))
            for split in ('train', 'val')}
    assert {split: len(images) for split, images in kept.items()} == {'train': 36, 'val': 4}
    code, out, err = run_script(['main_multi_gpu.py', *flags, '-eval', f'-pretrained={run}'])
    assert code == 0, err
    result = json.loads((run / 'result.json').read_text())
    assert f'acc@1 {result["acc1"]:.2%}' in out.splitlines()[-1] and 'on 4 images' in out


def test_verify_writes_lists_and_names_without_broken_images(tmp_path):
    photos(tmp_path)
    (tmp_path / 'Dog' / 'broken one.jpg').write_text('no image')
    code, out, err = run_script(['-m', 'common.verify_dataset', str(tmp_path), '-write',
                                 '-leave_out', '-decode'])
    assert code == 0, err
    assert f'left out: {tmp_path}/Dog/broken one.jpg: got no image' in err
    assert (tmp_path / 'class_names.txt').read_text().split('\n') == [*CLASSES, '']
    config = config_of(tmp_path)
    sources = [read_source(config, is_train) for is_train in (True, False)]
    assert [names for _, names in sources] == [CLASSES, CLASSES]
    names = [images.name(index) for images, _ in sources for index in range(len(images))]
    assert len(names) == 40 == len(set(names)) and 'Dog/broken one.jpg' not in names
