"""The models by name: the one file of `common` that knows which families exist.

A model's name is the stem of its yaml. The families' files are loaded by path, so that this works
from any working directory.

python -m common.zoo [PATTERN]    prints the table of the READMEs
"""
import argparse
import fnmatch
import functools
import glob
import os

import paddle

from common.config import ARGUMENT_OF, read_base, read_yaml, set_key
from common.core.class_names import class_names_of
from common.core.config_keys import wrong
from common.core.errors import InputError, errors_of_a_tool
from common.core.modules import import_file
from common.layers.macs import count_macs, count_parameters
from common.weights import identify
from common.weights.dialects import translate
from common.weights.load import load_pretrained, lookalike, read_weights

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


# names of arguments, the models' own and timm's -> keys of MODEL, where these are other words
ARGUMENTS = {**{argument: key for key, argument in ARGUMENT_OF.items()},
             'drop_path_rate': 'DROPPATH', 'attn_drop_rate': 'ATTENTION_DROPOUT',
             'dims': 'TOKEN_DIMS'}

# What a checkpoint says about the images and classes that its weights were trained for.
CHECKPOINT_KEYS = ('MODEL.NUM_CLASSES', 'DATA.IMAGE_SIZE', 'DATA.CROP_PCT', 'DATA.INTERPOLATION',
                   'DATA.IMAGENET_MEAN', 'DATA.IMAGENET_STD', 'DATA.DATASET')
# Pixels of the short side before the crop; a file that asks for more is not believed.
MOST_PIXELS = 4096


def list_models(pattern='*'):
    """The names of all models that match a shell pattern, sorted.

    Raises:
        InputError: this is an installed copy of common/ without the models' folders.
    """
    check_checkout()
    return sorted(name for family in FAMILIES for name in models_of(family)
                  if fnmatch.fnmatch(name, pattern))


def models_of(family):
    """The names of a family's models, sorted."""
    files = glob.glob(os.path.join(ROOT, family, 'configs', '[!_]*.yaml'))
    return sorted(os.path.splitext(os.path.basename(file))[0] for file in files)


def check_checkout():
    """Raises InputError where common/ was installed without the families' folders."""
    if not any(os.path.isdir(os.path.join(ROOT, family, 'configs')) for family in FAMILIES):
        raise InputError(f'no models in {ROOT}: the installation has only common/; expected a '
                         f'clone of the repository, installed by: pip install -e .')


def create_model(name, pretrained=None, num_classes=None, image_size=None, **model_overrides):
    """A model by its name.

    Args:
        name: one of list_models(), another project's name (ALIASES), or the path of a yaml.
        pretrained: weight file or a run's folder, or None for newly initialised weights. A
            checkpoint of this project also brings its number of classes, preprocessing and class
            names; the arguments here win.
        num_classes: outputs of the classifier; with `pretrained`, another number than the file's
            gives a new classifier. 0 takes it away: the model gives the features then.
        image_size: pixels, or [height, width].
        model_overrides: other keys of the config's MODEL node, e.g. DROPPATH=0.1, or the
            constructor's names for them, e.g. drop_path=0.1.

    Returns:
        A Layer in training mode, with `.config`, the config that it was built from,
        `.class_names`, a list or None, and `.notes`, what was said when the weights were loaded.

    Raises:
        InputError: an unknown name or key, or weights that do not fit.
    """
    values = {}
    if num_classes is not None:
        values['MODEL.NUM_CLASSES'] = 'num_classes', num_classes
    if image_size is not None:
        values['DATA.IMAGE_SIZE'] = 'image_size', image_size
    for argument, value in model_overrides.items():
        key = f'MODEL.{ARGUMENTS.get(argument, argument.upper())}'
        if key in values:
            raise InputError(f'{values[key][0]}, {argument}: got both, expected one of them')
        values[key] = argument, value

    def set_values(config):
        for key, (argument, value) in values.items():
            set_key(config, key, value, argument)

    return model_with_weights(name, pretrained, set_values, new_head='MODEL.NUM_CLASSES' in values)


def model_with_weights(name, file=None, set_values=lambda config: None, new_head=False):
    """A model with the weights of a file: what create_model, init_model and convert share.

    The order is: yaml < what a checkpoint says about itself < set_values.

    Args:
        name: see create_model.
        file: weight file, a run's folder, or None.
        set_values: called with an unfrozen config, to set in it what the user asks for.
        new_head: see common.weights.load.load_pretrained.

    Returns:
        see create_model.
    """
    asked = model_config(name).clone()
    asked.defrost()
    config = asked.clone()
    weights = read_weights(file) if file else None
    said = said_values(weights[3], config) if file else {}
    for key, value in said.items():
        set_key(config, key, value, file)
    for one in (asked, config):
        set_values(one)
    config.freeze()
    said = {key: value for key, value in said.items()
            if value_of(config, key) == value != value_of(asked, key)}
    check_said(config, said, weights, file)
    model = build_model(config)
    model.notes = load_pretrained(model, file, new_head, weights, known_as=known_as) if file else []
    names = weights[3].get('class_names') if file else None
    if new_head and isinstance(names, list) and len(names) != config.MODEL.NUM_CLASSES:
        names = None  # of a classifier that was left out
    model.class_names = class_names_of(config, names, file)
    return model


