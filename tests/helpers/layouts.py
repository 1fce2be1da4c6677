"""Steps with arrays in oneDNN's layout, against the oracle: prints a line for each that is wrong.

Features, labels, weights of samples, and the gradient of the loss are views of results of a
convolution, or arrays of the same layout; an inference takes the centers as weights.
"""
import logging
import tempfile
import warnings

from center_loss_op import nearest_center
from center_loss_op.gluon import CenterLoss, CenterTrainer, DecorrelationLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import oracle
from mxnet import autograd, gluon, nd

N, D, C = 16, 32, 16
UNITS = {'kernel': (1, 1), 'num_filter': 16, 'no_bias': True}
ONE = nd.array(np.eye(16).reshape(16, 16, 1, 1))
LIKE = nd.zeros((N, D)), nd.zeros(N)
RANDOM = np.random.RandomState(0)
HYBRIDIZED = {'eager': None, 'hybridized': {},
              'static': {'static_alloc': True, 'static_shape': True}}


def maps(values):
    """An NDArray that a convolution with ONE leaves as it is, in oneDNN's layout."""
    values = np.asarray(values, 'float32')
    return nd.array(values.reshape((-1, 16, 2, 1) if values.ndim == 2 else (1, 16, -1, 1)))


def blocked(values):
    """A view with these values of an array in oneDNN's layout."""
    return nd.Convolution(maps(values), ONE, **UNITS).reshape(values.shape)


# How features and labels become views; `F` is mx.nd or mx.sym.
VIEWS = {
    'reshape': lambda F, array, like: array.reshape((N, D) if like is LIKE[0] else (N,))
    if F is nd else F.reshape_like(array, like),
    'reshape_like': lambda F, array, like: F.reshape_like(array, like),
    'mx.np': lambda F, array, like: F.reshape_like(
        array.as_np_ndarray().reshape((N, -1)).as_nd_ndarray(), like),
}


class Operator(gluon.HybridBlock):
    """The operator, as one calls it oneself."""

    def __init__(self):
        super().__init__()
        self.centers = self.params.get('center_bias', shape=(C, D), init='zeros', grad_req='null',
                                       differentiable=False)

    def hybrid_forward(self, F, x, label, weight, centers):
        return weight * F.Custom(x, label, centers, op_type='centerloss', num_class=C,
                                 reduction='none', need_top_grad=True)


class Whole(gluon.HybridBlock):
    """A convolution, its view, the loss, and a convolution of the loss."""

    def __init__(self, loss, view):
        super().__init__()
        self.loss, self.view = loss, view

    def hybrid_forward(self, F, x, label, weight, one, like, like_label):
        x, label = F.Convolution(x, one, **UNITS), F.Convolution(label, one, **UNITS)
        loss = self.loss(self.view(F, x, like), self.view(F, label, like_label), weight)
        return F.Convolution(loss.reshape((1, 16, 1, 1)), one, **UNITS).reshape((N,))


def imported(net, inputs):
    """The network as a block of a file, which has no CenterLoss."""
    net.hybridize()
    net(*inputs)
    with tempfile.TemporaryDirectory() as folder:
        net.export(folder + '/net')
        names = ['data%d' % i for i in range(len(inputs))]
        return gluon.SymbolBlock.imports(folder + '/net-symbol.json', names,
                                         folder + '/net-0000.params')


def of_symbols(view):
    """A graph of symbol.center_loss in a block."""
    names = 'x label weight one like like_label'.split()
    x, label, weight, one, like, like_label = variables = [mx.sym.var(name) for name in names]
    x, label = (mx.sym.Convolution(array, one, **UNITS) for array in (x, label))
    loss = center_loss(view(mx.sym, x, like), view(mx.sym, label, like_label), C,
                       need_top_grad=True, name='center_loss')
    return gluon.SymbolBlock(mx.sym.Convolution((weight * loss).reshape((1, 16, 1, 1)), one,
                                                **UNITS).reshape((N,)), variables)


def inference(centers):
    """The centers as weights of a convolution, which then has them in a layout of its own."""
    scores = nd.Convolution(nd.ones((8, D, 4, 4)), centers.reshape((C, D, 1, 1)), kernel=(1, 1),
                            num_filter=C, no_bias=True)
    scores.wait_to_read()
    mx.nd.waitall()


