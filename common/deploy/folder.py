"""The folder of an export: its files, and export.json, which says what they are."""
import json
import os
import shutil

from common.apis import Preprocessing, check_class_names
from common.config import check_value
from common.core.errors import InputError, one_line
from common.core.files import sha256
from common.core.sizes import to_pair

METADATA_FILE = 'export.json'
AUTO_FILE = 'auto.json'  # which runtime was the fastest, see auto.py
ONNX_FILE, PARAMETERS = 'model.onnx', 'model.pdiparams'
# compat: graph-files
PARAMETERS_INFO = f'{PARAMETERS}.info'    # written by Paddle 2.6; no runtime needs it
GRAPHS = ('model.json', 'model.pdmodel')  # of Paddle 3, of Paddle 2
FORMATS = ('paddle', 'onnx')
# The key of the config that says what a field of Preprocessing may be.
KEY_OF_FIELD = {'image_size': 'DATA.IMAGE_SIZE', 'crop_pct': 'DATA.CROP_PCT',
                'interpolation': 'DATA.INTERPOLATION', 'mean': 'DATA.IMAGENET_MEAN',
                'std': 'DATA.IMAGENET_STD', 'exif_orientation': 'DATA.EXIF_ORIENTATION'}
# The type that a key of export.json must have.
TYPE_OF_KEY = {'format': str, 'preprocessing': dict, 'num_classes': int, 'files': dict}


def read_metadata(folder):
    """The content of a folder's export.json, checked.

    Returns:
        A dict, with `preprocessing` as a Preprocessing, `class_names` as a list or None, and
        `multi_label`.

    Raises:
        InputError: there is none, or it is not as an export writes it.
    """
    file = os.path.join(folder, METADATA_FILE)
    try:
        metadata = read_json(folder)
    except FileNotFoundError:
        raise InputError(f'{folder}: got no {METADATA_FILE}, expected a folder that '
                         f'paddle-vitae export wrote') from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not JSON: {one_line(error)}') from None
    if not isinstance(metadata, dict):
        raise InputError(f'{file}: got a {type(metadata).__name__}, expected an object')
    for key, kind in TYPE_OF_KEY.items():
        if not isinstance(metadata.get(key), kind):
            raise InputError(f'{file}: {key}: got {metadata.get(key)!r}, expected '
                             f'{"an object" if kind is dict else kind.__name__}')
    if metadata['format'] not in FORMATS:
        raise InputError(f'{file}: format: got {metadata["format"]!r}, expected paddle or onnx')
    multi_label = metadata.get('multi_label', False)  # older exports have no such field
    if not isinstance(multi_label, bool):
        raise InputError(f'{file}: multi_label: got {multi_label!r}, expected true or false')
    class_names = metadata.get('class_names')
    if class_names is not None:
        check_class_names(class_names, metadata['num_classes'], file)
    fields = {field: check_value(key, metadata['preprocessing'].get(field), file)
              for field, key in KEY_OF_FIELD.items()}
    fields['image_size'] = list(to_pair(fields['image_size']))
    # an earlier export says nothing of it
    fields['exif_orientation'] = fields['exif_orientation'] is not False
    return {**metadata, 'multi_label': multi_label, 'class_names': class_names,
            'preprocessing': Preprocessing(**fields)}


def found_by_check(metadata):
    """What export.json says about the check of the graph.

    Returns:
        The tolerance, a number or None; and {runtime: '', or what is wrong with the graph there}.
    """
    check = metadata.get('check')
    check = check if isinstance(check, dict) else {}
    tolerance, runtimes = check.get('tolerance'), check.get('runtimes')
    runtimes = runtimes if isinstance(runtimes, dict) else {}  # an earlier export has none
    return (tolerance if type(tolerance) is float else None,
            {name: str(why) for name, why in runtimes.items()})


def read_json(folder):
    """The content of a folder's export.json as it is."""
    with open(os.path.join(folder, METADATA_FILE), encoding='utf-8') as file:
        return json.load(file)


def write_json(folder, metadata):
    with open(os.path.join(folder, METADATA_FILE), 'w', encoding='utf-8') as file:
        json.dump(metadata, file, indent=1, ensure_ascii=False)


def graph_files(folder, format):
    """The name of the graph's file and, if they are in a file of their own, the parameters'."""
    if format == 'onnx':
        return [ONNX_FILE]
    for name in GRAPHS:
        if os.path.exists(os.path.join(folder, name)):
            return [name, PARAMETERS]
    return [GRAPHS[0], PARAMETERS]


def digest_of(file):
    """The sha256 of a file, as hexadecimal digits."""
    with open(file, 'rb') as content:
        return sha256(content, os.path.getsize(file)).hex()


def checked_file(folder, name, digests):
    """The path of a file of an export.

    Args:
        digests: {name: sha256} of export.json.

    Raises:
        InputError: it is missing, or not as it was written.
    """
    file = os.path.join(folder, name)
    if not os.path.isfile(file):
        raise InputError(f'{file}: missing, expected it in an export')
    if digest_of(file) != digests.get(name):
        raise InputError(f'{file}: damaged or changed: its sha256 is not that of {METADATA_FILE}')
    return file


def check_replaceable(folder):
    """Raises InputError for a folder that holds other things than an export."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f'{folder}: got a file, expected a folder')
    names = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    others = names - {METADATA_FILE, AUTO_FILE, ONNX_FILE, PARAMETERS, PARAMETERS_INFO, *GRAPHS}
    if others or (names and METADATA_FILE not in names):
        raise InputError(f'{folder}: got a folder with {min(others or names)}, expected a new '
                         f'one, an empty one or one that holds an export and nothing else')


def replace_folder(new, folder):
    """Gives a complete folder its name, which an earlier export may have."""
    old = f'{folder}.old{os.getpid()}'
    check_replaceable(folder)
    if os.path.isdir(folder):
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)