def value_of(config, key):
    node, leaf = key.split('.')
    return config[node][leaf]


def said_values(facts, config):
    """{key: value} of CHECKPOINT_KEYS in a checkpoint's own config that differ from `config`."""
    said = facts.get('config')
    found = {}
    for key in CHECKPOINT_KEYS if isinstance(said, dict) else ():
        node, leaf = key.split('.')
        if isinstance(said.get(node), dict) and leaf in said[node] \
                and said[node][leaf] != config[node][leaf]:
            found[key] = said[node][leaf]
    return found


def check_said(config, said, weights, file):
    """Compares what a checkpoint says about its sizes with its arrays, before anything is built.

    Args:
        config: to be built.
        said: {key: value} of the checkpoint alone, which neither yaml nor user says.
        weights: of common.weights.load.read_weights.
        file: for messages.

    Raises:
        InputError: the arrays are for another number of classes or another image size.
    """
    if not said.keys() & {'MODEL.NUM_CLASSES', 'DATA.IMAGE_SIZE', 'DATA.CROP_PCT'}:
        return
    size = config.DATA.IMAGE_SIZE
    pixels = max(size if isinstance(size, list) else [size]) / config.DATA.CROP_PCT
    if pixels > MOST_PIXELS and said.keys() & {'DATA.IMAGE_SIZE', 'DATA.CROP_PCT'}:
        raise InputError(f'{file}: its config says DATA.IMAGE_SIZE {size} and DATA.CROP_PCT '
                         f'{config.DATA.CROP_PCT:g}, expected images of at most {MOST_PIXELS} '
                         f'pixels; -o DATA.IMAGE_SIZE=N where it is meant')
    with paddle.LazyGuard():
        model = build_model(config)
    kind, state, _, _ = weights
    own, _ = translate(model, state, kind)
    # (key, array, the axis of it that the key decides)
    sizes = [('MODEL.NUM_CLASSES', f'{model.classifier_name}.weight', -1)]
    sizes += [('DATA.IMAGE_SIZE', name, 1) for name in model.position_embeddings()]
    for key, name, axis in sizes:
        if key not in said or name not in model.state_dict():
            continue
        if name not in own:
            raise InputError(f'{file}: these weights are not for this model; nothing was loaded: '
                             f'1 missing ({name}){known_as(model, state, kind)}')
        wanted, got = list(model.state_dict()[name].shape), list(own[name].shape)
        if got[axis:][:1] != wanted[axis:][:1]:
            raise InputError(f'{file}: its config says {key} {said[key]}, for which {name} is '
                             f'{wanted}; the file has {got}')


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


def find_yaml(name_or_file):
    """The (yaml file, family) of a name, alias or path."""
    check_checkout()
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
    kind = types[-1] if types else None
    if not isinstance(kind, str) or kind not in MODELS:
        raise wrong(name_or_file, 'MODEL.TYPE', kind, f'one of {", ".join(MODELS)}')
    return name_or_file, MODELS[kind][0]


def load_family_file(family, name):
    """The module of FAMILY/NAME.py."""
    return import_file(ROOT, family, name)


def check_family(cfg_file, config):
    """Raises InputError for a yaml that is for another family than a program's `config`."""
    if cfg_file is None:
        return
    own = MODELS[config.MODEL.TYPE][0]
    for key, value, line in read_yaml(cfg_file):
        if key != 'MODEL.TYPE' or not isinstance(value, str) or value not in MODELS:
            continue  # get_config says what is wrong with it
        other = MODELS[value][0]
        if other != own:
            raise InputError(f'{cfg_file}:{line}: MODEL.TYPE: got {value}, a model of {other}/; '
                             f'expected one of {own}/ here: cd ../{other} and run '
                             f'main_multi_gpu.py there')


@functools.cache
def without_weights(name):
    """The model of a name, with the shapes of its parameters only."""
    with paddle.LazyGuard():
        return build_model(model_config(name))


def known_as(model, state, kind):
    """A sentence about what some weights are that do not fit to a model, or ''.

    state: {name: array} of a file.
    kind: layout of the arrays, see common/weights/dialects.py.
    """
    return lookalike(model, state) or describe(state, kind)


def describe(state, kind):
    """A sentence about which of the models some weights are for, or ''; see `identify`."""
    return identify.describe(state, kind, model_types(), with_values)


def model_types():
    """Yields (module, function that yields (name, MODEL node) of its models) for each type."""
    def models(folder, model_type):
        for name in models_of(folder):
            model = model_config(name).MODEL
            if model_type == model.TYPE:
                yield name, model

    for model_type, (folder, file, _) in MODELS.items():
        names = f'{file}_names'
        if not os.path.isfile(os.path.join(ROOT, folder, f'{names}.py')):
            names = file
        yield load_family_file(folder, names), functools.partial(models, folder, model_type)


def with_values(name, values):
    """The model of a name without its weights, with some other values of MODEL keys; None if it
    cannot have them."""
    if not values:
        return without_weights(name)
    config = model_config(name).clone()
    config.defrost()
    try:
        for key, value in values.items():
            set_key(config, f'MODEL.{key}', value, name)
        with paddle.LazyGuard():
            return build_model(config)
    except InputError:
        return None


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