def wrong(call, centers, trainer=None, infer=True):
    """Which of the results of four steps is wrong; None if all are right."""
    expected = np.zeros((C, D))
    for number in range(4):
        data, label = RANDOM.standard_normal((N, D)), RANDOM.randint(0, C, N)
        weight, head = RANDOM.rand(2, N)
        x = maps(data)
        x.attach_grad()
        with autograd.record():
            loss = call(x, label, blocked(weight))
        if infer and number % 2:
            inference(centers().data())
        loss.backward(blocked(head))
        if trainer:
            trainer.step()
        want = oracle.center_loss(data, label, expected, weight * head, reduction='none',
                                  need_top_grad=True)
        expected = want.centers
        for what, found, right in (
                ('loss', loss, want.loss * weight),
                ('gradient', x.grad, want.grad.reshape(x.shape)),
                ('centers', centers().data(), expected)):
            if not np.allclose(found.asnumpy(), right, rtol=1e-3, atol=1e-4):
                return f'{what} of step {number}'
        if infer:
            inference(centers().data())
    return None


def ways():
    """Name, what computes the loss of maps, a label and a weight, the centers, a trainer."""
    for kind, make in (('CenterLoss', lambda: CenterLoss(C, D)), ('operator', Operator),
                       ('CenterTrainer', lambda: CenterLoss(C, D))):
        for number, (how, flags) in enumerate(HYBRIDIZED.items()):
            for whole in False, True:
                # Each view with each kind and each way to run, not every combination.
                name = list(VIEWS)[(number + whole + len(kind)) % len(VIEWS)]
                loss = make()
                net = Whole(loss, VIEWS[name])
                net.initialize()
                if flags is not None:
                    (net if whole else loss).hybridize(**flags)
                yield (f'{kind}, {"whole network " if whole else ""}{how}, {name}',
                       through(net), lambda loss=loss: loss.centers,
                       CenterTrainer(loss) if kind == 'CenterTrainer' else None)
    for name, view in VIEWS.items():
        net = of_symbols(view)
        net.initialize(mx.init.Zero())
        yield f'symbols in a block, {name}', through(net), centers_of(net), None
    net = Whole(CenterLoss(C, D), view)
    net.initialize()
    net = imported(net, (maps(np.zeros((N, D))), maps(np.zeros(N)), nd.ones(N), ONE, *LIKE))
    yield 'imported', through(net), centers_of(net), None


def centers_of(net):
    return lambda: next(parameter for name, parameter in net.collect_params().items()
                        if name.endswith('center_bias'))


def through(net):
    return lambda x, label, weight: net(x, maps(label), weight, ONE, *LIKE)


def others():
    """Name, and whether it is right, of what is no step of the loss."""
    data, label = RANDOM.standard_normal((N, D)), RANDOM.randint(0, C, N)
    loss = CenterLoss(C, D, center_initializer=mx.init.Normal(1))
    loss.initialize()
    for _ in range(3):
        before = loss.centers.data().asnumpy()
        loss.update(blocked(data), blocked(label))
        inference(loss.centers.data())
    yield 'update', loss.centers.data(), oracle.center_loss(data, label, before).centers
    many, head = np.tile(data, (64, 1)), RANDOM.rand(64 * N)
    for _ in range(20):
        given, x, before = blocked(head), nd.array(many), loss.centers.data().asnumpy()
        x.attach_grad()
        with autograd.record():
            value = loss(x, nd.array(np.tile(label, 64)))
        given.wait_to_read()    # only an array that is there is in a layout
        value.backward(given)
        yield ('gradient of a head in a layout', x.grad,
               head[:, None] * (many - np.tile(before[label], (64, 1))))
    yield ('nearest_center', nearest_center(blocked(data), loss.centers.data())[0],
           ((data[:, None] - loss.centers.data().asnumpy()) ** 2).sum(2).argmin(1))
    x = blocked(data)
    x.attach_grad()
    plain = nd.array(data)
    plain.attach_grad()
    with autograd.record():
        losses = [DecorrelationLoss()(array) for array in (x, plain)]
    autograd.backward(losses)
    yield 'DecorrelationLoss', losses[0], losses[1].asnumpy()
    yield 'gradient of DecorrelationLoss', x.grad, plain.grad.asnumpy()


def main():
    logging.disable(logging.CRITICAL)
    warnings.simplefilter('ignore')
    for name, call, centers, trainer in ways():
        fault = wrong(call, centers, trainer, infer='operator' not in name)
        if fault:
            print(name, fault, sep=': ')
    for name, found, right in others():
        if not np.allclose(found.asnumpy(), right, rtol=1e-3, atol=1e-4):
            print(name)


if __name__ == '__main__':
    main()
