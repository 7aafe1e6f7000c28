"""Colour and geometry augmentation of one image: RandAugment, AutoAugment, colour jitter.

A transform is called with a Pillow RGB image and a numpy Generator and returns an image of the
same size. It first draws what to apply (`draw`), as a list of steps (op, argument, interpolation),
and then applies them (`replay`). The draws do not depend on the pixels.

The meaning is timm 0.4.12's, with its order of draws. A level is a number in 0..10.
"""
import re

from common.core.errors import InputError
from common.core.sizes import to_pair
from common.data.augment_ops import MAX_LEVEL, OPS, level_to_arg, replay

# RandAugment's ops, and their weights with -w0, which sum to WEIGHTS_SUM.
WEIGHTS_SUM = 200
RAND_OPS = {'AutoContrast': 5, 'Equalize': 1, 'Invert': 0, 'Rotate': 60, 'Posterize': 0,
            'Solarize': 1, 'SolarizeAdd': 1, 'Color': 5, 'Contrast': 1, 'Brightness': 1,
            'Sharpness': 5, 'ShearX': 40, 'ShearY': 40, 'TranslateXRel': 20, 'TranslateYRel': 20}

# 25 sub-policies, "op probability level" twice: of AutoAugment for ImageNet (arXiv 1805.09501),
# and of the policy v0 in TensorFlow's EfficientNet code.
ORIGINAL = """
    Posterize .4 8, Rotate .6 9 | Solarize .6 5, AutoContrast .6 5 | Equalize .8 8, Equalize .6 3
    Posterize .6 7, Posterize .6 6 | Equalize .4 7, Solarize .2 4 | Equalize .4 4, Rotate .8 8
    Solarize .6 3, Equalize .6 7 | Posterize .8 5, Equalize 1. 2 | Rotate .2 3, Solarize .6 8
    Equalize .6 8, Posterize .4 6 | Rotate .8 8, Color .4 0 | Rotate .4 9, Equalize .6 2
    Equalize .0 7, Equalize .8 8 | Invert .6 4, Equalize 1. 8 | Color .6 4, Contrast 1. 8
    Rotate .8 8, Color 1. 2 | Color .8 8, Solarize .8 7 | Sharpness .4 7, Invert .6 8
    ShearX .6 5, Equalize 1. 9 | Color .4 0, Equalize .6 3 | Equalize .4 7, Solarize .2 4
    Solarize .6 5, AutoContrast .6 5 | Invert .6 4, Equalize 1. 8 | Color .6 4, Contrast 1. 8
    Equalize .8 8, Equalize .6 3
"""
V0 = """
    Equalize .8 1, ShearY .8 4 | Color .4 9, Equalize .6 3 | Color .4 1, Rotate .6 8
    Solarize .8 3, Equalize .4 7 | Solarize .4 2, Solarize .6 2 | Color .2 0, Equalize .8 8
    Equalize .4 8, SolarizeAdd .8 3 | ShearX .2 9, Rotate .6 8 | Color .6 1, Equalize 1. 2
    Invert .4 9, Rotate .6 0 | Equalize 1. 9, ShearY .6 3 | Color .4 7, Equalize .6 0
    Posterize .4 6, AutoContrast .4 7 | Solarize .6 8, Color .6 9 | Solarize .2 4, Rotate .8 9
    Rotate 1. 7, TranslateYRel .8 9 | ShearX .0 0, Solarize .8 4 | ShearY .8 0, Color .6 4
    Color 1. 0, Rotate .6 2 | Equalize .8 4, Equalize .0 8 | Equalize 1. 4, AutoContrast .6 2
    ShearY .4 7, SolarizeAdd .6 7 | Posterize .8 2, Solarize .6 10 | Solarize .6 8, Equalize .6 1
    Color .8 6, Rotate .4 5
"""


def read_policy(table, posterize):
    """A list of pairs of (op, probability, level).

    Args:
        table: text as above.
        posterize: name in OPS of what the table calls Posterize.
    """
    steps = [step.split() for step in re.split(r'[,|\n]', table.strip())]
    steps = [(posterize if name == 'Posterize' else name, float(probability), int(level))
             for name, probability, level in steps]
    return list(zip(steps[::2], steps[1::2], strict=True))


POLICIES = {
    'original': read_policy(ORIGINAL, 'PosterizeOriginal'),
    'originalr': read_policy(ORIGINAL, 'PosterizeIncreasing'),
    'v0': read_policy(V0, 'Posterize'),
    'v0r': read_policy(V0, 'PosterizeIncreasing'),
}

# The options of a text: type, least and greatest value.
OPTIONS = {'m': (int, 0, MAX_LEVEL), 'n': (int, 1, 13), 'mstd': (float, 0, 10),
           'inc': (int, 0, 1), 'w': (int, 0, 0)}
MAX_TRANSLATION = 0.45  # of the shorter side, by TranslateX and TranslateY at level 10
EXPECTED = ("expected null, rand with options -m0..10 -n1..13 -mstd0..10 -inc1 -w0, as in "
            "'rand-m9-mstd0.5-inc1', or original, originalr, v0 or v0r, also with -mstd")


