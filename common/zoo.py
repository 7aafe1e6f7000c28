"""The models by name: the one file of `common` that knows which families exist.

A model's name is the stem of its yaml. The families' files are loaded by path, so that this works
from any working directory.

python -m common.zoo [PATTERN]    prints the table of the READMEs
"""
import argparse
import fnmatch
import functools
import glob
import importlib.util
import os

import paddle

from common.config import read_base, read_yaml, set_key
from common.dialects import translate
from common.errors import InputError, errors_of_a_tool
from common.macs import count_macs, count_parameters
from common.weights import load_pretrained

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# MODEL.TYPE -> (folder, model file, its build function)
MODELS = {
    'vit': ('vit', 'vit', 'build_vit'),
    'vitae': ('vitae', 'vitae', 'build_vitae'),
    'vitaev2_vsa': ('vitaev2_vsa', 'vitaev2_vsa', 'build_vitaev2_vsa'),
    'swin': ('vitaev2_vsa', 'swin', 'build_swin'),
}
FAMILIES = tuple(dict.fromkeys(folder for folder, _, _ in MODELS.values()))

# names of other projects -> names here; ViT-pytorch's are Google's file names
ALIASES = {
    'ViT-B_16': 'vit_base_patch16_224', 'ViT-B_16-224': 'vit_base_patch16_224',
    'ViT-B_32': 'vit_base_patch32_224', 'ViT-L_16': 'vit_large_patch16_224',
    'ViT-L_16-224': 'vit_large_patch16_224', 'ViT-L_32': 'vit_large_patch32_224',
    'ViT-H_14': 'vit_huge_patch14_224', 'R50-ViT-B_16': 'vit_base_r50_s16_224',
    'R50+ViT-B_16': 'vit_base_r50_s16_224',
    **{f'ViTAE_basic_{theirs}': f'vitae_{theirs.lower()}'
       for theirs in ('Tiny', '6M', '13M', 'Small', 'Base', 'Large', 'Huge')},
    'ViTAEv2_S': 'vitaev2_s', 'ViTAEv2_48M': 'vitaev2_48m', 'ViTAEv2_B': 'vitaev2_b',
    'ViTAEv2_VSA_S': 'vitaev2_vsa_s', 'ViTAEv2_VSA_widePCM_S': 'vitaev2_vsa_widepcm_s',
    'ViTAEv2_VSA_widePCM_48M': 'vitaev2_vsa_48m', 'ViTAEv2_VSA_widePCM_B': 'vitaev2_vsa_b',
    'ViTAEv2_VSA_widePCM_B_ws12': 'vitaev2_vsa_b_ws12',
    'swin_tiny_patch4_window7_224': 'swin_tiny', 'swin_small_patch4_window7_224': 'swin_small',
}


def list_models(pattern='*'):
    """The names of all models that match a shell pattern, sorted."""
    files = (file for family in FAMILIES
             for file in glob.glob(os.path.join(ROOT, family, 'configs', '*.yaml')))
    names = (os.path.splitext(os.path.basename(file))[0] for file in files)
    return sorted(name for name in names
                  if not name.startswith('_') and fnmatch.fnmatch(name, pattern))


def create_model(name, pretrained=None, num_classes=None, image_size=None, **model_overrides):
    """A model by its name.

    Args:
        name: one of list_models(), another project's name (ALIASES), or the path of a yaml.
        pretrained: weight file, or None for newly initialised weights.
        num_classes: outputs of the classifier; with `pretrained`, another number than the file's
            gives a new classifier.
        image_size: pixels, or [height, width].
        model_overrides: other keys of the config's MODEL node, e.g. DROPPATH=0.1.

    Returns:
        A Layer in training mode, with `.config`, the config that it was built from.

    Raises:
        InputError: an unknown name or key, or weights that do not fit.
    """
    config = model_config(name).clone()
    config.defrost()
    limits = key_limits(config)
    if num_classes is not None:
        model_overrides['NUM_CLASSES'] = num_classes
    if image_size is not None:
        set_key(config, 'DATA.IMAGE_SIZE', image_size, 'image_size', *limits)
    for key, value in model_overrides.items():
        set_key(config, f'MODEL.{key.upper()}', value, key, *limits)
    config.freeze()
    model = build_model(config)
    if pretrained:
        load_pretrained(model, pretrained, new_head=num_classes is not None)
    return model


