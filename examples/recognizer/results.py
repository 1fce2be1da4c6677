"""What a training says: how good its networks are on what was held out, its log, and its table."""
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
_MOST_NAMES = 40
_TITLES = {'eer': 'equal error rate, %', 'tar_at_far_1': 'TAR at 1 % FAR, %', 'rank1': 'rank-1, %',
           'enrolled_rank1': 'five enrolled: rank-1, %',
           'strangers_accepted': 'five enrolled, 5 % rejected: strangers accepted, %'}


class Measure:
    """Measures networks on what was held out; false if nothing was.

    Attributes
    ----------
    figures : dict
        {row: {name: metrics.Figure}}.
    curves : dict
        {row: (far, tar)}.
    thresholds : dict
        {row: those of recognizer.json}.
    embeddings : dict
        {row: numpy.ndarray}.
    """

    def __init__(self, rows, labels, distance, seed):
        self._labels = np.unique(labels[rows], return_inverse=True)[1]
        self._distance, self._seed = distance, seed
        self.figures, self.curves, self.thresholds, self.embeddings = {}, {}, {}, {}

    def __bool__(self):
        return len(self._labels) > 0

    def quickly(self, embeddings):
        """The equal error rate and rank-1 alone, without intervals."""
        pairs = metrics.all_pairs(embeddings, self._labels, self._distance)
        far, tar, _ = pairs.roc()
        return {'eer': metrics.equal_error_rate(far, tar), 'rank1': float(np.nanmean(
            metrics.rank1(embeddings, self._labels, self._distance)))}

    def __call__(self, row, embeddings):
        """Measure a network by its embeddings of what was held out."""
        self.embeddings[row] = embeddings
        self.figures[row], curve = metrics.held_out(
            embeddings, self._labels, self._distance, seed=self._seed)
        self.curves[row] = curve[:2]
        self.thresholds[row] = metrics.thresholds(embeddings, self._labels, self._distance, curve,
                                                  seed=self._seed)

    def row(self, row, softmax=None):
        """The figures of a network for JSON, also the interval of its difference to softmax."""
        if row not in self.figures:
            return {}
        figures = self.figures[row]
        result = {name: {'value': figure.value, 'interval': figure.interval()}
                  for name, figure in figures.items()}
        if softmax in self.figures and row != softmax:
            for name in result:
                result[name]['against_softmax'] = figures[name].better_than(
                    self.figures[softmax][name])
        return result


class Log:
    """Lines for the user, also in training.log; history.csv. Only the first worker has an `out`."""

    def __init__(self, out, resume=False):
        self.first, self._out, self._lines, self._histories = out is not None, out, [], {}
        self._drawn, self._seconds = 0., 0.
        path = os.path.join(out or '', 'training.log')
        if resume and self.first and os.path.lexists(path):
            self._lines = checkpoint.read_file(path).decode(errors='replace').splitlines()

    def __call__(self, line):
        if self.first:
            tqdm.write(line, file=sys.stderr)
            self._lines.append(line)
            checkpoint.write(os.path.join(self._out, 'training.log'),
                             '\n'.join(self._lines) + '\n')

    def epoch(self, name, rows, epochs):
        """A line about the last epoch of a loss, and history.csv."""
        row = rows[-1]
        self(f'{name}: epoch {row["epoch"]} of {epochs}, ' + ', '.join(
            f'{column.replace("_", " ")} {row[column]:.4g}' for column in _SHOWN if column in row))
        self.history(name, rows)

    def history(self, name, rows):
        """Write history.csv, with the epochs of one more loss, or more epochs of one."""
        if not self.first or not rows:
            return
        self._histories[name] = rows
        rows = [{'row': name, **row} for name, of in self._histories.items() for row in of]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        checkpoint.write(os.path.join(self._out, 'history.csv'), text.getvalue())
        if time.monotonic() > self._drawn + 5 * self._seconds:      # a picture takes a while
            start = time.monotonic()
            self.draw()
            self._drawn = time.monotonic()
            self._seconds = self._drawn - start

    def draw(self):
        """Write curves.png: losses, and the equal error rate of what is held out, by epoch."""
        figure = Figure(figsize=(12, 4), layout='constrained')
        for axes, column in zip(figure.subplots(1, 3), ('softmax_loss', 'center_loss', 'eer')):
            for name, rows in self._histories.items():
                if column in rows[0]:
                    axes.plot([row['epoch'] for row in rows], [row[column] for row in rows],
                              label=name)
            axes.set(title={'eer': 'equal error rate of what is held out'}.get(
                column, column.replace('_', ' ')), xlabel='epoch', ylim=(0, None))
            axes.grid(alpha=0.2)
            if axes.lines:
                axes.legend(frameon=False)
        checkpoint.write(os.path.join(self._out, 'curves.png'),
                         lambda file: figure.savefig(file, format='png', dpi=100))


