"""What a report is about: the model, its weights and the validation set, from a run's folder or
from flags; and its predictions, by the evaluation of the training program."""
import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import paddle
from tqdm import tqdm

from common.apis import init_model
from common.config import ConfigNode, update_config
from common.core.class_names import match_labels
from common.core.devices import pick_device, set_device
from common.core.errors import InputError
from common.core.probabilities import THRESHOLD
from common.data.batches import Batches, build_normalize
from common.data.datasets import get_dataset
from common.data.loader import build_loader
from common.reporting.figures import check_classes
from common.reporting.label_sets import SetCollector, SetPredictions
from common.reporting.predictions import TOP, Collector, Predictions
from common.reporting.tables import read_predictions
from common.train.engine import evaluate
from common.train.multi_label import evaluate_multi_label
from common.train.precision import Precision
from common.weights.load import read_weights, weights_of_run
from common.zoo import model_config

CONFIG = 'config.yaml'           # in a run's folder
PREDICTIONS = 'predictions.csv'  # in a report's folder


class Source(NamedTuple):
    """A trained model with the data that it is evaluated on.

    Attributes:
        model: in evaluation mode; its `config` is the config of the evaluation.
        weights: the file that they are of.
        dataset: the validation set; its labels are the model's.
        class_names: list of K.
        notes: sentences about classes and labels.
    """

    model: Any
    weights: str
    dataset: Any
    class_names: list
    notes: list

    @property
    def config(self) -> ConfigNode:
        return self.model.config


def open_source(run: str | None = None, cfg: str | None = None, pretrained: str | None = None,
                device: str | None = None, options: Sequence[str] = (), **data) -> Source:
    """The model and the validation set of a run, or of a weight file.

    Args:
        run: a run's folder, or None.
        cfg: name of a model, or the path of a yaml; None is the run's.
        pretrained: weight file of any format; None is the run's best.
        device: 'cpu', 'gpu' or 'gpu:N'; None is the config's. It holds for the process.
        options: 'KEY=VALUE' strings for any keys of the config.
        data: data_path, dataset, class_names and batch_size, as the training program's flags; None
            is the config's.

    Returns:
        A Source.

    Raises:
        InputError: there is no such run, model or data; or the weights do not fit.

    Source: this project.

    Examples:
        >>> import paddle
        >>> from common.reporting.source import open_source, predict
        >>> from common.zoo import create_model
        >>> paddle.save(create_model('vit_digits').state_dict(), 'weights.pdparams')
        >>> source = open_source(cfg='vit_digits', pretrained='weights.pdparams', dataset='digits')
        >>> predictions = predict(source)
        >>> len(predictions), predictions.top.shape
        (355, (355, 5))
    """
    if run is None:
        if not cfg or not pretrained:
            raise InputError(f"-{'pretrained' if cfg else 'cfg'}: got none, expected a run's "
                             f'folder, or -cfg and -pretrained')
        weights = pretrained
    else:
        if not os.path.isfile(os.path.join(run, CONFIG)):
            raise InputError(f"{run}: got no {CONFIG} in it, expected a run's folder; for a weight "
                             f'file give -cfg NAME -pretrained FILE')
        cfg = cfg or os.path.join(run, CONFIG)
        weights = pretrained or weights_in(run, cfg)
    if os.path.isdir(weights):
        weights = weights_of_run(weights)
    if device:
        set_device(device)
    else:
        paddle.set_device(pick_device(model_config(cfg)))
    model = init_model(cfg, weights, options=options)
    flags = Namespace(**data, eval=True, o=options)
    model.config = update_config(model.config, flags)
    check_classes(model.config.MODEL.NUM_CLASSES)
    return with_data(model, weights)


def weights_in(run, cfg):
    """The weights of a run: its own, or those that a run of -eval has evaluated."""
    model = model_config(cfg)
    if model.EVAL and model.MODEL.PRETRAINED:
        return model.MODEL.PRETRAINED
    return weights_of_run(run)


def with_data(model, weights):
    """The Source of a model whose config names the data."""
    config = model.config
    dataset = get_dataset(config, is_train=False)
    notes = match_labels(dataset, read_weights(weights).metadata.get('class_names'), weights,
                         config)
    names = dataset.class_names or model.class_names
    return Source(model, weights, dataset, class_names_for(names, config), notes)


def class_names_for(names, config):
    """The names of all classes; their numbers where there are none."""
    return list(names or map(str, range(config.MODEL.NUM_CLASSES)))


def predict(source: Source, topk: int = TOP,
            threshold: float = THRESHOLD) -> Predictions | SetPredictions:
    """Evaluates a model as the training program does it, in this process.

    Args:
        source: of open_source.
        topk: how many classes of each image are kept; all of multi-label data.
        threshold: of multi-label data: the probability from which on a class is predicted.

    Returns:
        Predictions; SetPredictions of multi-label data.

    Raises:
        InputError: an image cannot be read.

    Source: this project; see common.train.engine.evaluate, and the example of open_source.
    """
    config = source.config
    device = 'gpu' if paddle.device.get_device().startswith('gpu') else 'cpu'
    precision = Precision(config.AMP, config.AMP_DTYPE, config.AMP_LEVEL, device)
    model, _ = precision.decorate(source.model)
    batches = Batches(build_loader(config, source.dataset, is_train=False),
                      build_normalize(config))
    labels = source.dataset.images.labels
    multi_label = config.DATA.MULTI_LABEL
    collector = SetCollector(labels) if multi_label else Collector(labels, topk)

    def shown():
        with tqdm(total=len(source.dataset), desc='evaluate', unit='img', disable=None,
                  leave=False) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batches.indices))

    def observe(logits):
        collector.add(logits.numpy(), batches.indices)

    if multi_label:
        evaluate_multi_label(model, shown(), precision, config.MODEL.NUM_CLASSES, observe)
        return predictions_of(collector, source.dataset, source.class_names, threshold)
    evaluate(model, shown(), precision, observe=observe)
    return predictions_of(collector, source.dataset, source.class_names)


def predictions_of(collector, dataset, class_names, *options):
    """The Predictions of what a Collector has got of a data set."""
    return collector.predictions(map(dataset.images.name, range(len(dataset))), class_names,
                                 *options)


def other_predictions(path, config, topk, batch_size=None, device=None):
    """The Predictions that a report is compared with.

    Args:
        path: a run's folder, which is evaluated on the same data; or a report's folder, or its
            predictions.csv, which is read.
        config: that of this report's evaluation, which names the data.
        topk: how many classes are kept.
        batch_size, device: see open_source.
    """
    if os.path.isfile(os.path.join(path, CONFIG)):
        data = config.DATA
        return predict(open_source(
            path, device=device, data_path=data.DATA_PATH, dataset=data.DATASET,
            class_names=data.CLASS_NAMES, batch_size=batch_size), topk)
    inside = os.path.join(path, PREDICTIONS)
    if os.path.isdir(path) and not os.path.isfile(inside):
        raise InputError(f"-compare: {path}: got a folder without {CONFIG} and {PREDICTIONS}, "
                         f"expected a run's folder, or a report's")
    return read_predictions(inside if os.path.isdir(path) else path)
