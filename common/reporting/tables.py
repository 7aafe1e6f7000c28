"""The tables of a report as CSV files (UTF-8), and predictions read back from one."""
import csv
from contextlib import contextmanager

import numpy as np

from common.core.errors import InputError, one_line
from common.core.files import replace_atomically
from common.core.label_sets import classes_of
from common.reporting.figures import confusions
from common.reporting.predictions import Predictions

COLUMNS = ('file', 'label', 'label_name', 'prediction', 'prediction_name', 'correct', 'confidence',
           'label_score', 'label_rank', 'loss')


@contextmanager
def table(file, *header):
    """A csv writer of a file that is written whole or not at all."""
    with replace_atomically(file) as temporary, \
            open(temporary, 'w', encoding='utf-8', newline='') as stream:
        rows = csv.writer(stream)
        rows.writerow(header)
        yield rows


def write_predictions(file, predictions):
    """Writes a line for each image: COLUMNS, and label, name and score of its first k classes."""
    names, k = predictions.class_names, predictions.top.shape[1]
    top = [f'{part}_{rank}' for rank in range(1, k + 1) for part in ('label', 'name', 'score')]
    columns = (predictions.labels, predictions.predicted, predictions.correct,
               predictions.confidences, predictions.label_scores, predictions.ranks,
               predictions.losses, predictions.top, predictions.scores)
    with table(file, *COLUMNS, *top) as rows:
        for name, label, predicted, correct, confidence, label_score, rank, loss, classes, scores \
                in zip(predictions.names, *(column.tolist() for column in columns), strict=True):
            row = [name, label, names[label], predicted, names[predicted], int(correct),
                   f'{confidence:.6g}', f'{label_score:.6g}', rank, f'{loss:.6g}']
            for number, score in zip(classes, scores, strict=True):
                row += [number, names[number], f'{score:.6g}']
            rows.writerow(row)


def write_set_predictions(file, predictions):
    """Writes a line for each image of multi-label data: its classes, those that are predicted, and
    the probability of every class, in a column `p NAME`."""
    names = predictions.class_names

    def both(numbers):
        return [','.join(map(str, numbers)), ' | '.join(names[number] for number in numbers)]

    with table(file, 'file', 'labels', 'label_names', 'predictions', 'prediction_names', 'exact',
               'loss', *(f'p {name}' for name in names)) as rows:
        for index, (name, loss, scores) in enumerate(zip(
                predictions.names, predictions.losses.tolist(), predictions.scores, strict=True)):
            labels = classes_of(predictions.labels, index)
            found = np.flatnonzero(scores >= predictions.threshold).tolist()
            rows.writerow([name, *both(labels), *both(found), int(sorted(labels) == found),
                           f'{loss:.6g}', *(f'{score:.6g}' for score in scores.tolist())])


def write_set_classes(file, class_names, classes):
    """Writes a line for each class of multi-label data. classes: SetClasses."""
    with table(file, 'class', 'name', 'images', 'predicted', 'average_precision', 'precision',
               'recall', 'f1') as rows:
        for number, name in enumerate(class_names):
            rows.writerow([number, name, classes.images[number], classes.predicted[number],
                           *(figure_text(values[number]) for values in (
                               classes.average_precision, classes.precision, classes.recall,
                               classes.f1))])


def read_predictions(file):
    """Predictions of a file that `write_predictions` wrote.

    Classes that do not occur in it have their numbers as names.

    Raises:
        InputError: the file is missing, or is another one.
    """
    try:
        with open(file, encoding='utf-8', newline='') as stream:
            reader = csv.DictReader(stream)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise InputError(f'{file}: got another table, expected a predictions.csv of '
                                 f'a report')
            return predictions_of(list(reader))
    except OSError as error:
        raise InputError(f'{file}: cannot read it: {error.strerror}') from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{file}: not a predictions.csv of a report '
                         f'({one_line(error)})') from None


