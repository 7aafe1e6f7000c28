"""The models by name: the one file of `common` that knows which families exist.

A model's name is the stem of its yaml. The families' files are found from any working directory.

python -m common.zoo [PATTERN]    prints the table of the READMEs
"""
import fnmatch
import functools
import glob
import os
from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import nn

from common.config import ConfigNode, keys_of_arguments, with_yaml
from common.core.config_keys import wrong
from common.core.devices import set_device
from common.core.errors import InputError, errors_of_a_tool
from common.core.flags import tool_parser
from common.core.modules import import_file
from common.core.yaml_files import read_base, read_yaml
from common.hub.fetch import Fetched, fetch
from common.hub.references import HUB, model_of_reference
from common.hub.registry import Registry, read_registries
from common.layers.model_table import TABLE_HEAD, table_row
from common.weights import identify
from common.weights.checkpoint_config import check_stated, load_with_names, merged_config
from common.weights.load import Weights, lookalike, read_weights
from common.weights.model_of_file import KnownModels, config_of_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# MODEL.TYPE -> (folder, model file, its build function)
MODELS = {
    'vit': ('vit', 'vit', 'build_vit'),
    'vitae': ('vitae', 'vitae', 'build_vitae'),
    'vitaev2_vsa': ('vitaev2_vsa', 'vitaev2_vsa', 'build_vitaev2_vsa'),
    'swin': ('vitaev2_vsa', 'swin', 'build_swin'),
}
FINETUNE = 'finetune'  # the recipe for small data, FAMILY/configs/_finetune.yaml
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


def list_models(pattern: str = '*') -> list[str]:
    """The names of the models, each of which create_model takes.

    Args:
        pattern: a shell pattern that the names must match, with *, ? and [...].

    Returns:
        The names, sorted.

    Source: the function of this name in timm.

    Examples:
        >>> from common.zoo import list_models
        >>> list_models('vit_tiny*')
        ['vit_tiny_patch16_224', 'vit_tiny_patch16_384']
    """
    return sorted(name for family in FAMILIES for name in models_of(family)
                  if fnmatch.fnmatch(name, pattern))


def models_of(family):
    """The names of a family's models, sorted."""
    files = glob.glob(os.path.join(ROOT, family, 'configs', '[!_]*.yaml'))
    return sorted(os.path.splitext(os.path.basename(file))[0] for file in files)


def create_model(name: str | None = None, pretrained: str | os.PathLike | bool | None = None,
                 num_classes: int | None = None, image_size: int | Sequence[int] | None = None, *,
                 checkpoint: str | os.PathLike | None = None, device: str | None = None,
                 options: Sequence[str] = (), **model_overrides) -> nn.Layer:
    """A model by its name, in training mode; common.apis.init_model gives it in evaluation mode.

    Its config is, each over the one before: the yaml, what a checkpoint of this project says about
    its classes and images, `options`, and the other arguments. On a CPU call
    `common.processes.set_up_cpu()` before, as the programs of this project do: on AMD
    processors it decides a factor of 2 to 4 in speed, and no function of the Python API calls it.

    Args:
        name: one of list_models(), another project's name (ALIASES), or the path of a yaml; None
            takes the model that the weights are of: `create_model(pretrained='RUN')`.
        pretrained: True for the model's published weights; or weight file of any format, run's
            folder, or what fetch_weights takes. None and False leave newly initialised weights. A
            checkpoint of this project also brings its classes and preprocessing.
        num_classes: outputs of the classifier; with weights, another number than the file's gives
            a new classifier, which `options` never do. 0: no classifier, features [B, C].
        image_size: pixels, a number or [height, width].
        checkpoint: the same as `pretrained`, by init_model's name for it.
        device: 'cpu', 'gpu' or 'gpu:N'; it holds for the process. None leaves Paddle's.
        options: 'KEY=VALUE' strings for any keys of the config, e.g. 'DATA.CROP_PCT=0.9'.
        model_overrides: other keys of the config's MODEL node, e.g. DROPPATH=0.1, or the
            constructor's names for them, e.g. drop_path=0.1, or timm's.

    Returns:
        A Layer that takes float32 [B, 3, H, W], normalised, and gives logits [B, K]. It has
        `.config`, the config that it was built from, `.class_names`, a list or None, and
        `.notes`, the sentences about the loading of its weights, which also go to the log
        'paddle_vitae' at level INFO.

    Raises:
        InputError: an unknown name, key or device, a key given twice, weights that do not fit, or
            cannot be fetched, or without a name do not tell which model they are of.

    Source: the function of this name in timm; the models' sources stand in their files.

    Examples:
        >>> import paddle
        >>> from common.zoo import create_model
        >>> model = create_model('vit_digits', num_classes=5, drop_path=0.1)
        >>> tuple(model(paddle.zeros([2, 3, 32, 32])).shape)
        (2, 5)
        >>> features = create_model('vit_digits', num_classes=0, image_size=64)
        >>> tuple(features(paddle.zeros([2, 3, 64, 64])).shape)
        (2, 96)
    """
    if pretrained is not None and checkpoint is not None:
        raise InputError('pretrained, checkpoint: got both, expected one of them')
    reference = checkpoint if pretrained is None else pretrained
    if device is not None:
        set_device(device)
    plan = plan_model(name, reference, keys_of_arguments(num_classes, image_size,
                                                         **model_overrides), options)
    model = build_model(plan.config)
    load_plan(model, plan)
    return model


