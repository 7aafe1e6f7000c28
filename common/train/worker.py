"""A run in one process: from a config to trained or evaluated weights."""
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import paddle

from common.config import plain_config
from common.core import dist, processes
from common.core.class_names import check_same, match_labels
from common.core.cores import core_count
from common.core.errors import InputError
from common.core.label_sets import label_text
from common.core.signals import Stopped
from common.data.batches import build_normalize, train_batches
from common.data.loader import build_loader
from common.data.subset import Subset
from common.layers.recompute import recompute_cells
from common.train.checkpoint import resume
from common.train.class_weights import class_weights
from common.train.describe import describe, describe_training
from common.train.ema import Ema, build_ema
from common.train.evaluation import Evaluation, write_final_result
from common.train.log import RunLog
from common.train.losses import build_loss
from common.train.multi_label import check_same_labels
from common.train.optim import build_optimizer, sharded
from common.train.patience import Patience
from common.train.precision import Precision
from common.train.profiling import StepProfile
from common.train.run_folder import (
    discard,
    has_result,
    remove_result,
    supervised_folder,
    with_resume,
    write_text,
)
from common.train.same_run import check_same_run, continue_run, data_fingerprints
from common.train.saver import CheckpointSaver
from common.train.schedule import build_schedule
from common.train.sharding import is_split
from common.train.split_model import parallel
from common.train.state import TrainState
from common.train.trainer import Trainer
from common.weights.load import load_pretrained, read_weights
from common.zoo import fetch_weights, known_as


@dataclass
class Run:
    """What each process of a run gets.

    Attributes:
        config: the frozen config.
        device: 'cpu' or 'gpu'.
        folder: the run's folder on rank 0, and at once also on ranks that are spawned; None on
            others, and for a run without one.
        notes: sentences for the first lines of the log.
        build_model: config -> Layer.
        train_set: None in an evaluation.
        val_set: the validation set.
        profile: how many steps of a training are recorded; None for none.
        report: of an evaluation: `collector(val_set)` gives what Evaluation.run calls with the
            logits, and `write(collector, model, config, folder, val_set, notes)` is called on
            each rank after all else; or None.
    """
    config: Any
    device: str
    folder: str | None
    notes: list[str]
    build_model: Callable
    train_set: Any
    val_set: Any
    report: Any = None
    profile: int | None = None


def worker(run, signals):
    """Trains or evaluates as one rank of a run.

    A run that is refused or stopped before it trains leaves no folder.

    Args:
        run: Run.
        signals: StopSignal of this process.
    """
    try:
        if run.folder is not None and dist.launched_rank() == 0:
            held = processes.lock(run.folder)  # noqa: F841 - as long as this process lives
        trainer, start = prepare(run, signals)
    except (InputError, Stopped):
        if run.folder is not None and dist.is_master():
            discard(run.folder)
        raise
    if trainer:
        with signals.noted():
            trainer.run(start)


def prepare(run, signals):
    """Does all that comes before the first step of a training, or a whole evaluation.

    Returns:
        (Trainer, where it starts), or (None, None) if there is nothing to train.
    """
    # STEP 1: process group and log
    run = join_group(run)
    config = run.config
    log = RunLog(run.folder, active=dist.is_master(), visualdl=config.VISUALDL)
    for note in run.notes:
        log.info(note)
    paddle.seed(config.SEED)

    # STEP 2: model and weights
    precision = Precision(config.AMP, config.AMP_DTYPE, config.AMP_LEVEL, run.device)
    model = run.build_model(config)
    model.known_as = known_as
    describe(log, config, model, precision, run.device, run.folder)
    metadata = {}
    if config.MODEL.PRETRAINED and not config.MODEL.RESUME:  # a resumed run has its own weights
        metadata = load_weights(config, model, run.train_set, log)

    # STEP 3: evaluation alone, or what training needs
    if config.EVAL:
        evaluate_weights(run, model, metadata, precision, log, signals)
        return None, None
    evaluation = Evaluation(config, run.val_set, build_normalize(config), precision, log, signals)
    return prepare_training(run, model, evaluation, metadata.get('origin'))


