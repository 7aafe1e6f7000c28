"""Makes a report: predictions in, a folder with a page, tables and pictures out."""
import contextlib
import json
import os
from typing import NamedTuple

from common.core.errors import InputError, printable
from common.core.figures import png_bytes
from common.core.files import replace_atomically
from common.core.flags import check_output_folder
from common.core.label_sets import classes_of
from common.data.datasets import get_dataset
from common.reporting import pictures, tables
from common.reporting.analysis import DuplicatePairs, analyse, as_json
from common.reporting.comparison import compare
from common.reporting.duplicates import SIMILAR, find_duplicates
from common.reporting.figures import check_classes, check_extra
from common.reporting.gallery import Gallery
from common.reporting.label_sets import SetPredictions, analyse_sets, sets_as_json
from common.reporting.page import page_of, set_page_of
from common.reporting.predictions import Predictions
from common.reporting.source import PREDICTIONS, Source
from common.train.run_folder import write_text

FOLDER = 'report'      # in a run's folder
PAGE = 'report.html'
# The other files, in the order in which the page names them.
FILES = {
    PREDICTIONS: 'each image: label, prediction, confidence, loss, the most probable classes',
    'classes.csv': 'each class',
    'confusion_matrix.csv': 'the confusion matrix; rows are labels',
    'confusions.csv': 'all pairs of classes that are confused',
    'suspicious.csv': 'images whose labels may be wrong, the most suspicious first',
    'duplicates.csv': 'validation images that are in the training set, too',
    'comparison.csv': 'images that one of the two models alone has right',
    'figures.json': 'the figures of this page',
    'confusion_matrix.png': 'a picture of this page', 'reliability.png': 'another',
    'coverage.png': 'the third',
}
SET_FILES = {PREDICTIONS, 'classes.csv', 'duplicates.csv', 'figures.json'}  # of multi-label data


class Options(NamedTuple):
    """What a user may choose about a report.

    Attributes:
        images: how many images each gallery shows at most.
        duplicates: how many images of both sets are read at most in the search for near-duplicates;
            where there are more, nothing is searched. 0: none.
        attention: whether there are pictures of attention.
    """

    images: int = 12
    duplicates: int = 100_000
    attention: bool = True


def write_report(folder: str, predictions: Predictions | SetPredictions, source: Source,
                 options: Options | None = None,
                 other: tuple[str, Predictions] | None = None) -> str:
    """Writes the report of a model on its validation set: report.html, and FILES.

    Args:
        folder: where the files go; it is made. Files of a report that is there are replaced.
        predictions: what `predict` gives for the source.
        source: Source.
        options: Options, or None for the usual ones.
        other: (name, Predictions) of a model to compare with, or None.

    Returns:
        The path of the page.

    Raises:
        InputError: the extra 'report' is not installed, the folder cannot be written, or the other
            predictions are of other images, or there are some for multi-label data.

    Source: this project; docs/report.md names the sources of the figures.

    Examples:
        >>> import paddle
        >>> from common.reporting.report import write_report
        >>> from common.reporting.source import open_source, predict
        >>> from common.zoo import create_model
        >>> paddle.save(create_model('vit_digits').state_dict(), 'weights.pdparams')
        >>> source = open_source(cfg='vit_digits', pretrained='weights.pdparams', dataset='digits')
        >>> write_report('report', predict(source), source)
        'report/report.html'
    """
    check_extra()
    check_classes(len(predictions.class_names))
    check_output_folder('output', folder)
    options = options or Options()
    if other and isinstance(predictions, SetPredictions):
        raise InputError('-compare: got it for multi-label data, expected one class for each image')
    comparison = compare(predictions, other[1], other[0]) if other else None
    try:
        os.makedirs(folder, exist_ok=True)
        page = os.path.join(folder, PAGE)
        text = write_tables(folder, predictions, source, options, comparison)
        with replace_atomically(page) as temporary, \
                open(temporary, 'w', encoding='utf-8') as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(f'cannot write {error.filename or folder}: {error.strerror}') from None
    return page


def write_tables(folder, predictions, source, options, comparison):
    """Writes the files beside the page; the page's text. comparison: Comparison or None."""
    duplicates = duplicates_of(source, predictions, options.duplicates)
    model, facts = source.config.MODEL.NAME, facts_of(source)
    images, count = source.dataset.images, options.images
    gallery = Gallery(source.model, images, options.attention)
    if isinstance(predictions, SetPredictions):
        analysis = analyse_sets(predictions, model, facts, count, duplicates, source.notes)
        files = write_set_files(folder, analysis)
        return set_page_of(analysis, gallery, images, files, count)
    analysis = analyse(predictions, model, facts, count, duplicates, comparison, source.notes)
    drawn = draw(analysis)
    files = write_files(folder, analysis, drawn)
    return page_of(analysis, gallery, images, drawn, files, count)


