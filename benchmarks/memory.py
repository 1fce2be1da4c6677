"""memory: growth of the process over 200 steps at C = 1,000,000, d = 128; MiB"""
import os
import resource

import numpy as np

from .alternatives import bound
from .timing import table

SIZE, FEATURES, CLASSES, STEPS, WARM_UP = 512, 128, 1000000, 200, 20


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(quick):
    """Print the table."""
    step = bound('centerloss')(SIZE, FEATURES, CLASSES)
    for _ in range(WARM_UP):
        step()
    # The peak so far may lie above what is in use: fill up to it, so that a growth shows.
    with open('/proc/self/statm', encoding='ascii') as file:
        in_use = int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    ballast = np.ones(max(0, _peak() - in_use), np.uint8)
    before = _peak()
    for _ in range(STEPS - WARM_UP):
        step()
    growth = _peak() - before
    del ballast
    figures = {'the centers': 4 * CLASSES * FEATURES / 2 ** 20,
               'a batch': 4 * SIZE * FEATURES / 2 ** 20,
               f'steps {WARM_UP + 1}-{STEPS}': growth / 2 ** 20}
    table(list(figures), [[f'{value:.1f}' for value in figures.values()]])
