"""The sections of a report's page that only multi-label data have, as Markup."""
from common.reporting.html import element, joined, number_cell, row, table
from common.reporting.image_parts import shown_image
from common.reporting.parts import (
    cards,
    class_text,
    label_text,
    paragraph,
    percent,
    percent_cell,
    search_box,
    section,
)

SHOWN = 5  # predicted classes beside an image


def set_headline(analysis):
    """The large numbers, and what limits them."""
    summary = analysis.summary
    at = f'at the threshold {summary["threshold"]:g}'
    return cards(analysis, [
        ('mAP', percent(summary['mAP']),
         f'mean average precision of the {summary["classes_with_images"]:,} classes that some of '
         f'the {summary["images"]:,} images have; it needs no threshold'),
        ('micro F1', percent(summary['micro_f1']),
         f'{at}; precision {percent(summary["micro_precision"], 1)}, recall '
         f'{percent(summary["micro_recall"], 1)} over all answers'),
        ('macro F1', percent(summary['macro_f1']), f'{at}, the mean of the classes'),
        ('exact', percent(summary['exact']),
         'images of which all classes and no other are predicted'),
        ('loss', f'{summary["loss"]:.4f}', 'mean binary cross entropy'),
        ('labels', f'{summary["labels"]:,}',
         f'{summary["labels"] / summary["images"]:.2f} an image; '
         f'{summary["images_without_a_label"]:,} images have none')])


def set_class_section(analysis):
    """The table of the classes, which a reader can sort and search."""
    classes, names = analysis.classes, analysis.predictions.class_names
    rows = [row(element('th', name, scope='row'), number_cell(int(classes.images[number])),
                number_cell(int(classes.predicted[number])),
                *(percent_cell(values[number]) for values in (
                    classes.average_precision, classes.precision, classes.recall, classes.f1)),
                number_cell(number)) for number, name in enumerate(names)]
    columns = ['class', '#images', '#predicted', '#AP', '#precision', '#recall', '#F1', '#number']
    return section(
        'classes', 'Classes',
        paragraph('AP, the average precision: the mean of the precision over the images of the '
                  'class, each with those that have a higher probability. Precision: how many of '
                  'the images of which the class is predicted have it. Recall: of how many of its '
                  'images it is predicted. A dash: not defined, as AP is where no image has the '
                  'class.', soft=True),
        search_box(), table(f'The {len(names)} classes', columns, rows, id='class-table'))


def threshold_section(analysis):
    rows = [row(f'{point["threshold"]:g}', *(
        number_cell(percent(point[key], 1))
        for key in ('micro_precision', 'micro_recall', 'micro_f1', 'macro_f1')))
        for point in analysis.by_threshold]
    return section(
        'thresholds', 'Thresholds',
        paragraph('Which classes are predicted depends on the threshold: with a higher one more of '
                  'the answers are right, and more classes are missed. The best one here is chosen '
                  'on these images: check it on others.'),
        table('Over all answers; macro F1 is the mean of the classes',
              ['threshold', '#precision', '#recall', '#F1', '#macro F1'], rows))


def set_image_sections(analysis, gallery):
    """False alarms and missed classes."""
    nothing = paragraph('There is none.')

    def shown(pairs, word):
        return element('ul', *(shown_image(analysis, gallery, index, *lines(
            analysis, index, word, number)) for index, number in pairs), class_='gallery') \
            if pairs else nothing

    return joined([
        section('mistakes', 'Most confident false alarms',
                paragraph('The class that is predicted with the highest probability and is none of '
                          'the labels; or a label is missing. Beside each image, as the model sees '
                          'it, is the attention of the last layer, the mean of its heads; yellow '
                          'is the most.'),
                shown(analysis.false_alarms, 'not a label:')),
        section('misses', 'Least probable labels',
                paragraph('The label with the lowest probability, below the threshold.'),
                shown(analysis.misses, 'missed:'))])


def lines(analysis, index, word, number):
    """Lines about the labels and the predictions of an image, and one class of it."""
    scores, predictions = analysis.predictions.scores[index], analysis.predictions
    order = [k for k in (-scores).argsort(kind='stable').tolist()
             if scores[k] >= predictions.threshold]
    found = ', '.join(f'{class_text(analysis, k)} {percent(scores[k], 1)}' for k in order[:SHOWN])
    return [element('span', word, ' ', element('b', class_text(analysis, number)),
                    f' {percent(scores[number], 1)}'),
            element('span', f'labels {label_text(analysis, index)}'),
            element('span', f'predicted {found or "no class"}'
                            + (', ...' if len(order) > SHOWN else ''))]
