"""The text for a bug report: ``python -m center_loss_op``."""
import os
import platform
import sys

import mxnet as mx
import numpy as np

from . import __version__
from ._mxnet import CHANGES, done
from ._mxnet.compat import MXNET as TESTED_MXNET
from ._operator import native
from .gluon import CenterLoss


def report():
    """The environment, what a user should change in it, and what the package has changed: lines."""
    features = [feature.name for feature in mx.runtime.feature_list() if feature.enabled]
    variables = ['%s=%s' % item for item in sorted(os.environ.items())
                 if item[0].startswith(('MXNET_', 'DMLC_', 'OMP_', 'KMP_'))]
    yield 'center_loss_op  %s in %s' % (__version__, os.path.dirname(__file__))
    yield 'Python          %s in %s' % (platform.python_version(), sys.executable)
    yield 'NumPy           %s in %s' % (np.__version__, os.path.dirname(np.__file__))
    yield 'MXNet           %s in %s' % (mx.__version__, os.path.dirname(mx.__file__))
    yield 'MXNet has       %s' % ', '.join(features)
    yield 'GPUs            %d' % mx.context.num_gpus()
    yield f'platform        {platform.platform()}, {os.cpu_count()} processors'
    yield 'environment     %s' % (' '.join(variables) or 'no variable set')
    yield 'a step is       %s' % trained_step()
    yield 'a step runs in  %s' % native.which()
    yield 'to change       %s' % (
        'nothing' if mx.__version__ == TESTED_MXNET else
        'MXNet %s is not the tested release: pip install mxnet==%s' % (mx.__version__,
                                                                      TESTED_MXNET))
    yield from changes()


def changes():
    """What the package changes in MXNet, Python, NumPy or the process, and why: lines."""
    yield ''
    yield 'Changed by the import:'
    for change in CHANGES:
        if change.function and done(change) is not None:
            yield f'- {change.what} ({done(change)})'
            yield from _reason(change)
    yield 'Not needed here:'
    yield from (f'- {change.what}' for change in CHANGES
                if change.function and done(change) is None)
    yield 'Changed when the program uses them:'
    for change in CHANGES:
        if not change.function:
            yield f'- {change.when}: {change.what}'
            yield from _reason(change)


def _reason(change):
    yield f'    prevents: {change.prevents}'
    yield f'    test:     {change.test}'


def trained_step():
    """Whether a training step computes the right results here."""
    loss = CenterLoss(classes=2)
    loss.initialize(mx.init.Zero())
    embedding, label = mx.nd.array([[2, 4], [4, 8]]), mx.nd.array([1, 1])
    embedding.attach_grad()
    with mx.autograd.record():
        value = loss(embedding, label)
    value.backward()
    centers = loss.centers.data().asnumpy()
    # ½ ‖x‖²; x; and half the sum of both over 1 + 2.
    right = (value.asnumpy().tolist() == [10, 40]
             and embedding.grad.asnumpy().tolist() == [[2, 4], [4, 8]]
             and np.allclose(centers, [[0, 0], [1, 2]]))
    if right:
        return 'right'
    value, gradient = value.asnumpy(), embedding.grad.asnumpy()
    return (f'WRONG: loss {value.tolist()}, gradient {gradient.tolist()}, '
            f'centers {centers.tolist()}')


if __name__ == '__main__':
    print('\n'.join(report()))
