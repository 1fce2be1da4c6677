"""What the operator is compared with: the same step, done otherwise.

Each function makes a step for a batch of N features of size d and C classes: a callable
without arguments that runs forward, backward and update, and waits for them.
"""
import ctypes
import subprocess
import tempfile
from pathlib import Path

from center_loss_op._operator import native
from center_loss_op.gluon import CenterLoss

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

ALPHA = 0.5


def batch(size, features, classes):
    """Features and labels, the same for every alternative."""
    random = np.random.RandomState(0)
    return (random.randn(size, features).astype(np.float32),
            random.randint(0, classes, size).astype(np.float32))


def _custom(op_type):
    def make(size, features, classes):
        node = mx.sym.Custom(mx.sym.Variable('data'), mx.sym.Variable('label'), op_type=op_type,
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


def _custom_eager(op_type):
    """An operator made anew for each step, as `mx.nd.Custom` under autograd does."""
    def make(size, features, classes):
        data, label = map(mx.nd.array, batch(size, features, classes))
        centers = mx.nd.zeros((classes, features))
        data.attach_grad()

        def step():
            with mx.autograd.record():
                loss = mx.nd.Custom(data, label, centers, op_type=op_type, num_class=classes,
                                    alpha=ALPHA)
            loss.backward()
            mx.nd.waitall()
        return step
    return make


def gluon(size, features, classes):
    """The block, not hybridized."""
    data, label = map(mx.nd.array, batch(size, features, classes))
    loss = CenterLoss(classes, in_units=features, alpha=ALPHA)
    loss.initialize()
    data.attach_grad()

    def step():
        with mx.autograd.record():
            value = loss(data, label)
        value.backward()
        mx.nd.waitall()
    return step


def natively(make, on=True):
    """What `make` makes, its operators in C or in Python; None where there are none in C."""
    if on and not native.running():
        return None

    def made(*shape):
        with native.switched(on):
            step = make(*shape)

        def switched_step():
            with native.switched(on):  # for operators that are made in a step
                step()
        return switched_step
    return made


def _build_empty():
    """The empty operator in C: whether it could be built."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / 'empty.so'
        try:
            subprocess.run(['cc', '-O2', '-shared', '-fPIC', '-o', str(library),
                            str(Path(__file__).with_name('empty.c'))], check=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        functions = ctypes.CDLL(str(library))
    functions.init(ctypes.cast(_LIB.MXNDArrayFree, ctypes.c_void_p))
    check_call(_LIB.MXCustomOpRegister(b'benchmark_empty_native', functions.creator))
    return True


class _Prop(mx.operator.CustomOpProp):
    operator = None

    def __init__(self, num_class, alpha):
        super().__init__(need_top_grad=False)
        self.num_class = int(num_class)
        self.alpha = float(alpha)

    def list_arguments(self):
        return ['data', 'label']

    def list_auxiliary_states(self):
        return ['center_bias']

    def infer_shape(self, in_shape):
        data, _ = in_shape
        return [data, data[:1]], [(1,)], [(self.num_class, data[1])]

    def create_operator(self, ctx, in_shapes, in_dtypes):
        return self.operator(self.alpha)


class _Empty(mx.operator.CustomOp):
    """MXNet's own cost of a custom operator: the floor."""

    def __init__(self, alpha):
        super().__init__()

    def forward(self, is_train, req, in_data, out_data, aux):
        pass

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        pass


class _Naive(mx.operator.CustomOp):
    """A loop over the samples, and one over the classes, with NDArray operators."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha
        self.difference = None

    def forward(self, is_train, req, in_data, out_data, aux):
        data, centers = in_data[0], aux[0]
        labels = in_data[1].asnumpy().astype(int)
        self.difference = mx.nd.zeros(data.shape)
        for i, label in enumerate(labels):
            self.difference[i] = data[i] - centers[label]
        self.assign(out_data[0], req[0], mx.nd.square(self.difference).sum() / 2 / len(labels))

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        centers = aux[0]
        labels = in_data[1].asnumpy().astype(int)
        self.assign(in_grad[0], req[0], self.difference / len(labels))
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            total = mx.nd.zeros(centers.shape[1:])
            for i in mine:
                total += self.difference[i]
            centers[label] += self.alpha * total / (1 + len(mine))


@mx.operator.register('benchmark_empty')
class _EmptyProp(_Prop):
    operator = _Empty


@mx.operator.register('benchmark_naive')
class _NaiveProp(_Prop):
    operator = _Naive


ours = _custom('centerloss')
empty = _custom('benchmark_empty')
naive = _custom('benchmark_naive')
ours_eager = _custom_eager('centerloss')
empty_eager = _custom_eager('benchmark_empty')
empty_native = empty_native_eager = None
if _build_empty():
    empty_native = _custom('benchmark_empty_native')
    empty_native_eager = _custom_eager('benchmark_empty_native')


def copy(size, features, classes):
    """Moving 4 N d floats: features in, gradient out, centers in and out."""
    source, target = (np.zeros((4, size, features), np.float32) for _ in range(2))
    return lambda: np.copyto(target, source)


try:
    import torch
    torch.set_num_threads(1)  # faster than two, at these sizes
except ImportError:
    torch = None


def _pytorch(update):
    """Autograd for the gradient, and an update of the centers."""
    def make(size, features, classes):
        data, label = batch(size, features, classes)
        data = torch.tensor(data, requires_grad=True)
        label = torch.tensor(label.astype(np.int64))
        centers = torch.zeros(classes, features)
        state = torch.zeros(classes), torch.ones(size)

        def step():
            data.grad = None
            difference = data - centers.index_select(0, label)
            loss = (difference * difference).sum() / (2 * size)
            loss.backward()
            with torch.no_grad():
                update(centers, label, difference, *state)
        return step
    return make


def _by_class(centers, label, difference, counts, ones):
    present, index, counts = torch.unique(label, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(present), difference.shape[1]).index_add_(0, index, difference)
    centers.index_add_(0, present, sums * (ALPHA / (1 + counts))[:, None])


def _by_sample(centers, label, difference, counts, ones):
    counts.index_add_(0, label, ones)
    weights = ALPHA / (1 + counts.index_select(0, label))
    counts.index_fill_(0, label, 0)
    centers.index_add_(0, label, difference * weights[:, None])


def pytorch_by_hand(size, features, classes):
    """The same as "by sample", the gradient by its formula: no autograd, so no net before it."""
    data, label = batch(size, features, classes)
    data, label = torch.tensor(data), torch.tensor(label.astype(np.int64))
    centers, counts, ones = torch.zeros(classes, features), torch.zeros(classes), torch.ones(size)

    @torch.no_grad()
    def step():
        difference = data - centers.index_select(0, label)
        loss = (difference * difference).sum() / (2 * size)
        grad = difference / size
        _by_sample(centers, label, difference, counts, ones)
        return loss, grad
    return step


# As equation 4 is written: the sums of the classes, then their means.
pytorch_by_class = _pytorch(_by_class)
# Faster: every sample weighted by its class's share, and added straight to the centers. The counts
# are kept from step to step, so that nothing of the size of C is made.
pytorch_by_sample = _pytorch(_by_sample)