class AutoAugment:
    """AutoAugment (arXiv 1805.09501): one sub-policy is drawn, its two ops fire independently.

    Args:
        text: original | originalr | v0 | v0r, and -mstdX for noise N(0, X^2) on every level,
            which is then clipped to 0..10.
        size: int or (height, width) of the images; only TranslateX and Y depend on it.
        mean: mean colour of the data in 0..1, which fills what an op uncovers.
        interpolation: bilinear | bicubic | random, which draws one for each geometric op.

    Raises:
        InputError: a wrong text.
    """

    families, known = tuple(POLICIES), ('mstd',)

    def __init__(self, text, size, mean, interpolation='random'):
        self.name, self.options = parse(text, self.families, self.known)
        self.magnitude_std = self.options.get('mstd', 0.0)
        self.translate_const = int(MAX_TRANSLATION * min(to_pair(size)))
        self.fill = tuple(min(255, round(255 * channel)) for channel in mean)
        self.interpolation = interpolation

    def __call__(self, image, random):
        return replay(image, self.draw(random), self.fill)

    def draw(self, random):
        """A list of steps (op, argument, interpolation); empty where no op fires."""
        steps = []
        for name, probability, level in self.plan(random):
            if probability == 1.0 or random.random() <= probability:
                steps.append(self.draw_step(name, level, random))
        return steps

    def plan(self, random):
        """The (op, probability, level) that may fire."""
        policy = POLICIES[self.name]
        return policy[int(random.integers(len(policy)))]

    def draw_step(self, name, level, random):
        """The step of an op at a level: its noise, its direction and its interpolation."""
        if self.magnitude_std > 0.0:
            level = min(max(random.normal(level, self.magnitude_std), 0.0), MAX_LEVEL)
        op, interpolation = OPS[name], None
        sign = -1 if op.signed and random.random() > 0.5 else 1
        if op.geometric:
            interpolation = self.interpolation
            if interpolation == 'random':
                interpolation = ('bilinear', 'bicubic')[int(random.integers(2))]
        return name, level_to_arg(name, level, sign, self.translate_const), interpolation


class RandAugment(AutoAugment):
    """RandAugment (arXiv 1909.13719): ops are drawn with replacement, half of them fire.

    Args:
        text: rand, with any of -mM: level (10); -nN: ops drawn (2); -mstdX: as in AutoAugment;
            -inc1: increasing ops (-inc0 too, as in timm 0.4.12); -w0: drawn by the weights of
            RAND_OPS, without replacement.

    Unlike timm, values outside their range and options given twice are errors.
    """

    families, known = ('rand',), tuple(OPTIONS)

    def __init__(self, text, size, mean, interpolation='random'):
        super().__init__(text, size, mean, interpolation)
        ending = 'Increasing' if 'inc' in self.options else ''
        level = self.options.get('m', MAX_LEVEL)
        self.ops = [(name + ending if name + ending in OPS else name, 0.5, level)
                    for name in RAND_OPS]
        self.weights = [weight / WEIGHTS_SUM for weight in RAND_OPS.values()]

    def plan(self, random):
        """The (op, probability, level) of the drawn ops."""
        count = self.options.get('n', 2)
        if 'w' in self.options:
            drawn = random.choice(len(self.ops), count, replace=False, p=self.weights)
        else:
            drawn = random.integers(len(self.ops), size=count)
        return [self.ops[index] for index in drawn]


class ColorJitter:
    """Brightness, contrast and saturation in a drawn order, as torchvision's without hue.

    Each factor is drawn from U(max(0, 1 - s), 1 + s); s = 0 leaves its op out.

    Args:
        brightness, contrast, saturation: the s of each, at least 0; None is brightness's.
    """

    def __init__(self, brightness, contrast=None, saturation=None):
        self.strengths = [('Brightness', brightness),
                          ('Contrast', brightness if contrast is None else contrast),
                          ('Color', brightness if saturation is None else saturation)]
        for _, strength in self.strengths:
            if not 0.0 <= strength < float('inf'):
                raise InputError(f'AUG.COLOR_JITTER: got {strength}, expected at least 0')

    def __call__(self, image, random):
        return replay(image, self.draw(random))

    def draw(self, random):
        """A list of steps (op, factor, None)."""
        order = [self.strengths[index] for index in random.permutation(3)]
        return [(name, random.uniform(max(0.0, 1.0 - strength), 1.0 + strength), None)
                for name, strength in order if strength > 0.0]


def parse(text, families, known):
    """Reads a text 'family-key1-key2', e.g. 'rand-m9-mstd0.5'.

    Args:
        text: AUG.AUTO_AUGMENT.
        families: names that may come first.
        known: keys of OPTIONS that may follow.

    Returns:
        (family, {key: number}).

    Raises:
        InputError: the text has another form, or a value is out of range.
    """
    family, *parts = text.split('-')
    if family not in families:
        raise InputError(f'AUG.AUTO_AUGMENT: got {text!r}, {EXPECTED}')
    options = {}
    for part in parts:
        match = re.fullmatch(r'([a-z]+)([0-9]+(\.[0-9]+)?)', part)
        key, value, fraction = match.groups() if match else ('', 0, None)
        kind, least, most = OPTIONS.get(key, (int, 0, 0))
        if (key not in known or key in options or (kind is int and fraction)
                or not least <= float(value) <= most):
            raise InputError(f'AUG.AUTO_AUGMENT: got {text!r} (see {part!r}), {EXPECTED}')
        options[key] = kind(float(value))
    return family, options


def build_auto_augment(text, size, mean, interpolation):
    """The transform of AUG.AUTO_AUGMENT, or None for an empty one or None.

    The arguments are AutoAugment's and RandAugment's; a wrong text is an InputError.
    """
    if not text:
        return None
    kind = RandAugment if str(text).startswith('rand') else AutoAugment
    return kind(str(text), size, mean, interpolation)