def facts_of(source):
    """{what: text} about the model and the data."""
    config = source.config
    data = config.DATA
    where = data.DATASET if data.DATASET == 'digits' else f'{data.DATASET}, {data.DATA_PATH}'
    return {key: printable(text) for key, text in {
        'data': f'{len(source.dataset)} validation images of {where}',
        'weights': source.weights,
        'image size': data.IMAGE_SIZE,
        'crop': f'{100 * data.CROP_PCT:g} % of a side of the resized image, {data.INTERPOLATION}',
    }.items()}


def duplicates_of(source, predictions, most):
    """The DuplicatePairs of a Source's validation set and its training set."""
    def none(why):
        return DuplicatePairs(None, [], [], f'Near-duplicates were not searched: {why}.')

    if most == 0:
        return none('-duplicates 0')
    config, val = source.config, source.dataset.images
    try:
        dataset = get_dataset(training_config(config), is_train=True)
    except InputError as error:
        return none(f'the training set cannot be read ({error})')
    train, names = dataset.images, dataset.class_names
    if len(train) + len(val) > most:
        return none(f'the two sets have {len(train) + len(val)} images, more than -duplicates '
                    f'{most}')
    pairs, bad = find_duplicates(train, val, config)
    note = (f'{len(val)} validation images were compared with {len(train)} training images, made '
            f'small and grey, as they are and mirrored, by the differences of neighbouring pixels: '
            f'{len(pairs)} have a '
            f'training image with a similarity of {SIMILAR} or more (1 is the same picture). '
            f'A validation image that the model was trained on says nothing about new ones.'
            + (f' {bad} training images could not be read.' if bad else ''))
    names = names or predictions.class_names
    return DuplicatePairs(
        pairs, [printable(train.name(pair.train_index)) for pair in pairs],
        [printable(tables.label_names(classes_of(train.labels, pair.train_index), names))
         for pair in pairs], note, train)


def training_config(config):
    """The config with the whole training set and its own labels, not those of the weights."""
    config = config.clone()
    config.defrost()
    config.DATA.TRAIN_FRACTION = 1.0
    config.EVAL = True  # labels are matched by name here; they need not be the weights'
    config.freeze()
    return config


def draw(analysis):
    """{name: (PNG bytes for light pages, for dark ones)} of the pictures."""
    names = analysis.predictions.class_names

    def both(figure, *arguments):
        return tuple(png_bytes(figure(*arguments, theme), pictures.DPI)
                     for theme in (pictures.LIGHT, pictures.DARK))

    return {'confusion_matrix': both(pictures.confusion_figure, analysis.matrix, names),
            'reliability': both(pictures.reliability_figure, analysis.calibration),
            'coverage': both(pictures.coverage_figure, analysis.curve)}


def write_files(folder, analysis, drawn):
    """Writes FILES, but those that this report has not, which are removed; {name: words} of those
    that it has."""
    predictions, names = analysis.predictions, analysis.predictions.class_names
    comparison = analysis.comparison
    files = {name: os.path.join(folder, name) for name in FILES}
    tables.write_predictions(files[PREDICTIONS], predictions)
    tables.write_classes(files['classes.csv'], names, analysis.classes, analysis.classes_before)
    tables.write_confusion_matrix(files['confusion_matrix.csv'], names, analysis.matrix)
    tables.write_confusions(files['confusions.csv'], names, analysis.matrix)
    tables.write_suspicious(files['suspicious.csv'], predictions, analysis.suspicious)
    missing = write_duplicates(files, analysis)
    if comparison is None:
        missing.append('comparison.csv')
    else:
        tables.write_comparison(files['comparison.csv'], predictions, comparison)
    write_text(files['figures.json'], json.dumps(as_json(analysis), indent=1, allow_nan=False))
    for name, (light, _) in drawn.items():
        with replace_atomically(files[f'{name}.png']) as temporary, \
                open(temporary, 'wb') as stream:
            stream.write(light)
    return without(files, missing)


def write_set_files(folder, analysis):
    """Writes the files of SET_FILES, of multi-label data; see `write_files`."""
    files = {name: os.path.join(folder, name) for name in FILES}
    tables.write_set_predictions(files[PREDICTIONS], analysis.predictions)
    tables.write_set_classes(files['classes.csv'], analysis.predictions.class_names,
                             analysis.classes)
    missing = [*write_duplicates(files, analysis), *(FILES.keys() - SET_FILES)]
    write_text(files['figures.json'], json.dumps(sets_as_json(analysis), indent=1,
                                                 allow_nan=False))
    return {**without(files, missing), PREDICTIONS: 'each image: labels, predictions, loss, the '
            'probability of every class'}


def write_duplicates(files, analysis):
    """Writes the table of near-duplicates; the list of the files that there are not."""
    duplicates = analysis.duplicates
    if duplicates.pairs is None:
        return ['duplicates.csv']
    tables.write_duplicates(files['duplicates.csv'], analysis.predictions, duplicates.pairs,
                            duplicates.train_names, duplicates.train_labels)
    return []


def without(files, missing):
    """Removes the files of an earlier report that this one has not: {name: words} of the rest."""
    for name in missing:
        with contextlib.suppress(FileNotFoundError):
            os.remove(files[name])
    return {name: words for name, words in FILES.items() if name not in missing}
