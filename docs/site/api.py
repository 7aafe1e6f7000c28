"""Writes docs/api.md: the public Python interface, a line for each name.

The lines are the first ones of the docstrings; build.py puts all of a docstring below them. The
sources are read, not imported: neither Paddle nor anything else of the project is needed.
"""
import ast
from pathlib import Path

from paddle_vitae import NAMES
from paddle_vitae.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'api.md'

# (heading, what its names are for, the names) in the order in which a user needs them. The test in
# tests/test_docs.py says what is missing here.
SECTIONS = (
    ('Models', 'A model by name, with weights of any origin.', (
        'common.zoo.create_model', 'common.zoo.list_models', 'common.zoo.model_config',
        'common.zoo.with_recipe', 'common.zoo.build_model', 'common.zoo.fetch_weights',
        'common.weights.load.load_pretrained', 'common.weights.load.read_weights',
        'common.convert.convert', 'common.layers.macs.count_macs',
        'common.layers.macs.count_parameters', 'common.processes.set_up_cpu')),
    ('Predict', 'A model, or an export, on images.', (
        'common.apis.init_model', 'common.apis.inference_model', 'common.apis.classify',
        'common.apis.Preprocessing', 'common.apis.set_device')),
    ('Features and attention', 'What a model sees: features, maps of attention.', (
        'common.layers.classifier.ImageClassifier',
        'common.layers.classifier.ImageClassifier.extract_feat',
        'common.layers.classifier.ImageClassifier.get_attention',
        'common.layers.classifier.ImageClassifier.reset_classifier',
        'common.attention_maps.attention_maps', 'common.attention_maps.rollout',
        'common.probing.linear_probe.probe', 'vitaev2_vsa.vsa.VSAWindowAttention')),
    ('Backbone', 'Maps at several strides, for detection and segmentation.', (
        'common.backbone.create_backbone', 'common.backbone.Backbone')),
    ('Training', 'The parts of the training loop, for a loop of your own.', (
        'common.config.base_config', 'common.config.load_config', 'common.config.update_config',
        'common.config.set_options', 'common.config.model_arguments',
        'common.train.optim.build_optimizer', 'common.train.schedule.build_schedule',
        'common.train.losses.build_loss', 'common.train.ema.build_ema')),
    ('Data', 'Data sets and loaders.', (
        'common.data.datasets.get_dataset', 'common.data.tensor_loader.get_dataloader')),
    ('Export', 'Graphs for other runtimes, and the reader of them.', (
        'common.export.export_model', 'common.export.export_int8', 'common.export.runtime_of',
        'common.runtimes.load_exported')),
    ('Reports', 'What a model gets wrong.', (
        'common.reporting.source.open_source', 'common.reporting.report.write_report')),
    ('Detection and segmentation', 'With PaddleDetection and PaddleSeg, after `make engines`.', (
        'common.engines.detection.config.list_recipes',
        'common.engines.detection.config.read_config',
        'common.engines.detection.optim.StepSchedule',
        'common.engines.detection.shapes.write_shapes',
        'common.engines.segmentation.config.list_recipes',
        'common.engines.segmentation.config.read_config',
        'common.engines.segmentation.components.build_model',
        'common.engines.segmentation.data.find_pairs',
        'common.engines.segmentation.pictures.overlay',
        'common.engines.segmentation.training.rate_at', 'common.engines.shapes.draw_pictures')),
    ('Errors', 'A wrong input is one line: where, what was got, what was expected.', (
        'common.core.errors.InputError',)),
)
# What build.py replaces, as the site has what this points to.
WHERE = 'on this page of [the site](../CONTRIBUTING.md#write-a-page) that `make docs` builds'
OPENING = f"""\
# The Python interface

```python
from paddle_vitae import create_model, inference_model
model = create_model('vit_base_patch16_224', num_classes=10)
print(inference_model(model, 'photo.jpg')['pred_score'])
```

<!-- Written by docs/site/api.py; `make docs` writes it again. -->
Parameters, results, errors, sources and an example of each name stand in its docstring
(`help(create_model)`), and {WHERE}.

Where the second column says `paddle_vitae`, the name is imported from there. The others are in
`paddle_vitae.common.X` of an installation, and in `common.X` of a checkout, as the examples have
them ([install](install.md)).
"""
TOOLS = """\
## On the command line

Each is `paddle-vitae NAME`; with `-h` it prints its flags.

| name | what it does |
|---|---|
"""


def source_of(name: str) -> tuple[Path, list[str]]:
    """The file of a dotted name, and the names within the file."""
    parts = name.split('.')
    for end in range(len(parts) - 1, 0, -1):
        for file in (ROOT.joinpath(*parts[:end]).with_suffix('.py'),
                     ROOT.joinpath(*parts[:end], '__init__.py')):
            if file.is_file():
                return file, parts[end:]
    raise ValueError(f'docs/site/api.py: no file has {name}')


def definition(name: str) -> tuple[Path, ast.AST]:
    """(file, definition) of a function, class or method, also where it is imported from another."""
    file, names = source_of(name)
    node = ast.parse(file.read_text(encoding='utf-8'))
    for depth, part in enumerate(names):
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and child.name == part:
                node = child
                break
            if isinstance(child, ast.ImportFrom) and not depth:
                for alias in child.names:
                    if (alias.asname or alias.name) == part:
                        return definition('.'.join([child.module, alias.name, *names[1:]]))
        else:
            raise ValueError(f'docs/site/api.py: {file.relative_to(ROOT)} has no {part}')
    return file, node


def line(name: str) -> str:
    """The row of a name: itself with a link to its file, where it is imported from, its use."""
    file, node = definition(name)
    module, short = source_of(name)
    package = '.'.join(module.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    short = '.'.join(short)
    home = 'paddle_vitae' if short in NAMES and package == f'common.{NAMES[short]}' else package
    summary = ast.get_docstring(node).split('\n\n')[0].replace('\n', ' ').replace('|', '\\|')
    return f'| [`{short}`](../{file.relative_to(ROOT)}) | `{home}` | {summary} |'


def page() -> str:
    """The text of docs/api.md."""
    parts = [OPENING]
    for heading, use, names in SECTIONS:
        rows = '\n'.join(map(line, names))
        parts.append(f'## {heading}\n\n{use}\n\n'
                     f'| name | from | what it does |\n|---|---|---|\n{rows}\n')
    rows = ''.join(f'| `{name}` | {command.help} |\n' for name, command in COMMANDS.items())
    return '\n'.join([*parts, TOOLS + rows])


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
