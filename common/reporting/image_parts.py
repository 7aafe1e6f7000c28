"""The sections of the page that show images, and those of two models, as Markup."""
import numpy as np

from common.reporting.html import element, joined, number_cell, row, table
from common.reporting.parts import (
    class_text,
    images_are,
    label_text,
    paragraph,
    percent,
    section,
)

CHANGED = 20         # classes in the table of a comparison
SIGNIFICANT = 0.05


def shown_image(analysis, gallery, index, *lines):
    """A figure of an image: what the model sees, its attention, and some lines of text."""
    name = analysis.predictions.names[index]
    label = label_text(analysis, index)
    seen, attention = gallery.pictures(index)
    images = [small_image(seen, f'{name}, labelled {label}'),
              small_image(attention, f'Attention of the last layer over {name}')
              if attention else '']
    return element('li', element('figure', element('div', *images, class_='pair'),
                                 element('figcaption', *lines,
                                         element('small', name, class_='file'))))


def small_image(address, alt):
    if address is None:
        return element('p', 'This image cannot be read now.')
    return element('img', src=address, alt=alt, loading='lazy', decoding='async')


def said(analysis, index):
    """Lines about the label and the prediction of an image."""
    predictions = analysis.predictions
    label, predicted = predictions.labels[index], predictions.predicted[index]
    lines = [element('span', 'label ', element('b', class_text(analysis, label)),
                     '' if label == predicted else f' {percent(predictions.label_scores[index], 1)}'
                     )]
    confidence = percent(predictions.confidences[index], 1)
    if label == predicted:
        lines.append(element('span', f'predicted with {confidence}'))
        if predictions.top.shape[1] > 1:
            second = class_text(analysis, predictions.top[index, 1])
            lines.append(element('span', f'then {second} '
                                         f'{percent(predictions.scores[index, 1], 1)}'))
    else:
        lines.append(element('span', 'predicted ',
                             element('b', class_text(analysis, predicted)), f' {confidence}'))
    return lines


def image_list(analysis, gallery, indices):
    return element('ul', *(shown_image(analysis, gallery, index, *said(analysis, index))
                           for index in indices), class_='gallery')


def image_sections(analysis, gallery, count):
    """Mistakes, narrow hits and suspicious labels. count: images in each at most."""
    with_attention = 'Beside each image, as the model sees it, is the attention of the last ' \
        'layer, the mean of its heads; yellow is the most. '
    wrong = len(analysis.predictions) - analysis.summary['correct']
    suspicious = [int(index) for index in analysis.suspicious[:count]]
    nothing = paragraph('There is none.')
    return joined([
        section('mistakes', 'Most confident mistakes',
                paragraph(f'{images_are(wrong)} predicted wrongly. {with_attention}'),
                image_list(analysis, gallery, analysis.mistakes) if analysis.mistakes
                else nothing),
        section('hits', 'Least confident hits',
                paragraph('Right, but by little: what is like these may be wrong next time.'),
                image_list(analysis, gallery, analysis.hits) if analysis.hits else nothing),
        section('suspicious', 'Suspicious labels',
                paragraph(f'{images_are(len(analysis.suspicious))} predicted as another class with '
                          f'at least the mean probability that this class has on its own images '
                          f'(confident learning, arXiv 1911.00068), so that the label may be '
                          f'wrong. suspicious.csv has all of them.'),
                image_list(analysis, gallery, suspicious) if suspicious else nothing)])


def duplicate_section(analysis, gallery, images, count):
    """Pairs of a validation and a training image. images: the validation set's ImageSource."""
    duplicates = analysis.duplicates
    children = [paragraph(duplicates.note)]
    if duplicates.pairs:
        items = []
        for pair, name, label in list(zip(duplicates.pairs, duplicates.train_names,
                                          duplicates.train_labels, strict=True))[:count]:
            here = analysis.predictions.names[pair.index]
            own = label_text(analysis, pair.index)
            other = [element('span', f'both labelled {own}')] if own in (label, f'class {label}') \
                else [element('span', element('b', 'different labels: '), f'{own} | {label}')]
            items.append(element('li', element(
                'figure',
                element('div', small_image(gallery.plain(images, pair.index), here),
                        small_image(gallery.plain(duplicates.images, pair.train_index), name),
                        class_='pair'),
                element('figcaption', *other, element('span', f'similarity {pair.similarity:.3f}'
                                                      f'{", mirrored" if pair.mirrored else ""}'),
                        element('small', f'{here} and {name}', class_='file')))))
        children.append(element('ul', *items, class_='gallery'))
    return section('duplicates', 'Near-duplicates in the training set', *children)


def comparison_section(analysis, gallery, count):
    comparison = analysis.comparison
    before = comparison.other.correct.mean()
    change = analysis.summary['accuracy'] - before
    better, worse = len(comparison.better), len(comparison.worse)
    verdict = 'chance alone would seldom make such a difference' \
        if comparison.p_value < SIGNIFICANT else 'chance alone may well make such a difference'
    rows = [row('right here', number_cell(comparison.both_right), number_cell(better),
                header=True),
            row('wrong here', number_cell(worse), number_cell(comparison.both_wrong),
                header=True)]
    return section(
        'comparison', 'What has changed',
        paragraph('Beside ', element('b', comparison.name), f', which has {percent(before)}: '
                  f'{100 * change:+.2f} points. {better} images got better and {worse} worse. By '
                  f"McNemar's test (exact) {verdict}: "
                  f'p = {comparison.p_value:.3g}.'),
        table('Images, by both models', ['', '#right before', '#wrong before'], rows),
        changed_classes(analysis),
        *(element('div', element('h3', f'Got {word} ({len(indices)})'),
                  element('ul', *(shown_image(
                      analysis, gallery, index, *said(analysis, index), before_line(
                          comparison.other, index)) for index in indices[:count].tolist()),
                      class_='gallery'))
          for word, indices in (('better', comparison.better), ('worse', comparison.worse))
          if len(indices)))


def before_line(other, index):
    name = other.class_names[other.predicted[index]]
    return element('span', f'before: {name} {percent(other.confidences[index], 1)}')


def changed_classes(analysis):
    """The classes whose recall has changed most."""
    now, before = analysis.classes.recall, analysis.classes_before.recall
    change = np.nan_to_num(now - before)
    order = np.argsort(-np.abs(change), kind='stable')
    chosen = [number for number in order[:CHANGED].tolist() if change[number]]
    if not chosen:
        return paragraph('The recall of each class is as before.')
    rows = [row(element('th', class_text(analysis, number), scope='row'),
                number_cell(int(analysis.classes.images[number])),
                number_cell(percent(before[number], 1)), number_cell(percent(now[number], 1)),
                number_cell(f'{100 * change[number]:+.1f}')) for number in chosen]
    return table(f'Recall that has changed most ({len(chosen)} of '
                 f'{int((change != 0).sum())} classes)',
                 ['class', '#images', '#before', '#now', '#points'], rows)
