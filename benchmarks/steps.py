"""operator: one training step (forward, backward, update, wait); ms, median (10th percentile)"""
import numpy as np

from . import alternatives
from .timing import table, times

SHAPES = [(128, 2, 10), (256, 512, 10575), (512, 512, 85742), (512, 512, 10000),
          (512, 512, 1000000), (512, 512, 10)]
EAGER_SHAPES = [(128, 2, 10), (512, 512, 85742)]
# At the others a step of it takes up to seconds.
NAIVE = {(128, 2, 10), (256, 512, 10575)}

# What each column is, and what makes its step; None where that is missing here.
BOUND = {
    'native': alternatives.natively(alternatives.ours),
    'Python': alternatives.natively(alternatives.ours, False),
    'empty native': alternatives.empty_native,
    'empty Python': alternatives.empty,
    'PyTorch by class': alternatives.torch and alternatives.pytorch_by_class,
    'by sample': alternatives.torch and alternatives.pytorch_by_sample,
    'by hand': alternatives.torch and alternatives.pytorch_by_hand,
    'naive': alternatives.naive,
    'copy of 4Nd': alternatives.copy,
}
EAGER = {
    'native': alternatives.natively(alternatives.ours_eager),
    'Python': alternatives.natively(alternatives.ours_eager, False),
    'empty native': alternatives.empty_native_eager,
    'empty Python': alternatives.empty_eager,
    'block, native': alternatives.natively(alternatives.gluon),
    'block, Python': alternatives.natively(alternatives.gluon, False),
}


def _measure(makers, shapes, quick):
    turns, burst = (6, 10) if quick else (30, 25)
    rows = []
    for shape in shapes:
        things = {name: make(*shape) for name, make in makers.items()
                  if make and (name != 'naive' or shape in NAIVE)}
        if 'naive' in things:
            things['naive'] = things['naive'], 2 if quick else 10
        rows.append({'shape': shape, **{name: list(np.percentile(taken, [50, 10])) for name, taken
                                        in times(things, turns, burst).items()}})
    return rows


def _show(title, rows, names, cell):
    print(title)
    table(['N x d, C', *names],
          [['%d x %d, %d' % row['shape']] + [cell(row, name) if name in row else ''
                                            for name in names] for row in rows])


def _time(row, name):
    return '%.3f (%.3f)' % tuple(1e3 * seconds for seconds in row[name])


def run(quick):
    """Print the tables; return their figures in seconds, a dict a row."""
    rows = _measure(BOUND, SHAPES, quick)
    names = [name for name in BOUND if name in rows[0]]
    mine = names[0]  # native, where it was built

    def share(row, name):
        return '%.3g (%.3g)' % tuple(a / b for a, b in zip(row[mine], row[name]))

    _show('a bound graph', rows, names, _time)
    _show('\n%s, as a share of the others' % mine, rows, names[1:], share)
    if not alternatives.torch:
        print('PyTorch is not installed: its columns are left out (pip install torch)')
    steps = {row['shape']: row[mine] for row in rows}
    print('C = 1,000,000 against C = 10,000 at 512 x 512: %.2f (%.2f)' % tuple(
        a / b for a, b in zip(steps[512, 512, 1000000], steps[512, 512, 10000])))
    eager = _measure(EAGER, EAGER_SHAPES, quick)
    names = [name for name in EAGER if name in eager[0]]
    _show('\nmx.nd.Custom under autograd, and the Gluon block, not hybridized', eager, names, _time)
    return {'bound': rows, 'eager': eager}
