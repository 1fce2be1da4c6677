"""memory: growth of the process over 200 steps at C = 1,000,000, d = 128; MiB"""
import os
import resource

import mxnet as mx
import numpy as np

from . import alternatives
from .timing import table

SIZE, FEATURES, CLASSES, STEPS, WARM_UP = 512, 128, 1000000, 200, 20


def _resident():
    with open('/proc/self/statm', encoding='ascii') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(quick):
    """Print the table; return its figures in bytes."""
    step = alternatives.ours(SIZE, FEATURES, CLASSES)
    mx.nd.waitall()
    # The peak so far may lie above what is in use: fill up to it, so that a growth shows.
    ballast = np.ones(max(0, _peak() - _resident()), np.uint8)
    before = _peak()
    for _ in range(WARM_UP):
        step()
    warm = _peak()
    for _ in range(STEPS - WARM_UP):
        step()
    after = _peak()
    del ballast
    figures = {'centers': 4 * CLASSES * FEATURES, 'batch': 4 * SIZE * FEATURES,
               'first': warm - before, 'rest': after - warm}
    table(['the centers', 'a batch', 'steps 1-%d' % WARM_UP, 'steps %d-%d' % (WARM_UP + 1, STEPS)],
          [['%.1f' % (figures[name] / 2 ** 20) for name in ('centers', 'batch', 'first', 'rest')]])
    return figures
