"""A LeNet with PReLU, an embedding and a classifier: for Gluon, and the same as a symbol.

Both give their parameters the same names and the same distributions of initial values, so a
checkpoint of one fits the other.
"""
import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import mxnet as mx
from mxnet.gluon import nn

# The channels of each convolution, and whether a maximum over 2 x 2 follows it.
CONVOLUTIONS = ((16, True), (32, True), (64, False), (64, True))
# Units of the hidden layer. A linear map of the convolutions does not suffice to separate ten
# classes with two features.
HIDDEN = 512
# The learning rate of the classifier, as a multiple. Center loss keeps the features small, so the
# weights of the classifier must grow. At the rate of the other weights the classifier is worse than
# the nearest center.
CLASSIFIER_LR = 10
# Slope of a PReLU for negative inputs, before training.
SLOPE = 0.25


def initializer():
    """The initializer of all weights. Biases and centers start at 0."""
    return mx.init.Xavier()


class Network(nn.HybridBlock):
    """Images, (N, 1, height, width) → embedding, (N, d), and scores, (N, C)."""

    def __init__(self, classes, embedding_size):
        super().__init__(prefix='')
        self.features = nn.HybridSequential(prefix='')
        for number, (channels, pooled) in enumerate(CONVOLUTIONS, 1):
            self.features.add(nn.Conv2D(channels, kernel_size=3, padding=1,
                                        prefix='conv%d_' % number))
            # PReLU with a positive slope is monotonic, so it can follow the maximum, which leaves a
            # quarter of the values. On the CPU, PReLU takes longer than the convolution.
            if pooled:
                self.features.add(nn.MaxPool2D(pool_size=2, strides=2))
            self.features.add(nn.PReLU(mx.init.Constant(SLOPE), prefix='prelu%d_' % number))
        self.features.add(nn.Dense(HIDDEN, prefix='hidden_'),
                          nn.PReLU(mx.init.Constant(SLOPE), prefix='prelu_hidden_'))
        self.embedding = nn.Dense(embedding_size, prefix='embedding_')
        # With a bias, the classes would not lie on a circle around the origin, as in the paper.
        self.classifier = nn.Dense(classes, use_bias=False, in_units=embedding_size,
                                   prefix='classifier_')
        self.classifier.weight.lr_mult = CLASSIFIER_LR

    def hybrid_forward(self, F, x):
        embedding = self.embedding(self.features(x))
        return embedding, self.classifier(embedding)


def network(data, classes, embedding_size):
    """The symbols (embedding, scores) of the same network on the symbol `data`."""
    x = data
    for number, (channels, pooled) in enumerate(CONVOLUTIONS, 1):
        x = mx.sym.Convolution(x, num_filter=channels, kernel=(3, 3), pad=(1, 1),
                               name='conv%d' % number)
        if pooled:
            x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type='max')
        x = _prelu(x, 'prelu%d' % number)
    x = mx.sym.FullyConnected(x, num_hidden=HIDDEN, name='hidden')
    x = _prelu(x, 'prelu_hidden')
    embedding = mx.sym.FullyConnected(x, num_hidden=embedding_size, name='embedding')
    weight = mx.sym.var('classifier_weight', lr_mult=CLASSIFIER_LR)
    scores = mx.sym.FullyConnected(embedding, weight, num_hidden=classes, no_bias=True,
                                   name='classifier')
    return embedding, scores


def _prelu(x, name):
    slope = mx.sym.var(name + '_alpha', shape=(1,), init=mx.init.Constant(SLOPE))
    return mx.sym.LeakyReLU(x, gamma=slope, act_type='prelu', name=name)
