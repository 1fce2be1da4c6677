"""What center loss costs: `python -m benchmarks`."""
import center_loss_op  # before mxnet, for newer NumPys
