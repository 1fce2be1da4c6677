"""examples/recognizer/report.py: what a browser gets to see."""
import base64
import itertools
import re
from html.parser import HTMLParser

import data
import numpy as np
import pytest
import report
from sklearn.metrics import pairwise_distances

NASTY = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', 'a$\\frac{b$', '&amp;',
         'tab\tand\nline', '\u202etxt', 'Zoë', '日本語']


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text += text


@pytest.fixture(name='made')
def make():
    """Embeddings of classes with nasty names: (embeddings, labels, files, pictures)."""
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(len(NASTY)), 5)
    embeddings = random.randn(len(NASTY), 6)[labels] + random.randn(len(labels), 6)
    return (embeddings, labels, [f'{NASTY[label]}/{number}.png'
                                 for number, label in enumerate(labels)],
            random.randint(0, 256, (len(labels), 9, 7, 3)).astype('uint8'))


@pytest.mark.parametrize('pictures', [True, False])
def test_names_are_escaped_and_nothing_is_loaded(made, pictures):
    embeddings, labels, files, pixels = made
    content = report.page(NASTY[0], [
        (NASTY[1], report.table(NASTY, [[*NASTY[:6], 1.235, 7]])),
        ('Left out', report.left_out([{'class': NASTY[0], 'count': 3, 'reason': NASTY[1],
                                       'first': NASTY[4]}])),
        ('ROC', report.roc_curves({name: ([0, 0.5, 1], [0, 0.8, 1]) for name in NASTY})),
        ('Worst', report.worst_pairs(embeddings, labels, files, 'cosine',
                                     pixels.__getitem__ if pictures else None)),
        ('Map', report.scatter(embeddings, labels, NASTY))])
    page = Page(content)
    assert {tag for tag, _ in page.tags} <= set(
        'html head meta title style body h1 section h2 p div table tr th td img figure figcaption '
        'br small'.split())
    sources = [attributes['src'] for tag, attributes in page.tags if tag == 'img']
    assert all(source.startswith(('data:image/svg+xml;base64,', 'data:image/jpeg;base64,'))
               for source in sources)
    assert any('jpeg' in source for source in sources) == pictures
    allowed = {'lang', 'charset', 'http-equiv', 'content', 'class', 'style', 'src', 'alt'}
    assert {name for _, attributes in page.tags for name in attributes} <= allowed
    assert "default-src 'none'" in content and 'url(' not in content
    for name in NASTY:
        assert data.printable(name) in page.text
    assert '\u202e' not in content and '1.235' in page.text
    plots = [base64.b64decode(source.split(',')[1]).decode() for source in sources
             if 'svg' in source]
    assert len(plots) == 2
    for plot in plots:      # the plots load nothing either, and take no $ for a formula
        assert not re.search(r'<script|<image|href="(?!#)|url\((?!#)', plot)
        assert data.printable(NASTY[2]) in plot and '日本語' in plot


def test_the_worst_pairs_are_those_of_a_search(made):
    embeddings, labels, _, _ = made
    files = [f'file{row:02}' for row in range(len(labels))]
    between = pairwise_distances(embeddings, metric='cosine')
    parts = report.worst_pairs(embeddings, labels, files, 'cosine', count=5).split('<p>')[1:]
    for part, same in zip(parts, (True, False)):
        expected, used = [], set()
        for pair in sorted(itertools.combinations(range(len(labels)), 2),
                           key=lambda pair: between[pair] * (-1 if same else 1)):
            if (labels[pair[0]] == labels[pair[1]]) == same and not used & set(pair):
                used |= set(pair)
                expected.append(pair)
        shown = [int(row) for row in re.findall(r'file(\d\d)', part)]
        assert list(zip(shown[::2], shown[1::2])) == expected[:5]
