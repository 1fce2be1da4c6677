"""What a training run has seen so far: an epoch a row, and the epoch under way."""
import csv
import io
import time

import center_loss_op  # before mxnet, for newer NumPys; pylint: disable=unused-import
from mxnet import metric

COLUMNS = ('epoch', 'loss', 'softmax_loss', 'center_loss', 'accuracy', 'test_accuracy',
           'learning_rate', 'seconds')


class History:
    """Rows of finished epochs and the totals of the one under way.

    Parameters
    ----------
    weights : (float, float)
        Of the softmax and the center loss in the total. Where they change from step to step,
        an epoch's total is by its last.
    softmax_loss, center_loss, accuracy : mxnet.metric.EvalMetric
        The metrics that the training loop updates.

    Attributes
    ----------
    weights : (float, float)
    rows : list of dict
        By :data:`COLUMNS`; the seconds are those of the training steps.
    metrics : mxnet.metric.CompositeEvalMetric
        All three, to update at once.
    epoch, batch : int
        What comes next.
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

    def restore(self, state):
        """Become what :meth:`state` has told."""
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
