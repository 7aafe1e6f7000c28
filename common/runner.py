"""The training program: its command line, and the start of a run.

`run` is what a family's main_multi_gpu.py calls; `train` and `evaluate` are the commands of these
names, for a model of any family:

paddle-vitae train -cfg vit_digits -data_path FOLDER
paddle-vitae eval -cfg vit_digits -data_path FOLDER -pretrained FILE

The same program runs on a CPU (one process, or several with -nprocs over gloo), on every GPU that
CUDA_VISIBLE_DEVICES names, and under `python -m paddle.distributed.launch` on several machines
(for the command with its path, `$(which paddle-vitae) train ...`).
"""
import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from common.config import base_config, update_config
from common.core import processes
from common.core.environment import DEBUG, SUPERVISED
from common.core.errors import InputError, complain, errors_of_a_tool, printable, say
from common.core.flags import add_flag, check_least, tool_parser
from common.core.signals import StopSignal, is_child
from common.data.datasets import get_dataset
from common.data.recognise import recognise
from common.hub.references import is_reference
from common.reporting.figures import check_classes, check_extra
from common.train.launcher import errors_in_one_line, launch, supervise
from common.train.multi_label import check_keys
from common.train.results import result_text
from common.train.run_folder import AUTO
from common.zoo import MODELS, build_model, check_family, model_config, plan_model, with_recipe

TEXT = 'Trains, fine-tunes (-pretrained) or evaluates (-eval) a model.'


def make_parser():
    """The command line of a family's script."""
    parser = argparse.ArgumentParser(description=TEXT, allow_abbrev=False)
    add_flag(parser, 'cfg', 'yaml of the model and recipe, e.g. '
             './configs/vit_base_patch16_224.yaml', metavar='FILE')
    add_run_flags(parser)
    return parser


def make_command_parser(name, text, example, needs_cfg=True):
    """The command line of `paddle-vitae NAME`: the same flags, and -cfg takes a model's name."""
    parser = tool_parser(name, text, f'-cfg vit_digits -data_path digits {example}')
    add_flag(parser, 'cfg', 'name of a model, or a yaml file', required=needs_cfg,
             metavar='NAME')
    add_run_flags(parser)
    return parser


def add_run_flags(parser):
    """Adds PaddleViT's flags but for -cfg, -nprocs and -o, each with one dash or two."""
    add = partial(add_flag, parser)
    add('recipe', 'finetune: trains by the recipe for small data instead of that of -cfg, see '
        'docs/finetune.md; or a yaml file', metavar='NAME')
    add('dataset', 'imagenet2012 | list | imagefolder | class_folders | csv | webdataset | '
        'cifar10 | cifar100 | digits; default: found by what is there', metavar='NAME')
    add('data_path', 'folder of the data set, a csv file or an archive', metavar='FOLDER')
    add('val_fraction', 'fraction of each class that validates where the data have no split of '
        'their own; default 0.1', type=float, metavar='X')
    add('class_names', 'file with the name of each class, one a line', metavar='FILE')
    add('train_fraction', 'share of the training images of each class, e.g. 0.01', type=float,
        metavar='X')
    add('real_labels', 'real.json: also evaluate by the ReaL labels', metavar='FILE')
    add('output', 'folder under which the run makes its own', metavar='FOLDER')
    add('batch_size', 'images on one device in one step', type=int, metavar='N')
    add('batch_size_eval', 'the same for evaluation', type=int, metavar='N')
    add('image_size', 'pixels', type=int, metavar='N')
    add('accum_iter', 'micro-batches in one optimiser step', type=int, metavar='N')
    add('pretrained', 'weights to fine-tune or evaluate: a file, the folder of a run, hub (the '
        'published ones of the model), hub:TAG, https://... or hf:OWNER/NAME',
        metavar='FILE')
    add('resume', 'last.pdparams of a run to go on with, or the run\'s folder; auto: the newest '
        'run of this model under -output goes on in its own folder, if there is one',
        metavar='FILE')
    add('last_epoch', 'epochs that count as done', type=int, metavar='N')
    add('eval', 'evaluate and stop', action='store_true')
    add('report', "with -eval: also writes a page of what the model gets wrong into the run's "
        'folder, see docs/report.md', action='store_true')
    add('amp', 'mixed precision, in training and evaluation', action='store_true')
    add('visualdl', 'write the figures for VisualDL too', action='store_true')
    add('nprocs', 'processes on this machine: default every visible GPU, or 1 on a CPU',
        type=int, metavar='N')
    add('max_restarts', 'how often the run is started again and goes on when it has crashed',
        type=int, default=0, metavar='N')
    add('profile', "records N training steps: a Chrome trace in the run's folder, the largest "
        'costs in the log; see docs/training.md', type=int, metavar='N')
    add('debug', 'show where in the code an error came up', action='store_true')
    parser.add_argument('-o', action='append', metavar='KEY=VALUE',
                        help='sets any config key; may be repeated')


