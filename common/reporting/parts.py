"""The sections of the page, as Markup. What a number means stands beside it in a sentence."""
import numpy as np

from common.core.label_sets import classes_of
from common.reporting import figures
from common.reporting.html import data_uri, element, joined, number_cell, row, table
from common.reporting.pictures import COUNTS_UP_TO

CONFUSIONS = 20  # pairs of classes in the table


def percent(value, digits=2):
    """A fraction of 1 in percent; a dash where it is not defined."""
    if value is None or np.isnan(value):
        return '–'
    return f'{100 * value:.{digits}f}\N{NO-BREAK SPACE}%'


def images_are(count):
    return '1 image is' if count == 1 else f'{count:,} images are'


def percent_cell(value):
    """The same as a cell that is sorted by the value; what is not defined comes last."""
    return number_cell(percent(value, 1), -1 if np.isnan(value) else f'{value:.6f}')


def section(key, title, *children):
    return element('section', element('h2', title, id=f'{key}-title'), *children, id=key,
                   aria_labelledby=f'{key}-title')


def paragraph(*children, soft=False):
    return element('p', *children, class_='soft' if soft else None)


def picture(pictures, name, alt):
    """A picture that has a light and a dark form.

    Args:
        pictures: {name: (PNG bytes for light pages, for dark ones)}.
    """
    light, dark = (data_uri(content, 'png') for content in pictures[name])
    return element('picture',
                   element('source', srcset=dark, media='(prefers-color-scheme: dark)'),
                   element('img', src=light, alt=alt))


def beside(shown, *tables):
    """A picture with tables beside it, or below it on a phone."""
    return element('div', element('figure', shown), element('div', *tables), class_='beside')


def class_text(analysis, number):
    """'name', or 'class 3' where a class has no name but its number."""
    name = analysis.predictions.class_names[number]
    return f'class {name}' if name == str(number) else name


def label_text(analysis, index):
    """The label of an image, or all of them."""
    labels = classes_of(analysis.predictions.labels, index)
    return ', '.join(class_text(analysis, label) for label in labels) or 'no class'


def cards(analysis, texts):
    """Large numbers, from (name, number, words), and the notes below them."""
    made = [element('div', element('dt', name), element('dd', element('strong', value),
                                                        element('small', words)))
            for name, value, words in texts]
    notes = [element('li', note) for note in analysis.notes]
    return joined([element('dl', *made, class_='cards'),
                   element('ul', *notes, class_='notes') if notes else ''])


def search_box():
    return element('label', 'Search ', element('input', type='search', id='search',
                                               autocomplete='off'),
                   class_='search', hidden=True)


def headline(analysis):
    """The large numbers, and what limits them."""
    summary = analysis.summary
    low, high = summary['interval']
    texts = [('accuracy', percent(summary['accuracy']),
              f'{summary["correct"]:,} of {summary["images"]:,} images; with more images of this '
              f'kind it would be {percent(low)} to {percent(high)} '
              f'({100 * summary["level"]:.0f} % confidence interval)')]
    texts += [(f'top-{k}', percent(value), f'the label is among the {k} most probable classes')
              for k, value in summary['top'].items() if k != '1']
    texts += [('loss', f'{summary["loss"]:.4f}', 'mean cross entropy'),
              ('macro F1', percent(summary['macro_f1']),
               'mean of the classes, however many images each has'),
              ('balanced accuracy', percent(summary['macro_recall']),
               'mean recall of the classes'),
              ('ECE', percent(summary['ece']),
               'how far the confidence is from the accuracy')]
    return cards(analysis, texts)


def class_section(analysis):
    """The table of the classes, which a reader can sort and search."""
    classes, names = analysis.classes, analysis.predictions.class_names
    rows = []
    for number, name in enumerate(names):
        other = int(classes.confused_with[number])
        confused = element('td', '–') if other < 0 else element(
            'td', class_text(analysis, other), ' ',
            element('small', f'{classes.confused[number]} of {classes.images[number]}'))
        rows.append(row(element('th', name, scope='row'),
                        number_cell(int(classes.images[number])),
                        *(percent_cell(values[number]) for values in
                          (classes.precision, classes.recall, classes.f1)), confused,
                        number_cell(number)))
    columns = ['class', '#images', '#precision', '#recall', '#F1', 'most often taken for',
               '#number']
    return section(
        'classes', 'Classes',
        paragraph('Precision: how many of the images that are predicted as the class are of it. '
                  'Recall: how many of its images are predicted as it. F1 is the harmonic mean of '
                  'both. A dash: not defined, as precision is where nothing is predicted as the '
                  'class.', soft=True),
        search_box(), table(f'The {len(names)} classes', columns, rows, id='class-table'))


