"""training: a step of LeNet on MNIST-sized images, batch 128; milliseconds, median"""
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
from mxnet.gluon import nn

from .alternatives import batch
from .timing import medians, table

BATCH, CLASSES, WEIGHT = 128, 10, 0.1


class LeNet(nn.HybridBlock):
    """Images, (N, 1, 28, 28) → embedding, (N, 2), and scores, (N, C)."""

    def __init__(self):
        super().__init__()
        self.features = nn.HybridSequential()
        for channels, pool in (16, 2), (32, 2), (64, 1), (64, 2):
            self.features.add(nn.Conv2D(channels, kernel_size=3, padding=1), nn.MaxPool2D(pool),
                              nn.PReLU())
        self.features.add(nn.Dense(512), nn.PReLU())
        self.embedding = nn.Dense(2)
        self.classifier = nn.Dense(CLASSES)

    def hybrid_forward(self, F, x):
        embedding = self.embedding(self.features(x))
        return embedding, self.classifier(embedding)


def _batch():
    data, label = map(mx.nd.array, batch(BATCH, 28 * 28, CLASSES))
    return data.reshape((BATCH, 1, 28, 28)), label


def _module(joint):
    label = mx.sym.var('softmax_label')
    embedding, scores = LeNet()(mx.sym.var('data'))
    loss = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    if joint:
        loss = mx.sym.Group([loss, center_loss(embedding, label, CLASSES, scale=WEIGHT)])
    module = mx.mod.Module(loss)
    images, labels = _batch()
    module.bind([('data', images.shape)], [('softmax_label', labels.shape)])
    module.init_params(mx.init.Xavier())
    module.init_optimizer(optimizer_params={'learning_rate': 1e-3})
    data = mx.io.DataBatch([images], [labels])

    def step():
        module.forward_backward(data)
        module.update()
        mx.nd.waitall()
    return step


def _gluon(joint, hybridize=False):
    net, softmax = LeNet(), mx.gluon.loss.SoftmaxCrossEntropyLoss()
    center = CenterLoss(CLASSES, weight=WEIGHT)
    for block in net, softmax, center:
        block.initialize(mx.init.Xavier())
        if hybridize:
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
    """Print the table."""
    rows = []
    for name, make in (('Module', _module), ('Gluon', _gluon),
                       ('Gluon, hybridized', lambda joint: _gluon(joint, hybridize=True))):
        # Short turns: the two are to meet the same weather.
        taken = medians({joint: make(joint) for joint in (False, True)},
                        *(3, 10) if quick else (15, 20))
        rows.append([name, f'{1e3 * taken[False]:.2f}', f'{1e3 * taken[True]:.2f}',
                     f'{taken[True] / taken[False]:.3f}'])
    table(['', 'softmax alone', 'with center loss', 'ratio'], rows)