def join_group(run):
    """Sets up this process's device and its process group; the Run as rank 0 has it."""
    paddle.set_device(run.device)
    if run.device == 'cpu':
        processes.set_up_cpu()
    dist.join_group()
    folder = dist.from_master('folder', run.folder)
    resumed = dist.from_master('resume', run.config.MODEL.RESUME)
    return replace(run, folder=folder, config=with_resume(run.config, resumed))


def load_weights(config, model, train_set, log):
    """Puts MODEL.PRETRAINED into the model and says what came with it.

    Args:
        config: the run's config.
        model: a Layer.
        train_set: None in an evaluation, which takes the classifier as it is.
        log: RunLog.

    Returns:
        dict: the metadata of the file; `origin`, where it is from.
    """
    file, origin = fetch_weights(config.MODEL.PRETRAINED, config.MODEL.NAME)
    weights = read_weights(file)
    notes = load_pretrained(model, file, new_head=train_set is not None, weights=weights,
                            class_names=getattr(train_set, 'class_names', None))
    log.info(f'weights: {file} loaded')
    for note in [f'of {origin}', *notes] if origin else notes:
        log.info(f'  {note}')
    return {**weights.metadata, 'origin': origin or file}


def evaluate_weights(run, model, metadata, precision, log, signals):
    """Does the work of -eval: evaluates the model, and its moving average if it has one.

    Args:
        metadata: of the file that MODEL.PRETRAINED names; {} if MODEL.RESUME names it.
    """
    config = run.config
    if config.MODEL.RESUME:
        metadata = resume(config.MODEL.RESUME, model, None, None)
        log.info(f'weights: {metadata["file"]} loaded')
    file = config.MODEL.RESUME or config.MODEL.PRETRAINED
    check_same_labels(config, metadata, file)
    notes = match_labels(run.val_set, metadata.get('class_names'), file, config)
    for line in notes:
        log.warning(line)
    evaluation = Evaluation(config, run.val_set, build_normalize(config), precision, log, signals)
    with signals.noted():
        model, _ = precision.decorate(model)
        collector = run.report and run.report.collector(run.val_set)
        result = evaluation.run(model, 0, collector=collector)
        if metadata.get('ema'):
            ema = Ema(model, decay=1.0)
            ema.load(metadata['ema'], config.MODEL.RESUME)
            with ema.in_place():
                result['averaged'] = evaluation.run(model, 0, averaged=True)
        write_final_result(log, run.folder, result, 'evaluation',
                           evaluation.class_names or metadata.get('class_names'))
    if run.report:  # seconds or minutes, which a signal ends at once
        run.report.write(collector, model, config, run.folder, run.val_set, notes)


def prepare_training(run, model, evaluation, origin):
    """Does the rest of `prepare` for a training, and returns the same.

    Args:
        origin: where the weights at the start are from, for the checkpoints; None for new ones.
    """
    # STEP 4: optimiser and schedule
    config, log = run.config, evaluation.log
    loader = build_loader(config, run.train_set, is_train=True)
    sampler = loader.batch_sampler
    weights = class_weights(config, run.train_set.images, log)
    state = build_state(config, model, sampler, evaluation.precision, weights)
    describe_training(log, config, state, sampler)

    # STEP 5: where the run starts
    metadata = {
        'seed': config.SEED, 'config': plain_config(config),
        'class_names': run.train_set.class_names,
        'cores': core_count() if run.device == 'cpu' else None,
        'data_sets': data_fingerprints(run.train_set, run.val_set),
        'data': {'images': sampler.num_samples, 'global_batch': sampler.global_batch,
                 'repeats': sampler.repeats, 'balance': config.DATA.BALANCE}}
    if origin:
        metadata['pretrained'] = origin
    start = find_start(run, state, metadata, log)
    if is_finished(run, start, state.schedule.num_epochs, log):
        return None, None
    for split, dataset in (('train', run.train_set), ('val', run.val_set)):
        if run.folder is not None and isinstance(dataset.images, Subset):
            write_names(os.path.join(run.folder, f'{split}_subset.txt'), dataset.images, log)

    # STEP 6: the loop
    batches = train_batches(config, loader)
    parallel(state, config.TRAIN.SHARDING)
    beside = config.SAVE_ASYNC
    if beside and is_split(config.TRAIN.SHARDING):
        log.info('SAVE_ASYNC is off: with TRAIN.SHARDING no process has memory for all states; '
                 'training waits while a checkpoint is written')
        beside = False
    saver = CheckpointSaver(run.folder, metadata, log, beside)
    profile = StepProfile(run.profile, run.folder, log, run.device)
    return Trainer(config, state, batches, evaluation, saver, log, evaluation.signals,
                   profile), start


