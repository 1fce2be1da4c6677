"""A LeNet with PReLU, an embedding and a classifier: for Gluon, and the same as a symbol.

Both give their parameters the same names and initial values of the same distributions, so
that a checkpoint of one fits the other.
"""
import mxnet as mx
from mxnet.gluon import nn

CHANNELS = (32, 64)
# Slope of a PReLU for negative inputs, before training.
SLOPE = 0.25


def initializer():
    """For all weights; biases start at 0, centers too."""
    return mx.init.Xavier()


class Network(nn.HybridBlock):
    """Images, (N, 1, height, width) → embedding, (N, d), and scores, (N, C)."""

    def __init__(self, classes, embedding_size):
        super().__init__(prefix='')
        self.features = nn.HybridSequential(prefix='')
        for number, channels in enumerate(CHANNELS, 1):
            self.features.add(
                nn.Conv2D(channels, kernel_size=5, padding=2, prefix='conv%d_' % number),
                nn.PReLU(mx.init.Constant(SLOPE), prefix='prelu%d_' % number),
                nn.MaxPool2D(pool_size=2, strides=2))
        self.embedding = nn.Dense(embedding_size, prefix='embedding_')
        # With a bias, the classes would not lie around the origin as on the paper's circle.
        self.classifier = nn.Dense(classes, use_bias=False, in_units=embedding_size,
                                   prefix='classifier_')

    def hybrid_forward(self, F, x):  # pylint: disable=arguments-differ
        embedding = self.embedding(self.features(x))
        return embedding, self.classifier(embedding)


def network(data, classes, embedding_size):
    """The symbols (embedding, scores) of the same network on the symbol `data`."""
    x = data
    for number, channels in enumerate(CHANNELS, 1):
        x = mx.sym.Convolution(x, num_filter=channels, kernel=(5, 5), pad=(2, 2),
                               name='conv%d' % number)
        slope = mx.sym.var('prelu%d_alpha' % number, shape=(1,), init=mx.init.Constant(SLOPE))
        x = mx.sym.LeakyReLU(x, gamma=slope, act_type='prelu', name='prelu%d' % number)
        x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type='max')
    embedding = mx.sym.FullyConnected(x, num_hidden=embedding_size, name='embedding')
    scores = mx.sym.FullyConnected(embedding, num_hidden=classes, no_bias=True, name='classifier')
    return embedding, scores
