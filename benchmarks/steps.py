"""operator: one training step (forward, backward, update, wait) in a bound graph; ms, median"""
from .alternatives import bound, natively, pytorch
from .timing import medians, table

SHAPES = [(128, 2, 10), (256, 512, 10575), (512, 512, 85742), (512, 512, 1000000)]

# What each column is, and what makes its step; None where that is missing here.
COLUMNS = {'center_loss_op, C': natively(bound('centerloss')),
           'center_loss_op, Python': natively(bound('centerloss'), False),
           'PyTorch, eager': pytorch,
           'an empty operator in Python': bound('benchmark_empty')}


def run(quick):
    """Print the table."""
    makers = {name: make for name, make in COLUMNS.items() if make}
    rows = []
    for shape in SHAPES:
        steps = {name: make(*shape) for name, make in makers.items()}
        taken = medians(steps, *(6, 10) if quick else (30, 25))
        rows.append(['%d x %d, %d' % shape, *(f'{1e3 * taken[name]:.3f}' for name in makers)])
    table(['N x d, C', *makers], rows)
    if not pytorch:
        print('PyTorch is not installed: its column is left out (pip install torch)')
