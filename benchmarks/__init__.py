"""What center loss costs: `python -m benchmarks`."""
import os
import sys

import center_loss_op  # before mxnet, for newer NumPys

# The networks and scripts that are timed.
_ROOT = os.path.join(os.path.dirname(__file__), '..')
sys.path[:0] = [os.path.join(_ROOT, folder) for folder in ('examples', 'experiments')]
