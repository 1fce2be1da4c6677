"""training: a step of LeNet on MNIST-sized images, batch 128; milliseconds, median"""
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
import networks
import numpy as np

from .timing import medians, table

BATCH, CLASSES, WEIGHT = 128, 10, 0.1


def _batch():
    random = np.random.RandomState(0)
    return (mx.nd.array(random.rand(BATCH, 1, 28, 28)),
            mx.nd.array(random.randint(0, CLASSES, BATCH)))


def _module(joint):
    data, label = mx.sym.Variable('data'), mx.sym.Variable('softmax_label')
    embedding, scores = networks.network(data, CLASSES, 2)
    loss = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    if joint:
        loss = mx.sym.Group([loss, center_loss(embedding, label, CLASSES, scale=WEIGHT)])
    module = mx.mod.Module(loss)
    images, labels = _batch()
    module.bind([('data', images.shape)], [('softmax_label', labels.shape)])
    module.init_params(networks.initializer())
    module.init_optimizer(optimizer_params={'learning_rate': 1e-3})
    batch = mx.io.DataBatch([images], [labels])

    def step():
        module.forward_backward(batch)
        module.update()
        mx.nd.waitall()
    return step


def _gluon(joint, hybridize):
    net = networks.Network(CLASSES, 2)
    net.initialize(networks.initializer())
    softmax = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    center = CenterLoss(CLASSES, weight=WEIGHT)
    center.initialize()
    if hybridize:
        for block in (net, softmax, center):
            block.hybridize()
    images, labels = _batch()
    net(images)  # gives deferred parameters their shapes
    trainer = mx.gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 1e-3})

    def step():
        with mx.autograd.record():
            embedding, scores = net(images)
            loss = softmax(scores, labels)
            if joint:
                loss = loss + center(embedding, labels)
        loss.backward()
        trainer.step(BATCH)
        mx.nd.waitall()
    return step


def run(quick):
    """Print the table; return its figures in seconds."""
    rows = []
    for name, make in (('Module', _module),
                       ('Gluon', lambda joint: _gluon(joint, hybridize=False)),
                       ('Gluon, hybridized', lambda joint: _gluon(joint, hybridize=True))):
        # Short turns: the two are to meet the same weather.
        taken = medians({'softmax': make(False), 'joint': make(True)},
                        *(3, 10) if quick else (15, 20))
        rows.append({'name': name, **taken})
    table(['', 'softmax', 'joint', 'joint/softmax'],
          [[row['name'], '%.2f' % (row['softmax'] * 1e3), '%.2f' % (row['joint'] * 1e3),
            '%.3f' % (row['joint'] / row['softmax'])] for row in rows])
    return rows
