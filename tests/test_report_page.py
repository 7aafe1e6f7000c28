"""The page of the report: its HTML, and what a headless Chromium makes of it."""
import json
import os
from html.parser import HTMLParser

import numpy as np
import pytest

from common.benchmarks.report import drawn_predictions, noise_source
from common.core.label_sets import LabelSets
from common.reporting.html import VOID, element, markup
from common.reporting.label_sets import SetCollector
from common.reporting.report import Options, write_report
from tests.test_serve import CHROMIUM, Browser

HOSTILE = ['<script>document.title="run"</script>', '火箭 $x^2$ & "b" \'c\'', '\u202eabc\n\x1b[31m']
MAX_BYTES = 10_000_000
SETS = 40  # classes of a page of multi-label data
WIDTHS = {'desktop': (1280, 900, False), 'phone': (360, 740, True)}


def hostile_names(source):
    """Names of files that are HTML, too."""
    source.dataset.images.name = lambda index: f'<img src=x onerror=alert({index})>.jpg'
    return source


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """{number of classes: the path of a page}"""
    made = {}
    for K, images in ((3, 120), (100, 800), (1000, 4000)):
        names = HOSTILE if K == 3 else [f'class number {k} 火箭' for k in range(K)]
        source = noise_source(images, names)
        if K == 3:
            source = hostile_names(source)
        folder = tmp_path_factory.mktemp(f'classes{K}')
        made[K] = write_report(
            str(folder), drawn_predictions(source, strength=2.0), source,
            Options(12 if K == 3 else 4, duplicates=0),
            None if K == 1000 else ('<b>before</b>', drawn_predictions(source, 1, 1.5)))
    source = noise_source(200, [f'class number {k} 火箭' for k in range(SETS)])
    made[SETS] = write_report(str(tmp_path_factory.mktemp('sets')), drawn_sets(source), source,
                              Options(4, duplicates=0))
    return made


def drawn_sets(source):
    """SetPredictions of an image's class and the one after it, from logits that are drawn."""
    n, random = len(source.dataset), np.random.default_rng(0)
    first = source.dataset.images.labels
    labels = LabelSets(np.stack([first, (first + 1) % SETS], axis=1).ravel(),
                       np.arange(1, n + 1) * 2, SETS)
    collector = SetCollector(labels)
    collector.add(random.standard_normal((n, SETS)) - 2 + 4 * labels.table(), list(range(n)))
    return collector.predictions(map(source.dataset.images.name, range(n)), source.class_names)


