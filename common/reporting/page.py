"""The page of a report, which loads nothing: page.html with the sections of parts.py,
image_parts.py and label_set_parts.py in it."""
import os
from string import Template

from common.reporting import image_parts, label_set_parts, parts
from common.reporting.html import Markup, element, joined

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page.html')
TITLES = {'comparison': 'What has changed', 'classes': 'Classes', 'confusion': 'Confusions',
          'calibration': 'Calibration', 'coverage': 'Coverage', 'mistakes': 'Mistakes',
          'hits': 'Narrow hits', 'suspicious': 'Suspicious labels', 'duplicates': 'Near-duplicates',
          'files': 'Files'}
SET_TITLES = {'classes': 'Classes', 'thresholds': 'Thresholds', 'mistakes': 'False alarms',
              'misses': 'Missed', 'duplicates': 'Near-duplicates', 'files': 'Files'}


def page_of(analysis, gallery, images, pictures, files, count):
    """The page as text.

    Args:
        analysis: Analysis.
        gallery: Gallery.
        images: ImageSource of the validation set.
        pictures: {name: (PNG bytes for light pages, for dark ones)}.
        files: {name: words} of the files beside the page.
        count: how many images each gallery shows at most.
    """
    sections = [
        image_parts.comparison_section(analysis, gallery, count) if analysis.comparison else '',
        parts.class_section(analysis),
        parts.confusion_section(analysis, pictures),
        parts.calibration_section(analysis, pictures),
        parts.coverage_section(analysis, pictures),
        image_parts.image_sections(analysis, gallery, count),
        image_parts.duplicate_section(analysis, gallery, images, count),
        parts.file_section(analysis, files)]
    titles = {key: title for key, title in TITLES.items()
              if key != 'comparison' or analysis.comparison}
    return assembled(analysis, parts.headline(analysis), titles, sections)


def set_page_of(analysis, gallery, images, files, count):
    """The page of multi-label data as text; see `page_of`."""
    sections = [
        label_set_parts.set_class_section(analysis),
        label_set_parts.threshold_section(analysis),
        label_set_parts.set_image_sections(analysis, gallery),
        image_parts.duplicate_section(analysis, gallery, images, count),
        parts.file_section(analysis, files)]
    return assembled(analysis, label_set_parts.set_headline(analysis), SET_TITLES, sections)


def assembled(analysis, headline, titles, sections):
    """The page as text.

    Args:
        analysis: Analysis or SetAnalysis.
        headline: Markup.
        titles: {key of a section: what its link says}.
        sections: list of Markup.
    """
    links = [element('a', title, href=f'#{key}') for key, title in titles.items()]
    title = f'{analysis.model}: report'
    with open(TEMPLATE, encoding='utf-8') as stream:
        template = Template(stream.read())
    return template.substitute(
        title=element('title', title), heading=element('h1', analysis.model),
        data=element('p', analysis.facts['data'], class_='soft'),
        headline=headline, links=joined(links),
        sections=Markup('\n'.join(filter(None, sections))))