def build_model(config):
    """The model of a config, with the config as its attribute."""
    if config.MODEL.TYPE not in MODELS:
        raise InputError(f'MODEL.TYPE: got {config.MODEL.TYPE!r}, expected one of '
                         f'{", ".join(MODELS)}')
    folder, file, build_function = MODELS[config.MODEL.TYPE]
    model = getattr(load_family_file(folder, file), build_function)(config)
    model.config = config
    return model


def model_config(name_or_file):
    """The frozen config of a model's name or of a yaml file."""
    file, family = find_yaml(name_or_file)
    return load_family_file(family, 'config').get_config(file)


def key_limits(config):
    """The (NULLABLE, RANGES) of the keys of a config's family, see common/config.py."""
    family = load_family_file(MODELS[config.MODEL.TYPE][0], 'config')
    return getattr(family, 'NULLABLE', None), getattr(family, 'RANGES', None)


def find_yaml(name_or_file):
    """The (yaml file, family) of a name, alias or path."""
    name_or_file = ALIASES.get(name_or_file, name_or_file)
    for family in FAMILIES:
        file = os.path.join(ROOT, family, 'configs', f'{name_or_file}.yaml')
        if os.path.isfile(file):
            return file, family
    if not str(name_or_file).endswith(('.yaml', '.yml')):
        raise InputError(f'model: got {name_or_file!r}, expected a yaml file or one of '
                         f'{", ".join(list_models())}')
    types = [value for file in [*read_base(name_or_file), name_or_file]
             for key, value, _ in read_yaml(file) if key == 'MODEL.TYPE']
    if not types or types[-1] not in MODELS:
        raise InputError(f'{name_or_file}: MODEL.TYPE: got {types[-1] if types else None!r}, '
                         f'expected one of {", ".join(MODELS)}')
    return name_or_file, MODELS[types[-1]][0]


@functools.cache
def load_family_file(family, name):
    """The module of FAMILY/NAME.py."""
    path = os.path.join(ROOT, family, f'{name}.py')
    spec = importlib.util.spec_from_file_location(f'_{family}_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def identify(state, kind):
    """The names of the models that some weights are for, whatever their classes and image size.

    Args:
        state: {name: array} of a file.
        kind: layout of the arrays, see common/dialects.py.
    """
    found = []
    for name in list_models():
        model = without_weights(name)
        own, _ = translate(model, state, kind)
        free = set(model.position_embeddings()) | {
            f'{model.classifier_name}.{part}' for part in ('weight', 'bias')}
        wanted = {key: list(value.shape) for key, value in model.state_dict().items()
                  if key not in free}
        if wanted == {key: list(value.shape) for key, value in own.items() if key not in free}:
            found.append(name)
    return found


@functools.cache
def without_weights(name):
    """The model of a name, with the shapes of its parameters only."""
    with paddle.LazyGuard():
        return build_model(model_config(name))


def table(pattern='*'):
    """The models as a markdown table, counted by this code."""
    lines = ['| Model | Acc@1 | Acc@5 | ReaL | Params | MACs | Image size | Crop | Interpolation | '
             'Accuracy of | Weights |', '|---' * 11 + '|']
    for name in list_models(pattern):
        config = model_config(name)
        build = functools.partial(build_model, config)
        parameters = count_parameters(without_weights(name))
        macs = count_macs(build, config.DATA.IMAGE_SIZE)
        zoo, data = config.ZOO, config.DATA
        accuracies = ['-' if value is None else f'{value:.2f}'
                      for value in (zoo.ACC1, zoo.ACC5, zoo.REAL)]
        weights = f'[file]({zoo.WEIGHTS})' if zoo.WEIGHTS else '-'
        cells = [name, *accuracies, f'{parameters / 1e6:.1f}M', f'{macs / 1e9:.3g}G',
                 data.IMAGE_SIZE, data.CROP_PCT, data.INTERPOLATION,
                 {'converted': 'converted weights', 'none': 'none published'}.get(
                     zoo.PROVENANCE, zoo.PROVENANCE), weights]
        lines.append('| ' + ' | '.join(str(cell) for cell in cells) + ' |')
    return '\n'.join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description='Lists the models as a markdown table.')
    parser.add_argument('pattern', nargs='?', default='*', help="shell pattern, e.g. 'vit_base*'")
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        print(table(args.pattern))


if __name__ == '__main__':
    main()