class Page(HTMLParser):
    """The elements of a page, and that each is closed where it must be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID | {'link'}:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open.pop() == name, (name, self.getpos())

    def handle_data(self, data):
        if self.open and self.open[-1] not in ('script', 'style'):
            self.texts.append(data)

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


@pytest.mark.smoke
def test_what_is_no_markup_is_escaped():
    assert markup('<a href="x">&\'') == '&lt;a href=&quot;x&quot;&gt;&amp;&#x27;'
    assert element('td', '<b>', element('i', '&'), title='"', class_='x', hidden=True, id=None) == \
        '<td title="&quot;" class="x" hidden>&lt;b&gt;<i>&amp;</i></td>'
    assert element('img', alt='a > b') == '<img alt="a &gt; b">'


def test_page_is_whole_loads_nothing_and_runs_no_name(pages):
    for K, file in pages.items():
        with open(file, encoding='utf-8') as stream:
            text = stream.read()
        page = Page(text)
        assert os.path.getsize(file) < MAX_BYTES
        assert len(page.all('script')) == 1 and not any(page.all('script'))  # without src
        assert not any(name.startswith('on') for _, attributes in page.elements
                       for name in attributes)
        for attribute in ('src', 'srcset', 'href'):
            for _, attributes in page.elements:
                assert attributes.get(attribute, '#').startswith(('data:', '#'))
        assert 'http:' not in text and 'https:' not in text and '@import' not in text
        assert 'url(' not in text
        # for those who see no pictures, or hear the page
        assert all(image.get('alt') for image in page.all('img'))
        assert all(header.get('scope') in ('row', 'col') for header in page.all('th'))
        ids = [attributes['id'] for _, attributes in page.elements if 'id' in attributes]
        assert len(ids) == len(set(ids))
        assert all(attributes['aria-labelledby'] in ids for attributes in page.all('section'))
        assert all(link['href'][1:] in ids for link in page.all('a'))
        assert len(page.all('h1')) == 1 and page.all('html')[0]['lang'] == 'en'
        assert text.count('<caption>') == text.count('<table')
        assert text.count('<th scope="row">') >= K  # without JavaScript, too
        if K == 3:
            words = ''.join(page.texts)
    assert HOSTILE[0] in words and HOSTILE[1] in words and '<b>before</b>' in words
    assert r'\xe2\x80\xaeabc\x0a\x1b[31m' in words
    assert '<img src=x onerror=alert(' in words


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip('chromium is not installed')
    browser = Browser(tmp_path_factory.mktemp('profile'))
    yield browser
    browser.close()


def show(browser, file, width, scheme='light'):
    width, height, mobile = WIDTHS[width]
    browser.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
                 deviceScaleFactor=1, mobile=mobile)
    browser.call('Emulation.setEmulatedMedia',
                 features=[{'name': 'prefers-color-scheme', 'value': scheme}])
    browser.call('Page.navigate', url='about:blank')  # a page that is shown again is not loaded
    browser.call('Page.navigate', url=f'file://{file}')
    browser.wait("document.readyState === 'complete' && document.title !== ''")


@pytest.mark.parametrize('classes', [3, 100, 1000, SETS])
@pytest.mark.parametrize('width', WIDTHS)
def test_page_in_a_browser(pages, browser, classes, width):
    """No sideways scrolling, every picture is one, nothing complains, and no name has run."""
    show(browser, pages[classes], width)
    assert browser.value('document.title') == 'vit_digits: report'
    pixels = WIDTHS[width][0]  # not innerWidth, which a phone makes as wide as the page
    assert browser.value('document.documentElement.scrollWidth') <= pixels
    browser.value("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    browser.wait('[...document.images].every(image => image.complete)')
    assert browser.value('[...document.images].every(image => image.naturalWidth > 1)')
    assert browser.value("document.querySelectorAll('#class-table tbody tr').length") == classes
    assert browser.value("document.querySelector('b img, figcaption script, td script') === null")
    # wide tables and the matrix scroll in themselves
    assert browser.value("[...document.querySelectorAll('.scroll, figure')].every(box => "
                         f'box.getBoundingClientRect().right <= {pixels})')
    assert browser.complaints == []


def column(browser, number):
    return browser.value("[...document.querySelectorAll('#class-table tbody tr')].filter(row => "
                         f'!row.hidden).map(row => row.cells[{number}].textContent)')


def test_table_of_classes_is_sorted_and_searched(pages, browser):
    show(browser, pages[100], 'desktop')
    names = column(browser, 0)
    assert names == [f'class number {k} 火箭' for k in range(100)]
    click = "document.querySelectorAll('#class-table thead button')[3].click()"
    recall = 3
    for turns, direction in enumerate(('ascending', 'descending'), 1):
        browser.value(click)
        values = [float(text.rstrip('\xa0%').replace('–', '-1'))
                  for text in column(browser, recall)]
        assert values == sorted(values, reverse=turns == 2)
        assert browser.value("document.querySelectorAll('#class-table thead th')[3]"
                             ".getAttribute('aria-sort')") == direction
    browser.value("(() => { const search = document.getElementById('search');"
                  "search.value = 'NUMBER 7'; search.dispatchEvent(new Event('input')); })()")
    assert sorted(column(browser, 0)) == sorted(
        name for name in names if 'number 7' in name)


def test_dark_page_has_dark_pictures(pages, browser):
    addresses = []
    for scheme in ('light', 'dark'):
        show(browser, pages[3], 'desktop', scheme)
        addresses.append(browser.value(
            "[...document.querySelectorAll('picture img')].map(image => image.currentSrc)"))
        colour = browser.value('getComputedStyle(document.body).backgroundColor')
        parts = json.loads(colour.replace('rgb(', '[').replace(')', ']'))
        assert (max(parts) < 60) == (scheme == 'dark')
    assert len(addresses[0]) == 3
    assert not set(addresses[0]) & set(addresses[1])