class ModelPlan(NamedTuple):
    """What a model is to be, before it is built."""

    config: ConfigNode        # frozen
    file: str | None          # of its weights
    weights: Weights | None   # what this file holds
    origin: str | None        # a sentence about a file that was fetched
    new_head: bool            # whether the classifier need not be the file's


def plan_model(name, reference, values, options=()):
    """The config of a model and the weights for it, compared with each other.

    Args:
        name, options: see create_model.
        reference: its `pretrained`.
        values: {key: (argument, value)}, of keys_of_arguments.

    Returns:
        ModelPlan, for build_model and load_plan.
    """
    if name is None:
        name = model_of_reference(reference)
    own = None if name is None else model_config(name)
    file, origin = None, None
    if reference:
        file, origin = fetch_weights(reference, own and own.MODEL.NAME)
    weights = read_weights(file) if file else None
    if own is None:
        own, weights = config_of_weights(weights, file)
    config, stated = merged_config(own, options, values, file, weights)
    if weights:
        check_stated(config, stated, weights, file, build_model)
    return ModelPlan(config, file, weights, origin, 'MODEL.NUM_CLASSES' in values)


def load_plan(model, plan):
    """Puts the weights of a plan into its model, and says so in the model's notes."""
    load_with_names(model, plan.file, plan.weights, plan.new_head)
    if plan.origin:
        model.notes.insert(0, f'weights of {plan.origin}')


def fetch_weights(reference: str | os.PathLike | bool, model: str | None) -> Fetched:
    """The file of some weights; downloads, checks and keeps it if that is asked for.

    Args:
        reference: 'hub' or True for the published weights of a model, 'hub:TAG' or
            'hub:MODEL/TAG' for others of them, 'https://...', 'hf:OWNER/NAME' of the Hugging Face
            hub; or a path, for which nothing is done.
        model: name of the model that the weights are for; None where no 'hub' needs it.

    Returns:
        Fetched, a named tuple (file, origin), where origin is a text with URL and sha256, or None
        for a path.

    Raises:
        InputError: no such weights, no connection, or not the file that it should be.

    Source: this project; the names are those of timm's tags.

    Examples:
        >>> from common.zoo import fetch_weights
        >>> fetch_weights('RUN/best.pdparams', 'vit_digits').file
        'RUN/best.pdparams'
    """
    return fetch(HUB if reference is True else reference, model, published_weights)


def published_weights() -> Registry:
    """The published weights that are known, {model: {tag: Entry}}; common/hub/registry.py says
    what an entry has."""
    return read_registries([os.path.join(ROOT, family, 'weights.yaml') for family in FAMILIES])


def build_model(config: ConfigNode) -> nn.Layer:
    """The model of a config, newly initialised and in training mode.

    Args:
        config: of model_config or of a family's get_config.

    Returns:
        A Layer with the config as its attribute `config`; see create_model.

    Raises:
        InputError: an unknown MODEL.TYPE, or values that do not go together.

    Source: the function of this name in PaddleViT's model files.

    Examples:
        >>> from common.zoo import build_model, model_config
        >>> model = build_model(model_config('vit_digits'))
        >>> type(model).__name__, model.config.MODEL.NAME
        ('VisionTransformer', 'vit_digits')
    """
    folder, file, build_function = family_of(config)
    model = getattr(load_family_file(folder, file), build_function)(config)
    model.config, model.known_as = config, known_as
    return model


def family_of(config):
    """The entry of MODELS for a config. Raises InputError if there is none."""
    if config.MODEL.TYPE not in MODELS:
        raise InputError(f'MODEL.TYPE: got {config.MODEL.TYPE!r}, expected one of '
                         f'{", ".join(MODELS)}')
    return MODELS[config.MODEL.TYPE]


def model_config(name_or_file: str) -> ConfigNode:
    """The config of a model.

    Args:
        name_or_file: name of a model, see list_models, or the path of a yaml.

    Returns:
        The frozen config, the defaults of the family with the values of the yaml.

    Raises:
        InputError: an unknown name, or a yaml that is no config.

    Source: this project; the keys are PaddleViT's.

    Examples:
        >>> from common.zoo import model_config
        >>> config = model_config('vit_digits')
        >>> config.MODEL.EMBED_DIM, config.DATA.IMAGE_SIZE
        (96, 32)
    """
    file, family = find_yaml(name_or_file)
    return load_family_file(family, 'config').get_config(file)


