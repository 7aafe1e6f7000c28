"""Image lists: what a line may be, what the message of a bad one says, and the memory it takes."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data.image_dataset import ImageDataset
from common.data.lists import read_list
from tests.conftest import entries, refusal

ROOT = Path(__file__).resolve().parent.parent
CLEAN = b'a/1.jpg 3\nb c/2 3.jpg 0\nd/4.jpg 12\n'


def write(folder, content, name='train_list.txt'):
    file = folder / name
    file.write_bytes(content)
    return str(file)


@pytest.mark.smoke
@pytest.mark.parametrize('line, name, label', [
    (b'a.jpg 0', 'a.jpg', 0),
    (b'a b.jpg 7', 'a b.jpg', 7),
    (b'my 2 cats/3 4.jpg 5', 'my 2 cats/3 4.jpg', 5),
    (b'12 34 56', '12 34', 56),
    (b'a  b.jpg   7', 'a  b.jpg', 7),
    (b'a\tb.jpg\t7', 'a\tb.jpg', 7),
    (b'  a.jpg 007  ', 'a.jpg', 7),
    (b'a..b/c...jpg 1', 'a..b/c...jpg', 1),
    (b'.hidden/a.jpg 1', '.hidden/a.jpg', 1),
    (b'a.jpg 999999999', 'a.jpg', 999999999),
])
def test_label_is_the_last_field_D3(tmp_path, line, name, label):
    assert entries(read_list(write(tmp_path, line + b'\n'))) == [(name, label)]


@pytest.mark.smoke
@pytest.mark.parametrize('content', [
    CLEAN,
    CLEAN.replace(b'\n', b'\r\n'),
    b'\xef\xbb\xbf' + CLEAN,
    b'\xef\xbb\xbf' + CLEAN.replace(b'\n', b'\r\n'),
    CLEAN.replace(b'.jpg ', b'.jpg\t'),
    CLEAN.replace(b'.jpg ', b'.jpg \t '),
    b'\n\n' + CLEAN.replace(b'\n', b'\n  \n\t\n') + b'\n',
    CLEAN.rstrip(),
    CLEAN.replace(b'\n', b'\r\n').rstrip(b'\n'),
    b'  ' + CLEAN.replace(b'\n', b'  \n  '),
], ids=['clean', 'CRLF', 'BOM', 'BOM and CRLF', 'tab', 'tab and space', 'blank lines',
        'no final newline', 'final CR', 'spaces around'])
def test_layout_does_not_matter_D1_D2(tmp_path, content):
    expected = [('a/1.jpg', 3), ('b c/2 3.jpg', 0), ('d/4.jpg', 12)]
    assert entries(read_list(write(tmp_path, content))) == expected


@pytest.mark.smoke
def test_line_numbers_count_blank_lines_D1(tmp_path):
    file = write(tmp_path, b'\r\na 0\n\n\n  \nb 1')
    images = read_list(file)
    assert [images.where(0), images.where(1)] == [f'{file}:2', f'{file}:6']


BAD_LINES = {
    'no label': b'a.jpg',
    'label only': b'5',
    'no number': b'a.jpg cat',
    'negative': b'a.jpg -1',
    'plus': b'a.jpg +1',
    'underscore': b'a.jpg 1_0',
    'Arabic digit': 'a.jpg \u0663'.encode(),
    'superscript': 'a.jpg \u00b2'.encode(),
    'float': b'a.jpg 1.0',
    'exponent': b'a.jpg 1e1',
    'hexadecimal': b'a.jpg 0x1',
    'ten digits': b'a.jpg 1000000000',
    'comma': b'a.jpg,1',
    'latin-1': 'caf\xe9.jpg 1'.encode('latin-1'),
    'latin-1 label': 'a.jpg \xe9'.encode('latin-1'),
    'lone surrogate': b'\xed\xa0\x80.jpg 1',
    'absolute': b'/etc/passwd 1',
    'parent': b'../a.jpg 1',
    'parent inside': b'a/../../b.jpg 1',
    'parent at the end': b'a/.. 1',
    'parent alone': b'.. 1',
    'NUL in the path': b'a\0.jpg 1',
    'NUL in the label': b'a.jpg 1\0',
    'NUL first': b'\0 1',
    'second byte order mark': b'a.jpg \xef\xbb\xbf1',
}


@pytest.mark.smoke
@pytest.mark.parametrize('line', BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line_is_named_D4_D6_D10(tmp_path, line):
    file = write(tmp_path, b'ok.jpg 0\n\n' + line + b'\nok.jpg 0\n')
    assert refusal(read_list, file).startswith(f'{file}:3: ')
    file = write(tmp_path, line)
    assert refusal(read_list, file).startswith(f'{file}:1: ')


COMMA = ('put a space or a tab before the label: '
         r"sed -E 's/[,;] *([0-9]+)[[:space:]]*$/ \1/'; or call it FILE.csv")
OTHER_LAYOUTS = {
    'comma': (b'a.jpg,1', COMMA),
    'comma and spaces in the path': (b'my cat.jpg,1', COMMA),
    'comma and space': (b'a.jpg, 1', "expected no comma before the label (sed 's/, */ /' takes it "
                        'out); there is no such file'),
    'semicolon': (b'a.jpg;1', COMMA),
    'float': (b'a.jpg 0.0', 'write it without a point'),
    'several labels': (b'a.jpg 0,1', 'several labels for an image: train and evaluate with '
                       '-o DATA.MULTI_LABEL=true'),
    'negative': (b'a.jpg -1', 'labels count from 0: leave out images that have none'),
    'label first': (b'1 a.jpg', 'the path comes first'),
    'comment': (b'# the images', 'a list has no comments'),
    'comment with a number': (b'# images: 100', 'expected no comment; there is no such file'),
    'backslashes': (b'train\\a.jpg 0', "expected '/' between folders (tr '\\\\' / makes them so); "
                    'there is no such file'),
    'name of a class': (b'a.jpg cat', 'for names of classes take a csv file'),
    'CR only': (b'a.jpg 0\rb.jpg 1\rc.jpg 2', "expected one entry a line (tr '\\r' '\\n' puts in "
                'line ends for CR); there is no such file'),
    'GBK': ('\u6d4b\u8bd5.jpg 0'.encode('gbk'), 'iconv -f GBK -t UTF-8 converts a file in GBK'),
}


@pytest.mark.smoke
@pytest.mark.parametrize('line, said', OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS)
def test_line_of_another_layout_says_what_to_change_D11(tmp_path, line, said):
    file = write(tmp_path, b'ok.jpg 0\n' + line + b'\nok.jpg 0\n')
    message = refusal(read_list, file)
    assert message.startswith(f'{file}:2: ') and message.endswith(said), message


@pytest.mark.smoke
@pytest.mark.parametrize('made, hint', [
    (True, ', but 图片.jpg is there: the list is in GBK; iconv -f GBK -t UTF-8 converts it'),
    (False, '')])
def test_list_in_gbk_that_is_utf_8_by_chance_is_named(tmp_path, made, hint):
    if made:
        (tmp_path / '图片.jpg').write_bytes(b'')
    images = read_list(write(tmp_path, '图片.jpg 0\n'.encode('gbk')))
    sample = ImageDataset(images, None, 8, seed=0).sample(0, 0)
    assert sample.error.endswith(f':1: cannot read ͼƬ.jpg: No such file or directory{hint}')


@pytest.mark.smoke
@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be'])
def test_list_in_utf_16_is_named_D11(tmp_path, encoding):
    file = write(tmp_path, CLEAN.decode().encode(encoding))
    assert refusal(read_list, file).startswith(f'{file}:1: ')
    assert 'iconv -f UTF-16 -t UTF-8' in refusal(read_list, file)


@pytest.mark.smoke
def test_absolute_path_in_the_folder_is_given_as_it_should_be_D11(tmp_path):
    file = write(tmp_path, f'{tmp_path}/train/a.jpg 0\n'.encode())
    message = refusal(read_list, file)
    assert message.startswith(f'{file}:1: path: got ')
    assert message.endswith(f"; here it is 'train/a.jpg' (sed 's#^{tmp_path}/##' makes them so)")
    assert 'here it is' not in refusal(read_list, write(tmp_path, b'/etc/passwd 0\n'))


@pytest.mark.smoke
@pytest.mark.parametrize('name', ['a\\b.jpg', '#1.jpg', 'a,', 'a\rb.jpg', 'a..b,c'])
def test_strange_name_of_a_file_that_is_there_is_fine_D11(tmp_path, name):
    (tmp_path / name).write_bytes(b'')
    assert entries(read_list(write(tmp_path, f'{name} 3\n'.encode()))) == [(name, 3)]


@pytest.mark.smoke
def test_labels_from_1_are_said_and_gaps_are_fine_D11(tmp_path):
    images = read_list(write(tmp_path, b'a.jpg 1\nb.jpg 2\nc.jpg 3\n'))
    assert refusal(images.check_labels, 3).endswith(
        '1 of 3 entries are out of range; labels count from 0, and the least here is 1')
    images = read_list(write(tmp_path, b'a.jpg 0\nb.jpg 2\nb.jpg 2\nc.jpg 4\n'))
    images.check_labels(5)
    assert images.labels.tolist() == [0, 2, 2, 4]
    assert refusal(images.check_labels, 4).endswith('are out of range')


@pytest.mark.smoke
@pytest.mark.parametrize('num_classes, line', [(12, 4), (4, 4), (3, 1), (1, 1)])
def test_label_out_of_range_is_named_D5(tmp_path, num_classes, line):
    file = write(tmp_path, CLEAN.replace(b'd/4', b'\nd/4'))
    images = read_list(file)
    images.check_labels(13)
    assert refusal(images.check_labels, num_classes).startswith(f'{file}:{line}: ')


@pytest.mark.smoke
@pytest.mark.parametrize('content', [b'', b'\n\n', b'\xef\xbb\xbf', b' \r\n\t\r\n'])
def test_list_without_an_entry_is_named_D9(tmp_path, content):
    file = write(tmp_path, content)
    assert refusal(read_list, file).startswith(f'{file}: ')


@pytest.mark.smoke
@pytest.mark.parametrize('name', ['missing.txt', 'folder', 'missing/list.txt'])
def test_missing_list_is_named(tmp_path, name):
    (tmp_path / 'folder').mkdir()
    assert refusal(read_list, str(tmp_path / name)).startswith(f'{tmp_path / name}: ')


NAMES = ['\u732b/\u5b50\u732b 1.jpg', 'caf\xe9/na\xefve.png', 'plain.jpg', 'emoji \U0001f408.jpg',
         'a/\u0663.jpg', 'no-break\xa0space.jpg', 'line\u2028separator.jpg']


@pytest.mark.smoke
def test_utf8_names_round_trip(tmp_path):
    content = ''.join(f'{name} {label}\n' for label, name in enumerate(NAMES)).encode()
    file = write(tmp_path, content)
    images = read_list(file)
    assert len(images) == len(NAMES)
    for index, name in enumerate(NAMES):
        assert images.name(index) == name
        assert images.path(index) == os.path.join(str(tmp_path), name)
        assert images.where(index) == f'{file}:{index + 1}'
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == list(range(len(NAMES)))


@pytest.mark.smoke
def test_paths_lead_to_the_files(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding='utf-8')
    file = write(tmp_path, ''.join(f'{name} 0\n' for name in NAMES).encode())
    images = read_list(file)
    for index, name in enumerate(NAMES):
        assert Path(images.path(index)).read_text(encoding='utf-8') == name


@pytest.mark.smoke
def test_root_may_be_another_folder(tmp_path, monkeypatch):
    write(tmp_path, CLEAN)
    monkeypatch.chdir(tmp_path)
    assert read_list('train_list.txt').path(1) == 'b c/2 3.jpg'
    assert read_list('train_list.txt', 'images').path(1) == 'images/b c/2 3.jpg'


# A process starts with the peak memory of the one that started it, here of the whole test run. So
# a small process stands between.
MEASURE = '''
import resource, subprocess, sys
subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
'''
IMPORT_ONLY = 'import common.data.lists'
READ = '''
import sys, time
from common.data.lists import read_list
start = time.perf_counter()
images = read_list(sys.argv[1])
print(f'{time.perf_counter() - start:.1f} s')
print(len(images), images.name(1279999), images.labels.sum())
'''


def child_output(*command):
    """The lines that a child process prints, the last one its peak memory in MiB."""
    done = subprocess.run([sys.executable, '-c', MEASURE, *command], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    *lines, peak = done.stdout.splitlines()
    return lines, int(peak) / 1024


def test_memory_of_the_imagenet_list_D10(tmp_path):
    count = 1_280_000
    file = tmp_path / 'train_list.txt'
    with open(file, 'w') as stream:
        stream.writelines(f'train/n{label:08d}/n{label:08d}_{index}.JPEG {label}\n'
                          for index in range(count) for label in (index * 7 % 1000,))
    _, baseline = child_output(IMPORT_ONLY)
    (seconds, result), peak = child_output(READ, str(file))
    print(f'{count} lines: {seconds}, {peak - baseline:.0f} MiB over {baseline:.0f} MiB')
    last = (count - 1) * 7 % 1000
    assert result == (f'{count} train/n{last:08d}/n{last:08d}_{count - 1}.JPEG '
                      f'{sum(index * 7 % 1000 for index in range(count))}')
    # The paths alone are 42 MiB: less would mean that the measurement is wrong.
    assert 42 < peak - baseline < 500
