"""What a training says: how good its networks are on what was held out, its log, and its table."""
import csv
import io
import os
import sys

import checkpoint
import metrics
import numpy as np
from tqdm import tqdm

SHOWN = 'softmax_loss', 'center_loss', 'accuracy', 'eer', 'rank1', 'images_per_second'
SPEED = 'images_per_second', 'share_waiting_for_images'
_MOST_NAMES = 40


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
        self.figures[row], (far, tar, apart) = metrics.held_out(
            embeddings, self._labels, self._distance, seed=self._seed)
        self.curves[row] = far, tar
        strangers = metrics.thresholds_for_strangers(embeddings, self._labels, self._distance,
                                                     seed=self._seed)
        self.thresholds[row] = {
            'pairs': {f'{rate:g}': metrics.threshold_at_far(far, apart, rate)
                      for rate in metrics.FALSE_ACCEPTS},
            'strangers': {f'{share:g}': points for share, points in strangers.items()}}

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
        path = os.path.join(out or '', 'training.log')
        if resume and self.first and os.path.lexists(path):
            self._lines = checkpoint.read_file(path).decode(errors='replace').splitlines()

    def __call__(self, line):
        if self.first:
            tqdm.write(line, file=sys.stderr)
            self._lines.append(line)
            checkpoint.write(os.path.join(self._out, 'training.log'),
                             '\n'.join(self._lines) + '\n')

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

    @property
    def histories(self):
        """{name of a row: its epochs}."""
        return self._histories


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
        yield f'  {"":<28}' + ''.join(f'{title:>24}' for title in columns.values()) + '   epoch    λ'
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