def run(get_config: Callable, update_config: Callable, build_model: Callable,
        get_dataset: Callable, argv: Sequence[str] | None = None) -> None:
    """Runs the whole program of a family's main_multi_gpu.py.

    Args:
        get_config: yaml path or None -> frozen config.
        update_config: (config, parsed flags) -> frozen config.
        build_model: config -> Layer. Must be importable by the processes that are spawned.
        get_dataset: (config, is_train) -> data set.
        argv: list of arguments; None is the command line's.

    Raises:
        SystemExit: with the exit code of common/core/processes.py, unless the run has ended well.
    """
    args = make_parser().parse_args(argv)

    def read_config(cfg_file):
        check_family(cfg_file, get_config(None))
        return get_config(cfg_file)

    start(args, read_config, update_config, build_model, get_dataset)


def train(argv: Sequence[str] | None = None) -> None:
    """Runs `paddle-vitae train`: as `run`, for the model that -cfg names."""
    parser = make_command_parser('train', TEXT, '-output runs')
    start_by_name(parser.parse_args(argv))


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Runs `paddle-vitae eval`: `train` with -eval, or the evaluation of an export."""
    parser = make_command_parser('eval', 'Evaluates a model: train with -eval. Without -cfg it is '
                                 'the one that the weights are of.', '-pretrained runs/*',
                                 needs_cfg=False)
    add_flag(parser, 'exported', 'folder of paddle-vitae export, in place of -cfg and -pretrained',
             metavar='FOLDER')
    add_flag(parser, 'runtime', 'what runs it, see paddle-vitae predict -h', metavar='NAME')
    args = parser.parse_args(argv)
    if args.exported is not None:
        evaluate_export(args)
        return
    args.eval = True
    start(args, partial(config_to_evaluate, weights=args.pretrained or args.resume),
          update_same_family, build_model, get_dataset)


def config_to_evaluate(name, weights):
    """The config of the model that -cfg names, or else that the weights are of; these are then read
    here and again by the process that evaluates."""
    if name is not None:
        return model_config(name)
    if weights in (None, AUTO):
        raise InputError('-cfg: got none and no weights that tell the model, expected -pretrained '
                         "FILE, a run's folder, or -cfg NAME")
    plan = plan_model(None, weights, {})
    complain(f'{printable(plan.file)}: {plan.weights.notes[0]}')
    return plan.config


def evaluate_export(args):
    """Prints the accuracy of an export on the validation set that the flags name."""
    from common.deploy.evaluation import evaluate_exported  # a run needs no runtime
    from common.deploy.load import check_alone, load_exported

    with errors_of_a_tool():
        check_alone(args, 'cfg', 'pretrained', 'resume', 'image_size', 'report', 'nprocs', 'recipe',
                    'real_labels', 'amp')
        processes.set_up_cpu()
        batch_size = args.batch_size_eval or base_config().DATA.BATCH_SIZE_EVAL
        classifier = load_exported(args.exported, args.runtime, batch_size=batch_size)
        for note in classifier.notes:
            complain(note)
        result = evaluate_exported(classifier, data_path=args.data_path, dataset=args.dataset,
                                   class_names=args.class_names, batch_size_eval=batch_size,
                                   val_fraction=args.val_fraction, o=args.o)
        say(f'{printable(args.exported)}: {result_text(result)}')


def start_by_name(args):
    """Runs the program for the model of any family that -cfg names."""
    start(args, model_config, update_same_family, build_model, get_dataset)


def update_same_family(config, args):
    """The config with the flags in place. Raises InputError if they name another family's type."""
    family = MODELS[config.MODEL.TYPE][0]
    config = update_config(config, args)
    types = [name for name, (folder, *_) in MODELS.items() if folder == family]
    if config.MODEL.TYPE not in types:
        raise InputError(f'MODEL.TYPE: got {config.MODEL.TYPE!r}, expected {" or ".join(types)}')
    return config


