"""What center loss costs: `python -m benchmarks`."""
import os
import sys

import center_loss_op  # before mxnet, for newer NumPys

# The scripts that are timed.
_EXAMPLES = os.path.join(os.path.dirname(__file__), '..', 'examples')
sys.path[:0] = [_EXAMPLES, os.path.join(_EXAMPLES, 'recognizer')]