def confusion_section(analysis, pictures):
    names, matrix = analysis.predictions.class_names, analysis.matrix
    images = matrix.sum(axis=1)
    pairs = figures.confusions(matrix)
    rows = [row(class_text(analysis, label), class_text(analysis, predicted), number_cell(count),
                number_cell(percent(count / images[label], 1)))
            for label, predicted, count in pairs[:CONFUSIONS]]
    words = f'Confusion matrix of {len(names)} classes: rows are labels, columns predictions. ' \
            f'{percent(analysis.summary["accuracy"])} of the images lie on the diagonal; the ' \
            f'most frequent confusions are in the table that follows.'
    of = f'{len(pairs)} pairs' if len(pairs) > CONFUSIONS else 'all'
    return section(
        'confusion', 'Confusions',
        # a large one scrolls sideways on a phone, in itself
        element('figure', picture(pictures, 'confusion_matrix', words),
                **({'class_': 'wide', 'tabindex': '0', 'role': 'region',
                     'aria_label': 'Confusion matrix'} if len(names) > COUNTS_UP_TO else {})),
        table(f'Most frequent confusions ({len(rows)} of {of})'
              if len(pairs) > CONFUSIONS else 'Confusions',
              ['label', 'prediction', '#images', "#of the label's"], rows) if rows
        else paragraph('No image is confused with another class.'))


def calibration_section(analysis, pictures):
    summary, calibration = analysis.summary, analysis.calibration
    gap = summary['mean_confidence'] - summary['accuracy']
    words = 'more confident than right' if gap > 0 else 'more often right than confident'
    rows = [row(f'{low:.2f} to {high:.2f}', number_cell(count),
                number_cell(percent(confidence, 1)), number_cell(percent(accuracy, 1)))
            for low, high, count, confidence, accuracy in zip(
                calibration.edges[:-1], calibration.edges[1:], calibration.counts,
                calibration.confidences, calibration.accuracies, strict=True) if count]
    return section(
        'calibration', 'Calibration',
        paragraph(f'The mean confidence is {percent(summary["mean_confidence"])}, the accuracy '
                  f'{percent(summary["accuracy"])}: the model is {words}. The expected calibration '
                  f'error (ECE, {figures.BINS} bins of the same width) is '
                  f'{percent(summary["ece"])}, the largest gap of a bin '
                  f'{percent(summary["largest_calibration_gap"])}.'),
        beside(picture(pictures, 'reliability', 'Reliability curve: accuracy over confidence; its '
                       'numbers are in the table beside it.'),
               table('Reliability', ['confidence', '#images', '#mean', '#accuracy'], rows)))


def coverage_section(analysis, pictures):
    by_coverage, by_accuracy = figures.coverage_table(analysis.curve)
    first = [row(percent(point['asked'], 0), number_cell(percent(point['coverage'], 1)),
                 number_cell(f'{point["threshold"]:.3f}'), number_cell(percent(point['accuracy'])))
             for point in by_coverage]
    second = [row(percent(point['asked'], 0), number_cell(percent(point['coverage'], 1)),
                  number_cell('–' if point['threshold'] is None else f'{point["threshold"]:.3f}'),
                  number_cell(percent(point['accuracy']))) for point in by_accuracy]
    rest = ['#answered', '#threshold', '#accuracy']
    return section(
        'coverage', 'Coverage',
        paragraph('What the accuracy is if the model answers only where it is confident enough, '
                  'and the other images go to a person. The threshold is the least confidence that '
                  'is answered.'),
        beside(picture(pictures, 'coverage', 'Accuracy over the share of images that are answered; '
                       'points of the curve are in the tables beside it.'),
               table('Accuracy for a coverage', ['coverage', *rest], first),
               table('Coverage for an accuracy', ['accuracy', *rest], second)))


def file_section(analysis, files):
    """What the report was made of, and the files beside the page. files: {name: words}."""
    facts = [element('div', element('dt', what), element('dd', text))
             for what, text in analysis.facts.items()]
    return section('files', 'Model, data and files',
                   element('dl', *facts, class_='facts'),
                   paragraph('In the folder of this page:'),
                   element('ul', *(element('li', element('code', name), f': {words}')
                                   for name, words in files.items())))
