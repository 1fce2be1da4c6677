"""operator: one training step (forward, backward, update, wait); milliseconds, median"""
from . import alternatives
from .timing import medians, table

SHAPES = [(128, 2, 10), (256, 512, 10575), (512, 512, 85742), (512, 512, 10000),
          (512, 512, 1000000), (512, 512, 10)]
# At the others a step of it takes up to seconds.
NAIVE = {(128, 2, 10), (256, 512, 10575)}


def run(quick):
    """Print the table; return its figures in seconds, a dict a row."""
    turns, burst = (6, 10) if quick else (30, 25)
    rows = []
    for shape in SHAPES:
        things = {'ours': alternatives.ours(*shape), 'empty': alternatives.empty(*shape),
                  'copy': alternatives.copy(*shape)}
        if alternatives.torch:
            things['pytorch by class'] = alternatives.pytorch_by_class(*shape)
            things['pytorch by sample'] = alternatives.pytorch_by_sample(*shape)
        if shape in NAIVE:
            things['naive'] = alternatives.naive(*shape), 2 if quick else 10
        rows.append({'shape': shape, **medians(things, turns, burst)})

    def cell(row, name):
        return '%.3f' % (row[name] * 1e3) if name in row else ''

    def ratio(row, name):
        return '%.3g' % (row['ours'] / row[name]) if name in row else ''

    names = ('ours', 'empty', 'pytorch by class', 'pytorch by sample', 'naive', 'copy')
    table(['N x d, C', 'ours', 'empty CustomOp', 'PyTorch by class', 'by sample', 'naive',
           'copy of 4Nd'],
          [['%d x %d, %d' % row['shape']] + [cell(row, name) for name in names] for row in rows])
    print('\nours, as a share of the others')
    table(['N x d, C', *names[1:]],
          [['%d x %d, %d' % row['shape']] + [ratio(row, name) for name in names[1:]]
           for row in rows])
    if not alternatives.torch:
        print('PyTorch is not installed: its columns are left out (pip install torch)')
    ours = {row['shape']: row['ours'] for row in rows}
    print('C = 1,000,000 against C = 10,000 at 512 x 512: %.2f'
          % (ours[512, 512, 1000000] / ours[512, 512, 10000]))
    return rows