def with_recipe(config: ConfigNode, recipe: str | os.PathLike) -> ConfigNode:
    """The config of a model with another recipe than that of its yaml.

    Args:
        config: of `model_config` or of a family's get_config.
        recipe: 'finetune' for FAMILY/configs/_finetune.yaml, or the path of a yaml file.

    Returns:
        The frozen config; MODEL.NAME stays, and with it what is published for the model.

    Raises:
        InputError: no such recipe, a file that is no config, or one for another type of model.

    Source: this project.

    Examples:
        >>> from common.zoo import model_config, with_recipe
        >>> config = with_recipe(model_config('vit_small_patch16_224'), 'finetune')
        >>> config.MODEL.NAME, config.MODEL.EMBED_DIM, config.AUG.MIXUP
        ('vit_small_patch16_224', 384, 0.0)
    """
    changed = with_yaml(config, recipe_file(family_of(config)[0], os.fspath(recipe)))
    if changed.MODEL.TYPE != config.MODEL.TYPE:
        raise InputError(f'recipe: got {recipe}, one for MODEL.TYPE {changed.MODEL.TYPE}, expected '
                         f'one for {config.MODEL.TYPE}, the type of {config.MODEL.NAME}')
    return changed


def recipe_file(family, recipe):
    """The yaml of a recipe, a name or a path, for the models of a family."""
    if recipe.endswith(('.yaml', '.yml')):
        return recipe
    folder = os.path.join(ROOT, family, 'configs')
    names = sorted(os.path.basename(file)[1:-len('.yaml')]
                   for file in glob.glob(os.path.join(folder, '_*.yaml')))
    if recipe not in names:
        raise InputError(f'recipe: got {recipe!r}, expected a yaml file or one of '
                         f'{", ".join(names)}')
    return os.path.join(folder, f'_{recipe}.yaml')


def config_of_weights(weights, file):
    """(config of the model that some weights are of, the weights with a note that says so), where
    the user names no model; see weights/model_of_file.py."""
    if weights is None:
        raise InputError('model: got neither a name nor weights, expected one of them')
    types = dict(zip(MODELS, model_types(), strict=True))
    config, note = config_of_file(weights, file, KnownModels(
        types, lambda model_type: load_family_file(MODELS[model_type][0], 'config').get_config(),
        model_config, build_model, with_values))
    return config, weights._replace(notes=[note, *weights.notes])


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
    model_type = types[-1] if types else None
    if not isinstance(model_type, str) or model_type not in MODELS:
        raise wrong(name_or_file, 'MODEL.TYPE', model_type, f'one of {", ".join(MODELS)}')
    return name_or_file, MODELS[model_type][0]


def is_of_the_zoo(file):
    """Whether a file is one of the models' own yamls."""
    folder = os.path.dirname(os.path.realpath(file))
    return folder in {os.path.realpath(os.path.join(ROOT, family, 'configs'))
                      for family in FAMILIES}


def load_family_file(family, name):
    """The module of FAMILY/NAME.py."""
    return import_file(ROOT, family, name)


def check_family(cfg_file, config):
    """Raises InputError for a yaml that is for another family than a program's `config`."""
    if cfg_file is None:
        return
    family = MODELS[config.MODEL.TYPE][0]
    for key, value, line in read_yaml(cfg_file):
        if key != 'MODEL.TYPE' or not isinstance(value, str) or value not in MODELS:
            continue  # get_config says what is wrong with it
        other = MODELS[value][0]
        if other != family:
            raise InputError(f'{cfg_file}:{line}: MODEL.TYPE: got {value}, a model of {other}/; '
                             f'expected one of {family}/ here: cd ../{other} and run '
                             f'main_multi_gpu.py there')


@functools.cache
def without_weights(name):
    """The model of a name, with the shapes of its parameters only."""
    with paddle.LazyGuard():
        return build_model(model_config(name))


def known_as(model, state, layout):
    """A sentence about what some weights, {name: array}, are that do not fit a model, or ''."""
    return lookalike(model, state) or describe(state, layout)


def describe(state, layout):
    """A sentence about which of the models some weights are for, or ''; see weights/identify.py."""
    return identify.describe(state, layout, model_types(), with_values)


def with_values(name, values):
    """The model of a name with other values of MODEL keys, without its weights, or None."""
    if not values:
        return without_weights(name)
    return identify.with_values(model_config(name), values, build_model)


def model_types():
    """Yields (module, function that yields (name, MODEL node) of its models) for each type, in the
    order of MODELS."""
    def models(folder, model_type):
        for name in models_of(folder):
            model = model_config(name).MODEL
            if model_type == model.TYPE:
                yield name, model

    for model_type, (folder, file, _) in MODELS.items():
        names = load_family_file(folder, f'{file}_names')
        yield names, functools.partial(models, folder, model_type)


def table(pattern='*'):
    """The models whose names match a shell pattern, as a markdown table, counted by this code."""
    rows = []
    for name in list_models(pattern):
        config = model_config(name)
        build = functools.partial(build_model, config)
        rows.append(table_row(name, config, without_weights(name), build))
    return '\n'.join([TABLE_HEAD, *rows])


def main(argv=None):
    parser = tool_parser('zoo', 'Lists the models as a markdown table.', "'vit_tiny*'")
    parser.add_argument('pattern', nargs='?', default='*', help="shell pattern, e.g. 'vit_base*'")
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        print(table(args.pattern))


if __name__ == '__main__':
    main()
