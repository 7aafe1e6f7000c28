"""The page of a report, which loads nothing: page.html with the sections of parts.py and
image_parts.py in it."""
import os
from string import Template

from common.reporting import image_parts, parts
from common.reporting.html import Markup, element, joined

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page.html')
TITLES = {'comparison': 'What has changed', 'classes': 'Classes', 'confusion': 'Confusions',
          'calibration': 'Calibration', 'coverage': 'Coverage', 'mistakes': 'Mistakes',
          'hits': 'Narrow hits', 'suspicious': 'Suspicious labels', 'duplicates': 'Near-duplicates',
          'files': 'Files'}


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
    links = [element('a', title, href=f'#{key}') for key, title in TITLES.items()
             if key != 'comparison' or analysis.comparison]
    title = f'{analysis.model}: report'
    with open(TEMPLATE, encoding='utf-8') as stream:
        template = Template(stream.read())
    return template.substitute(
        title=element('title', title), heading=element('h1', analysis.model),
        data=element('p', analysis.facts['data'], class_='soft'),
        headline=parts.headline(analysis), links=joined(links),
        sections=Markup('\n'.join(filter(None, sections))))
