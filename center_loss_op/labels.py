"""The labels of a batch: checked, and grouped by class.

Labels are few (N numbers), so this runs in NumPy on whatever device the features are.
"""
import numpy as np

__all__ = ['Batch', 'LabelError', 'largest_exact']

BFLOAT16 = np.dtype([('bfloat16', np.uint16)])


class LabelError(ValueError):
    """A label that names no class."""


def largest_exact(dtype):
    """The largest n for which a floating `dtype` holds all of 0 … n; None for other types."""
    dtype = np.dtype(dtype)
    if dtype == BFLOAT16:
        return 2 ** 8
    return 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == 'f' else None


def _plain(labels):
    """Labels as numbers that NumPy can compare; it has no bfloat16."""
    if labels.dtype == BFLOAT16:
        return (labels.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return labels


class Batch:
    """The checked labels of one batch.

    Parameters
    ----------
    labels : numpy.ndarray
        Shape (N,) or (N, 1), any real type.
    num_class : int
        C: labels are whole numbers from 0 to C - 1.
    ignore_label : float or None
        The one other value allowed with `use_ignore`; such samples do not count.
    use_ignore : bool

    Attributes
    ----------
    classes : numpy.ndarray of intp, shape (N,)
        The class of each sample; 0 for one that does not count.
    ignored : numpy.ndarray of bool, shape (N,), or None
        Which samples do not count; None where all do.
    count : int
        M, the number of samples that count.

    Raises
    ------
    LabelError
        A label is negative, too large, fractional or not a number. The message has the
        first such position, its value and the range.
    """
    __slots__ = ('classes', 'ignored', 'count')

    def __init__(self, labels, num_class, ignore_label=None, use_ignore=True):
        labels = _plain(labels).reshape(-1)
        self.ignored = None
        self.count = labels.size
        classes = labels.astype(np.intp)
        if use_ignore and ignore_label is not None:
            ignored = labels == ignore_label
            if ignored.any():
                classes[ignored] = 0
                self.ignored = ignored
                self.count -= int(np.count_nonzero(ignored))
        self.classes = classes
        if self.count == 0:
            return
        # As unsigned numbers the negative ones are the largest: one comparison for both ends.
        good = classes.view(np.uintp) < num_class
        if labels.dtype.kind == 'f':
            good &= classes == labels
        if self.ignored is not None:
            good |= self.ignored
        if np.count_nonzero(good) == good.size:
            return
        self._complain(labels, num_class, ignore_label, use_ignore)

    def _complain(self, labels, num_class, ignore_label, use_ignore):
        good = (labels >= 0) & (labels < num_class) & (labels == np.floor(labels))
        if self.ignored is not None:
            good |= self.ignored
        first = int(np.argmin(good))
        allowed = 'a whole number from 0 to %d (%d classes)' % (num_class - 1, num_class)
        hint = ''
        if ignore_label is not None and use_ignore:
            allowed += ', or ignore_label=%g' % ignore_label
        elif labels[first] == ignore_label:
            hint = '. To leave samples of this label out, set use_ignore=True'
        raise LabelError('label[%d] is %s, but a label must be %s; %d of the %d labels of this '
                         'batch are not%s' % (first, labels[first], allowed,
                                              np.count_nonzero(~good), good.size, hint))

    def groups(self, leave_out=None):
        """The samples that count, by class.

        Parameters
        ----------
        leave_out : numpy.ndarray of bool, shape (N,), or None
            More samples that do not count.

        Returns
        -------
        Groups
        """
        out = self.ignored
        if leave_out is not None:
            out = leave_out if out is None else out | leave_out
        if out is None:
            order = self.classes.argsort(kind='stable')
        else:
            rows = np.flatnonzero(~out)
            order = rows[self.classes[rows].argsort(kind='stable')]
        return Groups(order, self.classes[order])


class Groups:
    """Rows of a batch, sorted by class and in the order of the batch within one.

    Attributes
    ----------
    order : numpy.ndarray of intp, shape (M,)
        The rows, sorted by class.
    starts : numpy.ndarray of intp, shape (U,)
        Where in `order` each class begins.
    classes : numpy.ndarray of intp, shape (U,)
        The classes that occur, ascending.
    counts : numpy.ndarray of intp, shape (U,)
        n_j, how often each occurs.
    """
    __slots__ = ('order', 'starts', 'classes', 'counts')

    def __init__(self, order, sorted_classes):
        self.order = order
        size = order.size
        differs = sorted_classes[1:] != sorted_classes[:-1]
        # Where each class begins, and after the last one, where it ends.
        bounds = np.empty(np.count_nonzero(differs) + 1 + bool(size), np.intp)
        bounds[0] = 0
        bounds[1:-1] = differs.nonzero()[0]
        bounds[1:-1] += 1
        bounds[-1] = size
        self.starts = bounds[:-1]
        self.classes = sorted_classes[self.starts]
        self.counts = bounds[1:] - self.starts

    @property
    def unique(self):
        """Whether no class occurs twice."""
        return self.starts.size == self.order.size

    def heads(self):
        """The first row of each class, (U,)."""
        return self.order[self.starts]

    def repeated(self):
        """The classes that occur more than once.

        Returns
        -------
        which : numpy.ndarray of intp
            Their positions in `classes`.
        members : numpy.ndarray of intp, shape (K,)
            Their rows, sorted by class.
        starts : numpy.ndarray of intp
            Where in `members` each of them begins.
        """
        which = (self.counts > 1).nonzero()[0]
        counts = self.counts[which]
        starts = counts.cumsum() - counts
        spread = np.repeat(self.starts[which] - starts, counts)
        return which, self.order[spread + np.arange(spread.size)], starts

    def folds(self):
        """Steps that add up the `members` of :meth:`repeated` into the first of each class.

        Yields
        ------
        (into, source) : pair of numpy.ndarray of intp
            Positions in `members`, ⌈log2(max n_j)⌉ pairs in all. Within a pair no position
            is listed twice, so that it is one gather, one addition and one scatter on any
            device. The order is fixed: a sum has the same bits every time.
        """
        counts = self.counts[self.counts > 1]
        rank = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        left = np.repeat(counts, counts) - rank
        position = np.arange(rank.size)
        stride = 1
        while True:
            leads = (rank % (2 * stride) == 0).nonzero()[0]
            position, rank, left = position[leads], rank[leads], left[leads]
            into = position[left > stride]
            if not into.size:
                return
            yield into, into + stride
            stride *= 2