def summary(trained, chosen, measure, held_out, pictures, distance):
    """What metrics.json has: `trained` has the network of each row, `chosen` is exported."""
    rows = list(trained)
    history = [row for network in trained.values() for row in network.history]
    return {
        'exported': chosen.name, 'distance': distance,
        'rows': {row.name: {**row._asdict(), 'epoch': len(network.history),
                            'center_weight_at_epoch': network.history[-1]['center_weight'],
                            **measure.row(row, None if any(rows[0]) else rows[0])}
                 for row, network in trained.items()},
        'before': measure.row('before'),
        'thresholds': measure.thresholds.get(chosen, {'pairs': {}, 'strangers': {}}),
        'held_out': {'kind': held_out.kind, 'images': len(held_out.test),
                     'classes': held_out.names(pictures)},
        'trained_on': {'images': len(held_out.train),
                       'classes': len(np.unique(pictures.labels[held_out.train]))},
        'left_out': pictures.left_out,
        'speed': {name: float(np.median([row[name] for row in history])) for name in _SPEED}}


def lines(result):
    """The results as people read them."""
    held_out = result['held_out']
    rows = {**({'before': result['before']} if result['before'] else {}), **result['rows']}
    if held_out['images']:
        bounded = any(row['eer']['interval'] for row in rows.values())
        yield (f'{result["distance"]} distance, {held_out["images"]} pictures '
               + (f'of {len(held_out["classes"])} classes held out' if held_out['kind'] == 'classes'
                  else 'held out, of the classes that were trained on')
               + (', in brackets the 95 % interval over classes' if bounded else ''))
        columns = {'eer': 'equal error rate, %', 'tar_at_far_1': 'TAR at 1 % FAR, %',
                   'rank1': 'rank-1, %'}
        yield ' ' * 30 + ''.join(f'{title:>24}' for title in columns.values()) + '   epoch    λ'
        for name, row in rows.items():
            mark = '>' if name == result['exported'] else ' '
            trained = (f'{row["epoch"]:8d} {row["center_weight_at_epoch"]:6.3g}' if 'epoch' in row
                       else '')
            yield f'{mark} {name:<28}' + ''.join(f'{_cell(row[column], column == "eer"):>24}'
                                                 for column in columns) + trained
        yield '> is exported' + ('; * differs from softmax alone by more than the classes held out '
                                 'can explain' if bounded and len(result['rows']) > 1 else '')
        yield from _remarks(result, held_out)
    speed = result['speed']
    yield (f'{speed["images_per_second"]:.0f} pictures per second, waiting for pictures '
           f'{100 * speed["share_waiting_for_images"]:.1f} % of the time')


def page(result, measure, row, pictures, rows, shown):
    """report.html: the results, the mistakes of the exported network, what was left out."""
    titles = {name: title for name, title in _TITLES.items()
              if name in next(iter(result['rows'].values()))}
    table = [[name + ' (exported)' * (name == result['exported']), *(
        _cell(one[name_], name_ in ('eer', 'strangers_accepted')) for name_ in titles)]
        for name, one in (('before', result['before']), *result['rows'].items()) if one]
    # The rows of the table on the screen have columns; the other lines are sentences.
    remarks = [line for line in lines(result) if '   ' not in line]
    sections = [('Results', report.table(['', *titles.values()], table) * bool(titles)
                 + ''.join(map(report.paragraph, remarks)))]
    if measure:
        labels, embeddings = pictures.labels[rows], measure.embeddings[row]
        sections += [
            ('Pairs of what is held out', report.roc_curves(
                {getattr(one, 'name', one): curve for one, curve in measure.curves.items()})),
            ('Mistakes', report.worst_pairs(
                embeddings, labels, [pictures.files[one] for one in rows], result['distance'],
                (lambda one: pictures.images[rows[one]]) if shown else None)),
            ('The embedding', report.scatter(embeddings, labels, pictures.names))]
    return report.page('A recognizer', [*sections, ('Left out', report.left_out(
        result['left_out']))])


def _cell(figure, error):
    interval, against = figure['interval'], figure.get('against_softmax')
    star = bool(against) and (against[1] < 0 if error else against[0] > 0)
    text = f'{100 * figure["value"]:.1f}'
    if interval:
        text += f' [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]'
    return text + ('*' if star else ' ')


def _remarks(result, held_out):
    exported, before = result['rows'][result['exported']], result['before']
    if before and exported['eer']['value'] > before['eer']['value']:
        yield ('training made the network worse than it was before: keep more of it with --freeze, '
               'take a smaller --lr or fewer --epochs, or use it as it is with recognize.py import')
    if held_out['kind'] == 'images':
        yield ('too few classes to hold some out: these figures are of new pictures of classes '
               'that were trained on, and those of other classes will be worse')
    elif len(held_out['classes']) < metrics.FEWEST:
        yield (f'only {len(held_out["classes"])} classes are held out, so other classes can have '
               'quite other rates: check with recognize.py evaluate')
    if not result['thresholds']['strangers']:
        yield ('too few pictures are held out to say how many strangers a threshold accepts: find '
               'one with recognize.py evaluate')


def some(names):
    """Names in one line."""
    shown = ', '.join(names[:_MOST_NAMES])
    return shown + (', …, all of them in metrics.json' if len(names) > _MOST_NAMES else '')