def start(args, read_config, update_config, build_model, get_dataset):
    """Runs the program with the flags that were read; see `run`."""
    if args.debug:
        os.environ[DEBUG] = '1'
    with StopSignal(is_child()) as signals, errors_in_one_line(signals):
        config = read_config(args.cfg)
        if args.recipe is not None:
            config = with_recipe(config, args.recipe)
        config = update_config(config, args)
        check_flags(config)
        check_least(args, profile=1)
        if args.profile and config.EVAL:
            raise InputError('-profile: got it in an evaluation, expected a training')
        if args.report:
            check_report(config)
        config = recognise(config)
        if args.max_restarts:
            sys.exit(supervise(config, args.max_restarts, signals))
        if SUPERVISED in os.environ:
            processes.end_with_parent(signal.SIGTERM, int(os.environ[SUPERVISED]))
        launch(config, args.nprocs, build_model, get_dataset, signals,
               evaluation_report() if args.report else None, args.profile)


def check_report(config):
    """Raises InputError where -report can do nothing."""
    if not config.EVAL:
        raise InputError('-report: got it in a training, expected -eval; for the run that has '
                         'ended: paddle-vitae report RUN')
    if config.DATA.MULTI_LABEL:
        raise InputError('-report: got it with DATA.MULTI_LABEL, expected one class for each '
                         'image; of several: paddle-vitae report RUN')
    check_extra()
    check_classes(config.MODEL.NUM_CLASSES)


def evaluation_report():
    """What -report adds to an evaluation."""
    from common.reporting.evaluation import EvaluationReport  # matplotlib: half a second
    return EvaluationReport()


def check_flags(config):
    """Raises InputError for what can be known to be wrong before any process starts."""
    model = config.MODEL
    check_keys(config)
    if config.EVAL and not (model.PRETRAINED or model.RESUME):
        raise InputError('-eval: got no weights, expected -pretrained FILE; without weights the '
                         'accuracy would be that of random numbers')
    if config.EVAL and model.PRETRAINED and model.RESUME:
        raise InputError('-pretrained and -resume: got both, expected one to evaluate')
    if model.PRETRAINED and not is_reference(model.PRETRAINED) \
            and not os.path.exists(model.PRETRAINED):
        raise InputError(f'-pretrained: no such file: {model.PRETRAINED}')
    if model.RESUME not in (None, AUTO) and not os.path.exists(model.RESUME):
        raise InputError(f'-resume: no such file or folder: {model.RESUME}')
    if config.EVAL and model.RESUME == AUTO:
        raise InputError('-resume: got auto with -eval, expected a file or folder')
    if config.VISUALDL and importlib.util.find_spec('visualdl') is None:
        raise InputError("-visualdl: visualdl is missing; pip install 'paddle-vitae[visualdl]'")


if __name__ == '__main__':
    train()
