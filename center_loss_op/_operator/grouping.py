"""The samples of a batch grouped by class, and the order in which each class is summed."""
import numpy as np

__all__ = ['Groups']


class Groups:
    """Rows of a batch, sorted by class; rows of one class are in the order of the batch.

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
        # Where each class begins, and, in the last element, where the last class ends.
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

    def first_rows(self):
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

    def pairwise_sums(self):
        """How to sum the `members` of :meth:`repeated` by pairs, into the first one of each class.

        Yields
        ------
        (into, source) : pair of numpy.ndarray of intp
            Positions in `members`: add the rows at `source` to those at `into`. There are
            ⌈log2(max n_j)⌉ such pairs. No position occurs twice in a pair, so that a device needs
            one gather, one addition and one scatter. The order is fixed, so that a sum has the
            same bits every time.
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
