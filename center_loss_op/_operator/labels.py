"""Checks the labels of a batch: with NumPy, on whatever device the features are."""
import numpy as np

BFLOAT16 = np.dtype([('bfloat16', np.uint16)])


class LabelError(ValueError):
    """A label is not the number of a class.

    Within MXNet it becomes an `MXNetError`, raised when a result is read. Catch that one; the text
    of this one is in the log (`center_loss_op`).
    """


def largest_exact(dtype):
    """The largest n for which a floating `dtype` holds all of 0 … n; None for other types."""
    dtype = np.dtype(dtype)
    if dtype == BFLOAT16:
        return 2 ** 8
    return 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == 'f' else None


class Batch:
    """The checked labels of one batch: shape (N,) or (N, 1), any real type.

    A label is a whole number from 0 to num_class − 1 or, with `use_ignore`, `ignore_label`; else a
    LabelError names the first that is not.
    """

    def __init__(self, labels, num_class, use_ignore=False, ignore_label=-1):
        if labels.dtype == BFLOAT16:    # which NumPy does not know
            labels = (labels.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        labels = labels.reshape(-1)
        # The class of each sample, (N,); 0 for one that does not count.
        self.classes = classes = labels.astype(np.intp)
        self.ignored = None             # which samples do not count, (N,); None if all do
        self.count = labels.size        # M, how many count
        if use_ignore:
            ignored = labels == ignore_label
            if ignored.any():
                if labels.dtype.kind == 'f':
                    # NumPy 2 compares in the type of the labels, in which ignore_label may be inf.
                    ignored &= np.isfinite(labels)
                classes[ignored] = 0
                self.ignored = ignored
                self.count -= int(np.count_nonzero(ignored))
        # One comparison for both ends: as unsigned numbers, negative ones are the largest.
        good = classes.view(np.uintp) < num_class
        if labels.dtype.kind == 'f':
            good &= classes == labels
        if self.ignored is not None:
            good |= self.ignored
        if not good.all():
            first, hint = int(np.argmin(good)), ''
            allowed = f'a whole number from 0 to {num_class - 1} ({num_class} classes)'
            if use_ignore:
                allowed += f', or ignore_label={ignore_label:g}'
            elif labels[first] == ignore_label:
                hint = '. To leave samples of this label out, set use_ignore=True'
            raise LabelError(f'label[{first}] is {labels[first]!s}, but a label must be {allowed}; '
                             f'{np.count_nonzero(~good)} of the {good.size} labels of this batch '
                             f'are not{hint}')

    def counted(self, finite=None):
        """The positions of the samples that count, and are `finite`; None for all."""
        if self.ignored is not None:
            finite = ~self.ignored if finite is None else finite & ~self.ignored
        return None if finite is None else finite.nonzero()[0]
