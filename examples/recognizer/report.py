"""report.html: one file that a browser opens without a network connection.

Names of classes and files are escaped, and nothing is loaded from elsewhere. Pictures of people go
into the page only if the caller gives a function that returns them. The plots need matplotlib, and
the page says so where it is missing.
"""
import base64
import html
import io
import warnings

import numpy as np
from data import printable
from metrics import distances
from PIL import Image

_STYLE = '''
body {font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em}
table {border-collapse: collapse; margin: .6em 0}
th, td {padding: .25em .8em; text-align: left; border-bottom: 1px solid #ddd}
.wide {overflow-x: auto} p {max-width: 46em} figcaption {font-size: .85em; overflow-wrap: anywhere}
.pairs {display: flex; flex-wrap: wrap; gap: 1em} figure {margin: 0; max-width: 14em}
figure img {height: 6em; margin-right: 2px}
'''
# Inline styles and inline pictures only: a browser refuses everything else.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MOST_NAMES = 30        # classes whose names are written into the plot
_MOST_POINTS = 2000


def page(title, sections):
    """The HTML of a page with these sections: [(heading, HTML from the functions below)]."""
    body = ''.join(f'<section><h2>{_text(heading)}</h2>\n{content}</section>\n'
                   for heading, content in sections)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            f'<title>{_text(title)}</title>\n<style>{_STYLE}</style></head>\n'
            f'<body><h1>{_text(title)}</h1>\n{body}</body></html>\n')


def _text(value):
    return html.escape(printable(value))


def paragraph(text):
    """A paragraph of plain text."""
    return f'<p>{_text(text)}</p>\n'


def table(header, rows):
    """A table of texts and numbers."""
    lines = [(tag, row) for tag, part in (('th', [header]), ('td', rows)) for row in part]
    return '<div class=wide><table>' + '\n'.join(
        '<tr>' + ''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in row) + '</tr>'
        for tag, row in lines) + '</table></div>\n'


def aligned(header, rows):
    """The same for a terminal."""
    columns = list(zip(*([str(cell) for cell in row] for row in (header, *rows))))
    widths = [max(map(len, column)) for column in columns]
    return [(f'{row[0]:<{widths[0]}}' + ''.join(
        f'{cell:>{width + 3}}' for cell, width in zip(row[1:], widths[1:]))).rstrip()
        for row in zip(*columns)]


def left_out(rows):
    """What was left out: `data.Pictures.left_out`."""
    return table(['class', 'files', 'why', 'the first'], [
        [row['class'], row['count'], row['reason'], row['first']]
        for row in rows]) if rows else paragraph('Nothing was left out.')


def worst_pairs(embeddings, labels, files, kind, picture=None, count=12):
    """The pairs of pictures that the network takes for what they are not: of one class and far
    apart, and of different classes and close together. Each picture is shown once at most: what it
    is called in `files`, and if there is `picture`, its pixels, (height, width, channels) uint8,
    which this returns for a row.
    """
    between, result = distances(embeddings, embeddings, kind), ''
    for same, title in ((True, 'Of one class, and far apart'),
                        (False, 'Of different classes, and close together')):
        wanted = np.triu((labels[:, None] == labels) == same, 1)
        values = np.where(wanted, -between if same else between, np.inf).ravel()
        near = np.argpartition(values, min(50 * count, len(values) - 1))[:50 * count + 1]
        used, figures = set(), []
        for place in near[np.argsort(values[near], kind='stable')]:
            pair = divmod(int(place), len(labels))
            if np.isfinite(values[place]) and not used.intersection(pair) and len(figures) < count:
                used.update(pair)
                shown = ''.join(_image(picture(row)) for row in pair) if picture else ''
                lines = '<br>'.join(_text(files[row]) for row in pair)
                figures.append(f'<figure>{shown}<figcaption>{abs(values[place]):.3f}<br>{lines}'
                               '</figcaption></figure>')
        result += f'<p>{title}, with their distance:</p><div class=pairs>{"".join(figures)}</div>\n'
    return result


def _image(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, 'JPEG')
    content = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{content}">'


def roc_curves(curves):
    """The ROC curves of pairs of pictures: {name: (far, tar)}."""
    def draw(axes):
        for name, (far, tar) in curves.items():
            axes.plot(far, tar, drawstyle='steps-post', label=printable(name))
        axes.set(xscale='log', xlim=(1e-4, 1), ylim=(0, 1.02),
                 xlabel='share of the pairs of different classes that are accepted',
                 ylabel='share of the pairs of one class')
        axes.grid(alpha=0.2)
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)
    return _plot(draw, 'ROC curves')


def scatter(embeddings, labels, names):
    """The embeddings in the two directions in which they differ most."""
    def draw(axes):
        apart = embeddings - embeddings.mean(axis=0)
        places = apart @ np.linalg.svd(apart, full_matrices=False)[2][:2].T
        present, colors = np.unique(labels, return_inverse=True)
        keep = np.random.RandomState(0).permutation(len(labels))[:_MOST_POINTS]
        axes.scatter(*places[keep].T, c=colors[keep] % 20, cmap='tab20', s=14, linewidths=0)
        if len(present) <= _MOST_NAMES:
            for label in present:
                axes.text(*places[labels == label].mean(axis=0), printable(names[label]),
                          ha='center', fontsize=8, parse_math=False,
                          bbox={'color': 'white', 'alpha': 0.7, 'pad': 1})
        axes.set(xticks=(), yticks=(), aspect='equal')
    if np.shape(embeddings)[1] < 2 or len(labels) < 3:
        return paragraph('Too little to draw.')
    return _plot(draw, 'The embedding in two dimensions')


def _plot(draw, title):
    """What `draw` does to matplotlib's axes, as a picture; or a line if it is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return paragraph(f'{title}: not drawn, because matplotlib is not installed.')
    with rc_context({'svg.fonttype': 'none'}), warnings.catch_warnings():
        warnings.simplefilter('ignore')     # about letters that its own font has not
        figure, content = Figure((7, 5), layout='constrained'), io.BytesIO()
        draw(figure.subplots())
        figure.savefig(content, format='svg')
    content = content.getvalue()
    content = base64.b64encode(content[content.index(b'<svg'):]).decode()   # without a DOCTYPE
    return f'<img alt="{_text(title)}" src="data:image/svg+xml;base64,{content}">\n'


def of_embeddings(embeddings, labels, names, files, kind, curves, picture=None):
    """The sections about what was measured: `names` are those of the labels, the others are as in
    `roc_curves` and `worst_pairs`."""
    return [('ROC curves of all pairs', roc_curves(curves)),
            ('The worst pairs', worst_pairs(embeddings, labels, files, kind, picture)),
            ('The embedding', scatter(embeddings, labels, names))]
