"""What the operator is compared with: the same step, done otherwise.

Each function makes a step for a batch of N features of size d and C classes: a callable
without arguments that runs forward, backward and update, and waits for them.
"""
from center_loss_op._operator import native

import mxnet as mx
import numpy as np

try:
    import torch
    torch.set_num_threads(1)  # faster than two, at these sizes
except ImportError:
    torch = None

ALPHA = 0.5


def batch(size, features, classes):
    """Features and labels, the same for every alternative."""
    random = np.random.RandomState(0)
    return (random.randn(size, features).astype(np.float32),
            random.randint(0, classes, size).astype(np.float32))


def bound(op_type):
    """An operator in a bound graph."""
    def make(size, features, classes):
        node = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type=op_type,
                             num_class=classes, alpha=ALPHA)
        executor = node.simple_bind(mx.cpu(), data=(size, features), label=(size,),
                                    grad_req={'data': 'write', 'label': 'null'})
        data, label = batch(size, features, classes)
        executor.arg_dict['data'][:] = data
        executor.arg_dict['label'][:] = label

        def step():
            executor.forward(is_train=True)
            executor.backward()
            mx.nd.waitall()
        return step
    return make


def recorded(loss, data, label):
    """A step of a loss under autograd."""
    data, label = mx.nd.array(data), mx.nd.array(label)
    data.attach_grad()

    def step():
        with mx.autograd.record():
            value = loss(data, label)
        value.backward()
        mx.nd.waitall()
    return step


def natively(make, on=True):
    """What `make` makes, its operator in C or in Python; None where there is none in C."""
    if on and not native.running():
        return None

    def made(*shape):
        with native.switched(on):
            return make(*shape)
    return made


class _Empty(mx.operator.CustomOp):
    """MXNet's own cost of a custom operator in Python: it does nothing."""

    def forward(self, is_train, req, in_data, out_data, aux):
        pass

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        pass


@mx.operator.register('benchmark_empty')
class _EmptyProp(mx.operator.CustomOpProp):
    def __init__(self, num_class, alpha):
        super().__init__(need_top_grad=False)
        self.num_class = int(num_class)

    def list_arguments(self):
        return ['data', 'label']

    def list_auxiliary_states(self):
        return ['center_bias']

    def infer_shape(self, in_shape):
        data, _ = in_shape
        return [data, data[:1]], [(1,)], [(self.num_class, data[1])]

    def create_operator(self, ctx, in_shapes, in_dtypes):
        return _Empty()


def _pytorch(size, features, classes):
    """Autograd for the gradient. Every sample, weighted by its class's share, is added straight to
    its center: that is faster than to add up the classes first, as equation 4 is written."""
    data, label = map(torch.tensor, batch(size, features, classes))
    data.requires_grad, label = True, label.long()
    centers = torch.zeros(classes, features)
    # The counts are kept from step to step, so that nothing of the size of C is made.
    counts, ones = torch.zeros(classes), torch.ones(size)

    def step():
        data.grad = None
        difference = data - centers.index_select(0, label)
        loss = (difference * difference).sum() / (2 * size)
        loss.backward()
        with torch.no_grad():
            counts.index_add_(0, label, ones)
            weights = ALPHA / (1 + counts.index_select(0, label))
            counts.index_fill_(0, label, 0)
            centers.index_add_(0, label, difference * weights[:, None])
    return step


pytorch = torch and _pytorch    # None where it is missing