def predictions_of(rows):
    """Predictions of the rows of a predictions.csv."""
    def column(name, dtype):
        return np.array([row[name] for row in rows]).astype(dtype)

    k = sum(name.startswith('score_') for name in rows[0]) if rows else 0
    if not k:
        raise ValueError('no image')
    ranks = range(1, k + 1)
    top = np.stack([column(f'label_{rank}', np.int64) for rank in ranks], axis=1)
    labels = column('label', np.int64)
    names = [str(number) for number in range(max(top.max(), labels.max()) + 1)]
    for row in rows:
        names[int(row['label'])] = row['label_name']
        for rank in ranks:
            names[int(row[f'label_{rank}'])] = row[f'name_{rank}']
    return Predictions(
        [row['file'] for row in rows], names, labels, top,
        np.stack([column(f'score_{rank}', np.float64) for rank in ranks], axis=1),
        column('label_score', np.float64), column('loss', np.float64),
        column('label_rank', np.int64))


def write_classes(file, class_names, classes, other=None):
    """Writes a line for each class.

    Args:
        other: the Classes of a model that this one is compared with, or None.
    """
    header = ['class', 'name', 'images', 'predicted', 'precision', 'recall', 'f1', 'confused_with',
              'confused_with_name', 'confused']
    with table(file, *header, *(['recall_before'] if other else [])) as rows:
        for number, name in enumerate(class_names):
            confused = int(classes.confused_with[number])
            row = [number, name, classes.images[number], classes.predicted[number],
                   *(figure_text(values[number])
                     for values in (classes.precision, classes.recall, classes.f1)),
                   *((confused, class_names[confused]) if confused >= 0 else ('', '')),
                   classes.confused[number]]
            rows.writerow(row + ([figure_text(other.recall[number])] if other else []))


def figure_text(value):
    """A fraction with six decimals; nothing where it is not defined."""
    return '' if np.isnan(value) else f'{value:.6f}'


def write_confusion_matrix(file, class_names, matrix):
    """Writes the matrix: a line for each label, a column for each prediction."""
    with table(file, 'label \\ prediction', *class_names) as rows:
        for name, counts in zip(class_names, matrix.tolist(), strict=True):
            rows.writerow([name, *counts])


def write_confusions(file, class_names, matrix):
    """Writes a line for each pair of classes that are confused, the most frequent first."""
    images = matrix.sum(axis=1).tolist()
    with table(file, 'label', 'label_name', 'prediction', 'prediction_name', 'count',
               'share_of_label') as rows:
        for label, predicted, count in confusions(matrix):
            rows.writerow([label, class_names[label], predicted, class_names[predicted], count,
                           f'{count / images[label]:.6f}'])


def write_suspicious(file, predictions, indices):
    """Writes the images whose labels may be wrong, in their order."""
    names = predictions.class_names
    with table(file, 'file', 'label', 'label_name', 'label_score', 'prediction', 'prediction_name',
               'confidence') as rows:
        for index in indices:
            label, predicted = predictions.labels[index], predictions.predicted[index]
            rows.writerow([predictions.names[index], label, names[label],
                           f'{predictions.label_scores[index]:.6g}', predicted, names[predicted],
                           f'{predictions.confidences[index]:.6g}'])


def write_duplicates(file, predictions, duplicates, train_names, train_labels):
    """Writes the pairs of images that are almost the same.

    Args:
        train_names, train_labels: of the training image of each Duplicate.
    """
    with table(file, 'file', 'label_name', 'training_file', 'training_label_name',
               'similarity', 'mirrored') as rows:
        for duplicate, name, label in zip(duplicates, train_names, train_labels, strict=True):
            labels = classes_of(predictions.labels, duplicate.index)
            rows.writerow([predictions.names[duplicate.index],
                           label_names(labels, predictions.class_names), name, label,
                           f'{duplicate.similarity:.4f}', int(duplicate.mirrored)])


def label_names(labels, names):
    """The names of an image's classes; the numbers of those that have none."""
    return ', '.join(names[label] if label < len(names) else str(label) for label in labels)


def write_comparison(file, predictions, comparison):
    """Writes the images that one of two models alone has right."""
    names, other = predictions.class_names, comparison.other
    with table(file, 'file', 'label_name', 'change', 'prediction_name', 'confidence',
               'prediction_name_before', 'confidence_before') as rows:
        for change, indices in (('better', comparison.better), ('worse', comparison.worse)):
            for index in indices.tolist():
                rows.writerow([
                    predictions.names[index], names[predictions.labels[index]], change,
                    names[predictions.predicted[index]], f'{predictions.confidences[index]:.6g}',
                    other.class_names[other.predicted[index]], f'{other.confidences[index]:.6g}'])
