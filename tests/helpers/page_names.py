"""The data and the network that the blocks of a page take for granted."""
import mxnet as mx
import numpy as np
from mxnet import gluon
from page import BATCH, CLASSES, SIZE


class Batch(mx.io.DataBatch):
    """A batch for Module, and for a loop `for x, y in train`."""

    def __iter__(self):
        return iter((self.data[0], self.label[0]))


class Train(mx.io.NDArrayIter):
    """Two batches: an iterator of Module's and a data loader at the same time."""

    def __init__(self):
        random = np.random.RandomState(0)
        super().__init__(random.randn(2 * BATCH, SIZE).astype('float32'),
                         random.randint(0, 4, 2 * BATCH).astype('float32'), BATCH)

    def __iter__(self):
        self.reset()
        return self

    def next(self):
        batch = super().next()
        return Batch(batch.data, batch.label, batch.pad, batch.index)


class Net(gluon.HybridBlock):
    """Embedding and scores."""

    def __init__(self):
        super().__init__()
        self.embedding, self.scores = gluon.nn.Dense(2), gluon.nn.Dense(CLASSES)

    def hybrid_forward(self, F, x):
        embedding = self.embedding(x)
        return embedding, self.scores(embedding)
