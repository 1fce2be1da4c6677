"""Times of things that run in turns in one process."""
import time

import numpy as np

# Steps at the start of a turn that do not count: caches fill, and the threads of the
# one before, which spin for a while, come to rest.
WARM_UP = 8


def medians(things, turns, burst):
    """The median seconds of a step, {name: seconds}, of things, {name: callable}, which run in
    turns of `burst` steps."""
    taken = {name: [] for name in things}
    for _ in range(turns):
        for name, thing in things.items():
            for step in range(WARM_UP + burst):
                start = time.perf_counter()
                thing()
                if step >= WARM_UP:
                    taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def table(head, rows):
    """Print rows of text, columns aligned."""
    rows = [head] + rows
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print('  '.join([row[0].ljust(widths[0])]
                        + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]))
