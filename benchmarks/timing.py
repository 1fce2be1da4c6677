"""Times of things that run in turns in one process."""
import time

import numpy as np

# Steps at the start of a turn that do not count: caches fill, and the threads of the
# one before, which spin for a while, come to rest.
WARM_UP = 8


def times(things, turns, burst):
    """The seconds of each step, {name: [seconds]}, of things, {name: callable}, which run in turns
    of `burst` steps."""
    taken = {name: [] for name in things}
    for _ in range(turns):
        for name, thing in things.items():
            for step in range(WARM_UP + burst):
                start = time.perf_counter()
                thing()
                if step >= WARM_UP:
                    taken[name].append(time.perf_counter() - start)
    return taken


def medians(things, turns, burst):
    """The medians of :func:`times`: dict of str to float."""
    return {name: float(np.median(taken)) for name, taken in times(things, turns, burst).items()}


def table(head, rows):
    """Print rows of text, columns aligned."""
    rows = [head] + rows
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print('  '.join([row[0].ljust(widths[0])]
                        + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]))
