"""Center loss the slow way: equations 2, 4 and 5 in float64, one sample at a time.

What every test compares with. Nothing here is taken from the package.
"""
import collections

import numpy as np

Expected = collections.namedtuple('Expected', 'loss grad centers')


def center_loss(data, label, centers, alpha=0.5, scale=1.0, reduction='mean', ignore_label=None,
                head=None):
    """One training step.

    Parameters
    ----------
    data, label, centers : numpy.ndarray
        (N, d), (N,) or (N, 1), (C, d).
    ignore_label : number or None
        Samples with this label do not count.
    head : numpy.ndarray or None
        The gradient of the loss, (1,) or (N,); None for 1.

    Returns
    -------
    Expected
        The loss, (1,) or (N,); the gradient, (N, d); the centers after the update, (C, d).
    """
    data = np.asarray(data, np.float64)
    old = np.asarray(centers, np.float64)
    samples, size = data.shape
    label = np.asarray(label).reshape(samples)
    counted = [i for i in range(samples) if ignore_label is None or label[i] != ignore_label]

    losses = np.zeros(samples)
    for i in counted:
        for k in range(size):
            losses[i] += 0.5 * (data[i, k] - old[int(label[i]), k]) ** 2
    ratio = 1.0 / max(len(counted), 1) if reduction == 'mean' else 1.0
    loss = losses if reduction == 'none' else np.array([ratio * losses.sum()])

    grad = np.zeros_like(data)
    for i in counted:
        weight = scale * ratio
        if head is not None:
            weight *= head[i] if reduction == 'none' else head[0]
        grad[i] = weight * (data[i] - old[int(label[i])])

    new = old.copy()
    for j in range(len(old)):
        total, count = np.zeros(size), 0
        for i in counted:
            if label[i] == j and np.isfinite(data[i]).all():
                total += old[j] - data[i]
                count += 1
        if count:
            new[j] = old[j] - alpha * total / (1 + count)
    return Expected(loss, grad, new)


def tolerance(dtype, data, centers, alpha=0.5):
    """How far rounding may move a result of `dtype`: keyword arguments of assert_allclose.

    A difference x − c is off by one rounding of the larger of both; a sum of n numbers by n.
    """
    data, centers = np.asarray(data, np.float64), np.asarray(centers, np.float64)
    accumulated = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    rounding = (data.shape[0] + data.shape[1] + 8) * np.finfo(accumulated).eps
    largest = max(np.abs(data).max(), np.abs(centers).max())
    return {'rtol': rounding + np.finfo(dtype).eps,
            'atol': rounding * max(1.0, alpha) * largest + np.finfo(dtype).tiny}
