"""What a training run has seen so far: one row per epoch, and the epoch under way."""
import csv
import io
import time

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

from mxnet import metric

COLUMNS = ('epoch', 'loss', 'softmax_loss', 'center_loss', 'accuracy', 'test_accuracy',
           'learning_rate', 'seconds')


def value_of(holder, key, *kinds):
    """The value of `key` in a dict that was read from JSON.

    Raises
    ------
    ValueError
        `holder` is no dict, or has no such key, or its value has none of the types.
    """
    # The exact types: True is no number here.
    if not isinstance(holder, dict) or type(holder.get(key)) not in kinds:
        raise ValueError('there is no "%s", or one of another type' % key)
    return holder[key]


class History:
    """Rows of finished epochs and the totals of the one under way.

    Parameters
    ----------
    weights : (float, float)
        Those of the softmax and the center loss in the total. If they change from step to step,
        the total of an epoch has the last ones.
    softmax_loss, center_loss, accuracy : mxnet.metric.EvalMetric
        The metrics that the training loop updates.

    Attributes
    ----------
    weights : (float, float)
    rows : list of dict
        With the keys :data:`COLUMNS`; the seconds are those of the training steps.
    metrics : mxnet.metric.CompositeEvalMetric
        All three, to update at once.
    epoch, batch : int
        The next ones, counted from 0.
    """

    def __init__(self, weights, softmax_loss, center_loss, accuracy):
        self.rows = []
        self.metrics = metric.CompositeEvalMetric([softmax_loss, center_loss, accuracy])
        self.batch = 0
        self.weights = weights
        self._seconds = 0.
        self._since = None

    @property
    def epoch(self):
        return len(self.rows)

    def start(self):
        """The training steps of an epoch begin, or go on after an interruption."""
        self._since = time.perf_counter()

    def step(self):
        """A batch is done."""
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        self.batch += 1

    def totals(self):
        """Means over the epoch under way: loss, softmax_loss, center_loss, accuracy."""
        softmax, center, accuracy = (float(part.get()[1]) for part in self.metrics.metrics)
        return {'loss': self.weights[0] * softmax + self.weights[1] * center,
                'softmax_loss': softmax, 'center_loss': center, 'accuracy': accuracy}

    def short(self):
        """The totals that a progress bar has room for."""
        totals = self.totals()
        return {'loss': '%.3f' % totals['loss'], 'accuracy': '%.4f' % totals['accuracy']}

    def end_epoch(self, test_accuracy, learning_rate):
        """Make the epoch under way a row."""
        self.rows.append({'epoch': self.epoch + 1, **self.totals(),
                          'test_accuracy': test_accuracy, 'learning_rate': learning_rate,
                          'seconds': self._seconds})
        self.metrics.reset()
        self.batch, self._seconds = 0, 0.

    def seconds_per_epoch(self):
        """Mean over the epochs; None before the first has ended."""
        return sum(row['seconds'] for row in self.rows) / len(self.rows) if self.rows else None

    def state(self):
        """Everything, as plain numbers for a checkpoint."""
        return {'rows': self.rows, 'batch': self.batch, 'seconds': self._seconds,
                'totals': [[float(part.sum_metric), int(part.num_inst)]
                           for part in self.metrics.metrics]}

    @staticmethod
    def check(state):
        """Raise ValueError unless :meth:`restore` can use a state that was read from a file."""
        value_of(state, 'seconds', int, float)
        if value_of(state, 'batch', int) < 0:
            raise ValueError('the next batch is number %d' % state['batch'])
        for row in value_of(state, 'rows', list):
            for column in COLUMNS:
                value_of(row, column, int, float)
            if len(row) > len(COLUMNS):
                raise ValueError('there are epochs with more than the columns %s'
                                 % ', '.join(COLUMNS))
        kinds = [[type(number) for number in pair] if isinstance(pair, list) else None
                 for pair in value_of(state, 'totals', list)]
        if kinds != [[float, int]] * 3:
            raise ValueError('"totals" must be three pairs of a sum and a count')

    def restore(self, state):
        """Continue from what :meth:`state` returned."""
        self.rows = state['rows']
        self.batch = state['batch']
        self._seconds = state['seconds']
        for part, (total, count) in zip(self.metrics.metrics, state['totals']):
            part.sum_metric, part.num_inst = total, count

    def csv(self):
        """The rows as the text of history.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()
