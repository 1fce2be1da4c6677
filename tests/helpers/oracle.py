"""Center loss computed naively: equations 2, 4 and 5 in float64, one sample at a time.

The tests compare the package with it. It uses nothing of the package. It takes the operator's
arguments by their names, so that a new argument fails here until its formula is written down.
"""
import collections

import numpy as np

Expected = collections.namedtuple('Expected', 'loss grad centers')


def center_loss(data, label, centers, head=None, *, num_class=None, alpha=0.5, scale=1.0,
                reduction='mean', use_ignore=False, ignore_label=-1, need_top_grad=False,
                scale_output=False):
    """One training step.

    Parameters
    ----------
    data, label, centers : numpy.ndarray
        (N, d), (N,) or (N, 1), (C, d).
    head : numpy.ndarray or None
        The gradient of the loss, (1,) or (N,), which counts with `need_top_grad`; None for 1.

    Returns
    -------
    Expected
        The loss, (1,) or (N,); the gradient, (N, d); the centers after the update, (C, d).
    """
    data = np.asarray(data, np.float64)
    old = np.asarray(centers, np.float64)
    samples = len(data)
    label = np.asarray(label).reshape(samples)
    counted = [i for i in range(samples) if not use_ignore or label[i] != ignore_label]

    ratio = 1.0 / max(len(counted), 1) if reduction == 'mean' else 1.0
    losses, grad = np.zeros(samples), np.zeros_like(data)
    total, count = np.zeros_like(old), np.zeros(len(old))   # Σ (c_j − x_i) and n_j of each class
    for i in counted:
        j = int(label[i])
        difference = data[i] - old[j]
        losses[i] = 0.5 * (difference ** 2).sum()
        weight = scale * ratio
        if head is not None and need_top_grad:
            weight *= head[i] if reduction == 'none' else head[0]
        grad[i] = weight * difference
        if np.isfinite(data[i]).all():
            total[j] -= difference
            count[j] += 1
    loss = losses if reduction == 'none' else np.array([ratio * losses.sum()])
    if scale_output:
        loss = scale * loss

    new = old.copy()
    for j in range(len(old)):
        if count[j]:
            new[j] = old[j] - alpha * total[j] / (1 + count[j])
    return Expected(loss, grad, new)


def tolerance(dtype, data, centers, alpha=0.5):
    """How far rounding may move a result of `dtype`: keyword arguments of assert_allclose.

    A difference x − c is off by one rounding of the larger of both; a sum of n numbers by n.
    """
    data, centers = np.asarray(data, np.float64), np.asarray(centers, np.float64)
    accumulated = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    rounding = (data.shape[0] + data.shape[1] + 8) * np.finfo(accumulated).eps
    largest = max((np.abs(part[np.isfinite(part)]).max(initial=0) for part in (data, centers)))
    return {'rtol': rounding + np.finfo(dtype).eps,
            'atol': rounding * max(1.0, alpha) * largest + np.finfo(dtype).tiny}
