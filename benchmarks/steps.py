"""operator: one training step (forward, backward, update, wait); ms, median (10th percentile)"""
import numpy as np

from .alternatives import PYTORCH, block, bound, eager, natively
from .timing import table, times

SHAPES = [(128, 2, 10), (256, 512, 10575), (512, 512, 85742), (512, 512, 10000),
          (512, 512, 1000000), (512, 512, 10)]
EAGER_SHAPES = [(128, 2, 10), (512, 512, 85742)]

# What each column is, and what makes its step; None where that is missing here.
BOUND = {'native': natively(bound('centerloss')),
         'Python': natively(bound('centerloss'), False),
         'empty': bound('benchmark_empty'), **PYTORCH}
EAGER = {'native': natively(eager('centerloss')),
         'Python': natively(eager('centerloss'), False),
         'empty': eager('benchmark_empty'),
         'block, native': natively(block), 'block, Python': natively(block, False)}


def _measure(makers, shapes, quick):
    rows = []
    for shape in shapes:
        steps = {name: make(*shape) for name, make in makers.items() if make}
        rows.append({'shape': shape, **{
            name: list(np.percentile(taken, [50, 10]))
            for name, taken in times(steps, *(6, 10) if quick else (30, 25)).items()}})
    return rows


def _show(title, rows, cell):
    names = list(rows[0])[1:]
    print(title)
    table(['N x d, C', *names], [['%d x %d, %d' % row['shape']] + [
        '%.3f (%.3f)' % tuple(cell(row, name)) for name in names] for row in rows])


def run(quick):
    """Print the tables; return their figures in seconds, a dict per row."""
    def milliseconds(row, name):
        return [1e3 * seconds for seconds in row[name]]

    def share(row, name):
        return [a / b for a, b in zip(row[mine], row[name])]

    rows, eager_rows = (_measure(makers, shapes, quick) for makers, shapes in (
        (BOUND, SHAPES), (EAGER, EAGER_SHAPES)))
    mine = list(rows[0])[1]  # native, where it was built
    _show('a bound graph', rows, milliseconds)
    _show(f'\n{mine}, as a share of the others', rows, share)
    if not PYTORCH:
        print('PyTorch is not installed: its columns are left out (pip install torch)')
    _show('\nmx.nd.Custom under autograd, and the Gluon block, not hybridized', eager_rows,
          milliseconds)
    return {'bound': rows, 'eager': eager_rows}