def build_state(config, model, sampler, precision, weights=None):
    """The TrainState of a config: model, loss (with weights of the classes, or None), optimiser,
    schedule and moving average."""
    schedule = build_schedule(config.TRAIN, sampler.steps_per_epoch, sampler.global_batch)
    optimizer = build_optimizer(config.TRAIN, model)
    model, optimizer = precision.decorate(model, optimizer)
    optimizer = sharded(config.TRAIN, optimizer, model)
    model = with_training_options(config, model, precision)
    ema = build_ema(config, model, sampler.global_batch)
    return TrainState(model, build_loss(config.TRAIN, weights), optimizer, schedule,
                      precision, ema, config.DATA.MULTI_LABEL)


def with_training_options(config, model, precision):
    """The model as TRAIN.RECOMPUTE and TRAIN.TO_STATIC have it."""
    if config.TRAIN.RECOMPUTE:
        recompute_cells(model)
    if config.TRAIN.TO_STATIC:
        if precision.enabled and precision.dtype == 'bfloat16' \
                and paddle.__version__.startswith('2.'):  # compat: bfloat16-graph
            raise InputError('TRAIN.TO_STATIC: Paddle 2.6 makes a float16 graph of a bfloat16 '
                             'training; expected -o AMP_DTYPE=float16, or Paddle 3')
        model = paddle.jit.to_static(model, full_graph=True)
    return model


def find_start(run, state, metadata, log):
    """Loads the checkpoint that the run goes on with, if there is one.

    Returns:
        dict: what `resume` gave, or the same keys for a run from the start.
    """
    config, folder = run.config, run.folder
    if config.MODEL.RESUME:
        check = None
        if folder == config.MODEL.RESUME:
            check = partial(check_same_run, metadata, state.schedule.num_epochs, folder, log)
        start = resume(config.MODEL.RESUME, state.model, state.optimizer, state.precision.scaler,
                       state.ema, check)
        known = start.get('class_names')
        check_same(run.train_set.class_names, known, start['file'])
        metadata['class_names'] = run.train_set.class_names or known
        if start.get('pretrained'):
            metadata['pretrained'] = start['pretrained']
        continue_run(start, folder, metadata, log)
        return start
    if folder and supervised_folder() and dist.is_master():
        # a start before this one died before its first checkpoint
        log.cut(config.TRAIN.LAST_EPOCH, 0)
    return {'epoch': config.TRAIN.LAST_EPOCH, 'step': 0, 'sums': None, 'best': None,
            'optimizer': None}


def is_finished(run, start, num_epochs, log):
    """Whether nothing is left to train, nor to do after it.

    Args:
        start: what `find_start` gave.
        num_epochs: of the whole run.

    Raises:
        InputError: nothing is left, and the command did not ask for that run.
    """
    epoch = start['epoch']
    patience = Patience(run.config.TRAIN.PATIENCE, start.get('patience'))
    if epoch < num_epochs and not patience.is_over:
        if run.folder is not None and dist.is_master():
            remove_result(run.folder)
        return False
    text = f'nothing to train: {epoch} of {num_epochs} epochs are done'
    if patience.is_over:
        text += f', and {patience.count} evaluations were no better (TRAIN.PATIENCE ' \
                f'{patience.limit}; a larger one goes on)'
    if run.folder != run.config.MODEL.RESUME:
        raise InputError(text)
    if any(dist.Barrier('end')(dist.is_master() and has_result(run.folder))):
        log.info(text)  # -resume=auto of a finished run
        return True
    log.info(f'{text}; what follows the last one is missing, and is done now')
    return False


def write_names(file, images, log):
    """Lists the images of a part of a data set and their labels, one a line, on rank 0."""
    if dist.is_master():
        write_text(file, ''.join(f'{images.name(index)} {label_text(images.labels, index)}\n'
                                 for index in range(len(images))))
    log.info(f'{len(images)} images are listed in {file}')
