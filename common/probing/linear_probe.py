"""From a model and a data set to the accuracies of plain classifiers on its features."""
import os
import time

import numpy as np
from paddle import nn

from common.core.errors import printable
from common.layers.classifier import check_classifier, feature_type_of
from common.probing.cache import cached, key_of
from common.probing.classifiers import (
    CS,
    LEVEL,
    accuracy,
    check_extra,
    linear_probe,
    nearest_neighbours,
)
from common.probing.data import data_config, read_splits
from common.probing.features import features_of

CACHE = os.path.join('output', 'features')


def probe(model: nn.Layer, data_path: str | os.PathLike | None = None, dataset: str | None = None,
          cache: str | os.PathLike = CACHE, k: int | None = None, seed: int = 0,
          batch_size: int = 32, workers: int | None = None) -> dict:
    """How well a model's features tell the classes of a data set, without any training of it.

    The features are what the model's classifier gets, of images as an evaluation sees them. They
    are computed once, and kept as long as the weights, the preprocessing, the code and the images
    are the same. The classifiers are fitted to the training images, and C and k are chosen on
    these alone; the validation images give the accuracies.

    Args:
        model: of common.apis.init_model; its own classifier is not used.
        data_path: folder of the data set; None for the digits.
        dataset: as DATA.DATASET: list, imagefolder, cifar10, cifar100, digits; None decides between
            the first two by what is in the folder.
        cache: folder that keeps the features.
        k: how many neighbours vote; None chooses.
        seed: of the folds of the cross-validation.
        batch_size: images in a forward pass.
        workers: processes that read images; None is the config's DATA.NUM_WORKERS.

    Returns:
        A dict of `model`, `features` (their type and number), `classes`, `unknown` (validation
        images of a class without training images), `splits`, for 'train' and 'val' {'images',
        'file', 'kept' (whether they were read from the file), 'seconds'}, and `results`, for
        'majority', 'linear' and 'knn' {'acc1', 'interval' (95 %, Wilson), 'correct', 'seen'} as
        fractions and numbers of images, with what was chosen, C or k, and 'tuned', its accuracy in
        the cross-validation.

    Raises:
        InputError: scikit-learn is missing, the data set cannot be read, or an image of it; its
            training images are of one class.

    Source: the linear evaluation of Chen et al. (arXiv 2002.05709, appendix B.8), logistic
    regression with a penalty chosen on the training images; k nearest neighbours as Wu et al.
    (arXiv 1805.01978). Different: votes are not weighted, and features are standardised.

    Examples:
        >>> from common.apis import init_model
        >>> from common.probing.linear_probe import probe
        >>> found = probe(init_model('vit_digits'), dataset='digits', cache='features', workers=0)
        >>> found['features'], found['classes'], sorted(found['results'])
        (['cls_token', 96], 10, ['knn', 'linear', 'majority'])
    """
    check_extra()
    check_classifier(model)
    data_path = None if data_path is None else os.fspath(data_path)
    config = data_config(model.config, data_path, dataset, batch_size, workers)
    datasets, kind = read_splits(config), feature_type_of(model)
    features, splits = {}, {}
    for split, images in datasets.items():
        start = time.perf_counter()
        features[split], file, kept = cached(
            os.fspath(cache), key_of(model, images, kind),
            lambda images=images: features_of(model, images, config, kind))
        splits[split] = {'images': len(images), 'file': file, 'kept': kept,
                         'seconds': time.perf_counter() - start}
    labels = {split: images.images.labels for split, images in datasets.items()}
    known = np.isin(labels['val'], labels['train'])
    return {'model': model.config.MODEL.NAME, 'features': [kind, features['train'].shape[1]],
            'classes': len(np.unique(labels['train'])), 'unknown': int((~known).sum()),
            'splits': splits, 'results': results_of(features, labels, seed, k)}


def results_of(features, labels, seed, k):
    """{name: accuracy and what was chosen} of each classifier."""
    majority = np.bincount(labels['train']).argmax()
    results = {'majority': accuracy(np.full(len(labels['val']), majority), labels['val'])}
    for name, fitted in (('linear', linear_probe(features['train'], labels['train'], seed)),
                         ('knn', nearest_neighbours(features['train'], labels['train'], seed, k))):
        classifier, chosen = fitted
        results[name] = {**accuracy(classifier.predict(features['val']), labels['val']), **chosen}
    return results


def report_of(found):
    """What `probe` has found as lines of text, with a markdown table."""
    kind, channels = found['features']
    splits = found['splits']
    lines = [printable(
        f'{found["model"]}: {kind}, {channels} features, of {splits["train"]["images"]} training '
        f'and {splits["val"]["images"]} validation images, {found["classes"]} classes')]
    for split, part in splits.items():
        how = 'read from' if part['kept'] else f'computed in {part["seconds"]:.1f} s, kept in'
        lines.append(printable(f'{split}: {how} {part["file"]}') if part['file']
                     else f'{split}: computed in {part["seconds"]:.1f} s')
    if found['unknown']:
        lines.append(f'{found["unknown"]} validation images are of classes without a training '
                     f'image: each counts as wrong')
    lines += ['', f'| classifier | acc@1 | {LEVEL:.0%} interval | chosen by cross-validation |',
              '|---|---|---|---|']
    results = found['results']
    for name, title in (('majority', 'most frequent class'), ('linear', 'logistic regression'),
                        ('knn', 'nearest neighbours, cosine')):
        low, high = results[name]['interval']
        lines.append(f'| {title} | {results[name]["acc1"]:.2%} | {low:.2%} to {high:.2%} | '
                     f'{chosen_text(results[name])} |')
    return '\n'.join(lines)


def chosen_text(result):
    """'C 0.01: 97.10% on the training images', for the table."""
    name = next((name for name in ('C', 'k') if name in result), None)
    if name is None:
        return ''
    text = f'{name} = {result[name]:g}'
    if result['tuned'] is None:
        return f'{text} (not chosen)'
    text = f'{text}: {result["tuned"]:.2%} there'
    if name == 'C' and result['C'] in (CS[0], CS[-1]):
        text += ', the end of the range'
    return text + ('' if result.get('converged', True) else ', the fit has not converged')
