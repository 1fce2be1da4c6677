"""What a training says: its log, its table, and its page."""
import csv
import io
import os
import sys
import time

import checkpoint
import metrics
import numpy as np
import report
from matplotlib.figure import Figure
from tqdm import tqdm

_SHOWN = 'softmax_loss', 'center_loss', 'accuracy', 'eer', 'rank1', 'images_per_second'
_SPEED = 'images_per_second', 'share_waiting_for_images'
_ON_SCREEN = 3      # of the figures in metrics.TITLES


class Log:
    """Lines for the user, also in training.log; history.csv. Only the first worker has an `out`."""

    def __init__(self, out, resume=False):
        self.first, self._out, self._lines, self._histories = out is not None, out, [], {}
        self._next = 0.     # when the curves are drawn again: a picture takes a while
        path = os.path.join(out or '', 'training.log')
        if resume and self.first and os.path.lexists(path):
            self._lines = checkpoint.read_file(path).decode(errors='replace').splitlines()

    def __call__(self, line):
        if self.first:
            tqdm.write(line, file=sys.stderr)
            self._lines.append(line)
            self._write('training.log', '\n'.join(self._lines) + '\n')

    def _write(self, name, content):
        checkpoint.write(os.path.join(self._out, name), content)

    def epoch(self, name, rows, epochs):
        """A line about the last epoch of a loss, history.csv and curves.png."""
        row = rows[-1]
        self(f'{name}: epoch {row["epoch"]} of {epochs}, ' + ', '.join(
            f'{column.replace("_", " ")} {row[column]:.4g}' for column in _SHOWN if column in row))
        self.history(name, rows)

    def history(self, name, rows, last=False):
        """Write history.csv and, if it is time or the last time, curves.png, with the epochs of one
        more loss, or more epochs of one."""
        if not self.first or not rows:
            return
        self._histories[name] = rows
        rows = [{'row': name, **row} for name, of in self._histories.items() for row in of]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        self._write('history.csv', text.getvalue())
        if last or time.monotonic() > self._next:
            start = time.monotonic()
            self._draw()
            self._next = time.monotonic() + 5 * (time.monotonic() - start)

    def _draw(self):
        figure = Figure(figsize=(12, 4), layout='constrained')
        for axes, column in zip(figure.subplots(1, 3), ('softmax_loss', 'center_loss', 'eer')):
            for name, rows in self._histories.items():
                if column in rows[0]:
                    axes.plot([row['epoch'] for row in rows], [row[column] for row in rows],
                              label=name)
            axes.set(title={'eer': 'equal error rate of what is held out'}.get(
                column, column.replace('_', ' ')), xlabel='epoch', ylim=(0, None))
            if axes.lines:
                axes.legend(frameon=False)
        self._write('curves.png', lambda file: figure.savefig(file, format='png', dpi=100))


def summary(trained, chosen, measured, held_out, pictures, distance):
    """What metrics.json has: `trained` has the network of each row, `chosen` is exported,
    `measured` has what metrics.measure gave for each row and for 'before'."""
    softmax = next(iter(trained))
    history = [line for network in trained.values() for line in network.history]

    def figures(row):
        found = measured[row][0] if row in measured else {}
        result = {name: {'value': one.value, 'interval': one.interval()}
                  for name, one in found.items()}
        if row != softmax and softmax in measured and not any(softmax):
            for name, one in result.items():
                one['against_softmax'] = found[name].with_(
                    np.subtract, measured[softmax][0][name]).interval()
        return result

    return {
        'exported': chosen.name, 'distance': distance,
        'rows': {row.name: {**row._asdict(), 'epoch': len(network.history),
                            'center_weight_at_epoch': network.history[-1]['center_weight'],
                            **figures(row)} for row, network in trained.items()},
        'before': figures('before'),
        'thresholds': measured[chosen][2] if measured else {'pairs': {}, 'strangers': {}},
        'held_out': {'kind': held_out.kind, 'images': len(held_out.test),
                     'classes': held_out.names(pictures)},
        'trained_on': {'images': len(held_out.train),
                       'classes': len(np.unique(pictures.labels[held_out.train]))},
        'left_out': pictures.left_out,
        'speed': {name: float(np.median([line[name] for line in history])) for name in _SPEED}}


