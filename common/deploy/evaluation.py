"""The accuracy of an exported model, by the evaluation of the training program."""
import json
from argparse import Namespace

import paddle
from paddle import nn
from tqdm import tqdm

from common.config import base_config, update_config
from common.core.class_names import match_labels
from common.core.errors import InputError
from common.data.batches import Batches, build_normalize
from common.data.datasets import get_dataset
from common.data.loader import build_loader
from common.data.recognise import recognise
from common.deploy.exported import Exported
from common.train.engine import evaluate
from common.train.multi_label import evaluate_multi_label
from common.train.precision import Precision

# The key of the config that a field of Preprocessing is.
KEYS = {'image_size': 'IMAGE_SIZE', 'crop_pct': 'CROP_PCT', 'interpolation': 'INTERPOLATION',
        'mean': 'IMAGENET_MEAN', 'std': 'IMAGENET_STD'}


class GraphLayer(nn.Layer):
    """An Exported as a Layer: float32 [B, 3, H, W], normalised -> logits [B, K]."""

    def __init__(self, exported):
        super().__init__()
        self.exported = exported

    def forward(self, images):
        return paddle.to_tensor(self.exported.run(images.numpy()))


def evaluate_exported(classifier: Exported, **data) -> dict:
    """Evaluates an export on a validation set.

    Args:
        classifier: of load_exported.
        data: data_path, dataset, class_names, batch_size_eval, real_labels, as the training
            program's flags; None or nothing is their default. `o`: a list of 'KEY=VALUE' for keys
            of DATA.

    Returns:
        dict: the result of common.train.engine.evaluate or, of multi-label data,
        evaluate_multi_label.

    Raises:
        InputError: there are no such data, or they have other classes than the export.

    Source: this project; the images are read and counted as by `paddle-vitae eval`.
    """
    config = config_of(classifier, data)
    dataset = get_dataset(config, is_train=False)
    match_labels(dataset, classifier.class_names, classifier.files[0], config)
    batches = Batches(build_loader(config, dataset, is_train=False), build_normalize(config))

    def shown():
        with tqdm(total=len(dataset), desc='evaluate', unit='img', disable=None,
                  leave=False) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batches.indices))

    model, precision = GraphLayer(classifier), Precision()
    if classifier.multi_label:
        return evaluate_multi_label(model, shown(), precision, classifier.num_classes)
    return evaluate(model, shown(), precision)


def config_of(classifier, data):
    """The config of the evaluation: what an export knows, and the data that are asked for."""
    preprocessing = classifier.preprocessing
    known = {f'DATA.{key}': getattr(preprocessing, field) for field, key in KEYS.items()}
    known |= {'MODEL.NUM_CLASSES': classifier.num_classes,
              'DATA.MULTI_LABEL': classifier.multi_label}
    options = data.get('o') or []
    for option in options:
        name = option.partition('=')[0]
        if name in known or not name.startswith('DATA.'):
            raise InputError(f'-o {option}: got it with -exported, expected another key of DATA: '
                             f'the export has its classes and preprocessing')
    flags = {**data, 'eval': True,
             'o': [f'{key}={json.dumps(value)}' for key, value in known.items()] + list(options)}
    return recognise(update_config(base_config(), Namespace(**flags)))
