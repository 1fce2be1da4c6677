"""What center loss costs: `python -m benchmarks`."""
import os
import sys

import center_loss_op  # before mxnet, for newer NumPys

# The scripts that are timed.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'examples'))