def _table(result, most=None):
    """(header, rows) of what was measured, with so many figures."""
    rows = {'before': result['before'], **result['rows']}
    titles = [name for name in metrics.TITLES if name in rows[result['exported']]][:most]
    header = ['', *(f'{metrics.TITLES[name]}, %' for name in titles), 'epoch', 'λ']
    return header, [[
        f'{">" if name == result["exported"] else " "} {name}',
        *(_cell(row[title], title in metrics.ERRORS) for title in titles), row.get('epoch', ''),
        '{:.3g}'.format(row['center_weight_at_epoch']) if 'epoch' in row else '']
        for name, row in rows.items() if row]


def _cell(figure, error):
    text = f'{100 * figure["value"]:.1f}'
    if figure['interval']:
        text += ' [{:.1f}, {:.1f}]'.format(*(100 * end for end in figure['interval']))
    low, high = figure.get('against_softmax') or (0, 0)
    return text + ('*' if (high < 0 if error else low > 0) else ' ')


def lines(result):
    """The results as people read them in a terminal."""
    first, *others = _remarks(result)
    yield first
    if result['held_out']['images']:
        yield from report.aligned(*_table(result, _ON_SCREEN))
    yield from others


def _remarks(result):
    held_out, exported, before = (result['held_out'], result['rows'][result['exported']],
                                  result['before'])
    if held_out['images']:
        classes, by_class = len(held_out['classes']), held_out['kind'] == 'classes'
        bounded = bool(exported['eer']['interval'])
        yield (f'{result["distance"]} distance, {held_out["images"]} pictures ' + (
            f'of {classes} classes held out' if by_class else
            'held out, of the classes that were trained on')
            + ', in brackets the 95 % interval over classes' * bounded)
        yield '> is exported' + ('; * differs from softmax alone by more than the classes held out '
                                 'can explain' if bounded and len(result['rows']) > 1 else '')
        if before and exported['eer']['value'] > before['eer']['value']:
            yield ('training made the network worse than it was before: keep more of it with '
                   '--freeze, take a smaller --lr or fewer --epochs, or use it as it is with '
                   'recognize.py import')
        if not by_class:
            yield ('too few classes to hold some out: these figures are of new pictures of classes '
                   'that were trained on, and those of other classes will be worse')
        elif classes < metrics.FEWEST:
            yield (f'only {classes} classes are held out, so other classes can have quite other '
                   'rates: check with recognize.py evaluate')
        if not result['thresholds']['strangers']:
            yield ('too few pictures are held out to say how many strangers a threshold accepts: '
                   'find one with recognize.py evaluate')
    yield '{:.0f} pictures per second, waiting for pictures {:.1f} % of the time'.format(
        result['speed'][_SPEED[0]], 100 * result['speed'][_SPEED[1]])


def page(result, measured, embeddings, pictures, rows, shown):
    """report.html: the results, the mistakes of the exported network, by its embeddings of what was
    held out, these rows of the pictures; and what was left out."""
    sections = [('Results', report.table(*_table(result)) * bool(measured)
                 + ''.join(map(report.paragraph, _remarks(result))))]
    if measured:
        sections += report.of_embeddings(
            embeddings, pictures.labels[rows], pictures.names,
            [pictures.files[row] for row in rows], result['distance'],
            {getattr(row, 'name', row): curve[:2] for row, (_, curve, _) in measured.items()},
            (lambda row: pictures.images[rows[row]]) if shown else None)
    return report.page('A recognizer', [
        *sections, ('Left out', report.left_out(result['left_out']))])
