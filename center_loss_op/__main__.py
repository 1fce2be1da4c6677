"""The text for a bug report: ``python -m center_loss_op``."""
import os
import platform
import sys

import mxnet as mx
import numpy as np

from . import __version__
from ._mxnet import CHANGES, done
from ._mxnet.compat import MXNET
from ._operator import native
from .gluon import CenterLoss


def report():
    """The environment, what a user should change in it, and what the package has changed: lines."""
    features = [feature.name for feature in mx.runtime.feature_list() if feature.enabled]
    variables = ['%s=%s' % item for item in sorted(os.environ.items())
                 if item[0].startswith(('MXNET_', 'DMLC_', 'OMP_', 'KMP_'))]
    to_change = 'nothing'
    if mx.__version__ != MXNET:
        to_change = f'MXNet {mx.__version__} is not the tested release: pip install mxnet=={MXNET}'
    yield f'center_loss_op  {__version__} in {os.path.dirname(__file__)}'
    yield f'Python          {platform.python_version()} in {sys.executable}'
    yield f'NumPy           {np.__version__} in {os.path.dirname(np.__file__)}'
    yield f'MXNet           {mx.__version__} in {os.path.dirname(mx.__file__)}'
    yield f'MXNet has       {", ".join(features)}'
    yield f'GPUs            {mx.context.num_gpus()}'
    yield f'platform        {platform.platform()}, {os.cpu_count()} processors'
    yield f'environment     {" ".join(variables) or "no variable set"}'
    yield f'a step is       {trained_step()}'
    yield f'a step runs in  {native.which()}'
    yield f'to change       {to_change}'
    yield ''
    yield 'The package changes:'
    for change in CHANGES:
        when = f'import: {done(change) or "not needed here"}' if change.function else change.when
        yield f'- {change.what} ({when})'
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
    value, gradient, centers = (array.asnumpy().round(5).tolist()
                                for array in (value, embedding.grad, loss.centers.data()))
    # ½ ‖x‖²; x; and half the sum of both over 1 + 2.
    if (value, gradient, centers) == ([10, 40], [[2, 4], [4, 8]], [[0, 0], [1, 2]]):
        return 'right'
    return f'WRONG: loss {value}, gradient {gradient}, centers {centers}'


if __name__ == '__main__':
    print('\n'.join(report()))
