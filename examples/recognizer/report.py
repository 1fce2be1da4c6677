"""report.html: one file that a browser opens without a network connection.

    sections = [('Results', report.table(header, rows)), ('Mistakes', report.worst_pairs(…))]
    checkpoint.write('report.html', report.page('Recognizer', sections))

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
body {font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62em;
      margin: 2em auto; padding: 0 1em}
h1 {font-size: 1.6em} h2 {font-size: 1.2em; margin: 2em 0 .4em}
table {border-collapse: collapse; margin: .6em 0}
th, td {padding: .25em .8em; text-align: left; border-bottom: 1px solid #e4e4e4}
th {font-weight: 600; border-bottom-color: #999} .number {text-align: right}
.wide {overflow-x: auto} p {max-width: 46em} small, figcaption {color: #555; font-size: .85em}
.pairs {display: flex; flex-wrap: wrap; gap: 1em} figure {margin: 0; max-width: 14em}
figure img {height: 6em; margin-right: 2px} figcaption {overflow-wrap: anywhere}
'''
# Inline styles and inline pictures only: a browser refuses everything else.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LARGEST_TABLE = 20     # classes; with more, the most frequent confusions are listed
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
    """A table of cells that are text, numbers, or None for no value."""
    def cell(value, tag):
        number = isinstance(value, (int, float, np.number))
        text = '–' if value is None else f'{value:.4g}' if isinstance(
            value, (float, np.floating)) else _text(value)
        return f'<{tag}{" class=number" if number else ""}>{text}</{tag}>'

    lines = [''.join(cell(value, 'th') for value in header)]
    lines += [''.join(cell(value, 'td') for value in row) for row in rows]
    return _rows(lines)


def _rows(lines):
    return ('<div class=wide><table>' + '\n'.join(f'<tr>{line}</tr>' for line in lines)
            + '</table></div>\n')


def left_out(rows):
    """What was left out: `data.Pictures.left_out`."""
    if not rows:
        return paragraph('Nothing was left out.')
    return table(['class', 'files', 'why', 'the first'],
                 [[row['class'], row['count'], row['reason'], row['first']] for row in rows])


def confusion(true, given):
    """Which class was taken for which, from the names of each picture's class and of the answer.

    With few classes this is the whole table, one row per class; otherwise the list of mistakes.
    """
    true, given = np.asarray(true, object), np.asarray(given, object)
    names = sorted({*true, *given})
    counts = {}
    for pair in zip(true, given):
        counts[pair] = counts.get(pair, 0) + 1
    totals = {name: int((true == name).sum()) for name in names}
    if len(names) > _LARGEST_TABLE:
        wrong = sorted((-count, *pair) for pair, count in counts.items() if pair[0] != pair[1])
        return paragraph(f'{-sum(row[0] for row in wrong)} of {len(true)} pictures got another '
                         'name. The most frequent mistakes:') + table(
            ['class', 'taken for', 'pictures', 'of'],
            [[one, other, -count, totals[one]] for count, one, other in wrong[:40]])
    lines = ['<th></th>' + ''.join(f'<th>{_text(name)}</th>' for name in names)]
    for one in filter(totals.get, names):
        cells = ''
        for other in names:
            count = counts.get((one, other), 0)
            color = '46,125,50' if one == other else '198,40,40'
            cells += (f'<td class=number style="background:rgba({color},'
                      f'{0.5 * count / totals[one]:.2f})">{count or ""}</td>')
        lines.append(f'<th>{_text(one)}</th>{cells}')
    return paragraph('A row per class, a column per answer.') + _rows(lines)


def worst_pairs(embeddings, labels, files, kind, picture=None, count=12):
    """The pairs of pictures that the network takes for what they are not: of one class and far
    apart, and of different classes and close together. Each picture is shown once at most.

    Parameters
    ----------
    embeddings, labels : numpy.ndarray (N, d), (N,)
    files : sequence of str
        What each picture is called, with its class in front.
    kind : 'cosine' or 'euclidean'
    picture : callable, optional
        Returns a row's pixels, (height, width, channels) uint8; without it only names are shown.
    """
    between = distances(embeddings, embeddings, kind)
    result = ''
    for same, title in ((True, 'Of one class, and far apart'),
                        (False, 'Of different classes, and close together')):
        wanted = np.triu(labels[:, None] == labels if same else labels[:, None] != labels, 1)
        values = np.where(wanted, between if not same else -between, np.inf).ravel()
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
    pixels = np.asarray(pixels, np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        content, 'JPEG', quality=85)
    content = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{content}">'


def roc_curves(curves):
    """The ROC curves of pairs of pictures: {name: (far, tar)}."""
    def draw(axes):
        for name, (far, tar) in curves.items():
            axes.plot(far, tar, drawstyle='steps-post', label=printable(name))
        equal = np.logspace(-4, 0)
        axes.plot(equal, 1 - equal, color='grey', linewidth=0.8, linestyle=':',
                  label='equal errors')
        axes.set(xscale='log', xlim=(1e-4, 1), ylim=(0, 1.02),
                 xlabel='share of the pairs of different classes that are accepted',
                 ylabel='share of the pairs of one class')
        axes.grid(alpha=0.2)
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)
    return _plot(draw, 'ROC curves', (7, 4.5))


def scatter(embeddings, labels, names):
    """The embeddings in the two directions in which the means of the classes differ most."""
    def draw(axes):
        points = np.asarray(embeddings, np.float64)
        present = np.unique(labels)
        means = np.stack([points[labels == label].mean(axis=0) for label in present])
        center = means.mean(axis=0)
        base = means - center if len(means) > 2 else points - center
        plane = np.linalg.svd(base, full_matrices=False)[2][:2].T
        points, means = (points - center) @ plane, (means - center) @ plane
        keep = np.random.RandomState(0).permutation(len(points))[:_MOST_POINTS]
        axes.scatter(*points[keep].T, c=np.searchsorted(present, labels[keep]) % 20, cmap='tab20',
                     s=14, linewidths=0, vmin=0, vmax=19)
        if len(present) <= _MOST_NAMES:
            for label, (x, y) in zip(present, means):
                axes.text(x, y, printable(names[label]), ha='center', fontsize=8,
                          parse_math=False, bbox={'color': 'white', 'alpha': 0.7, 'pad': 1})
        axes.set(xticks=(), yticks=(), aspect='equal')
    if np.shape(embeddings)[1] < 2 or len(labels) < 3:
        return paragraph('Too little to draw.')
    return _plot(draw, 'The embedding in two dimensions', (7, 6))


def _plot(draw, title, size):
    """What `draw` does to matplotlib's axes, as a picture; or a line if it is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return paragraph(f'{title}: not drawn, because matplotlib is not installed.')
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': title}), warnings.catch_warnings():
        warnings.simplefilter('ignore')     # about letters that its own font has not
        figure, content = Figure(size, layout='constrained'), io.BytesIO()
        draw(figure.subplots())
        figure.savefig(content, format='svg', metadata=dict.fromkeys(
            ('Creator', 'Date', 'Format', 'Type')))
    content = content.getvalue()
    content = base64.b64encode(content[content.index(b'<svg'):]).decode()   # without a DOCTYPE
    return f'<img alt="{_text(title)}" src="data:image/svg+xml;base64,{content}">\n'
