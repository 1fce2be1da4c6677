"""Every block of Python that is printed runs as it stands: README, docs and docstrings.

The blocks of a page share their names, as for somebody who reads it from the top. What they need
around them (data, a network, a checkpoint) is here.
"""
import doctest
import importlib
import importlib.util
import os
import pkgutil
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import center_loss_op
from center_loss_op import legacy, nearest_center
from center_loss_op.symbol import center_loss
from ported import SIZE, Naive, ported

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGES = ['README.md'] + sorted(os.path.join('docs', name) for name in os.listdir(
    os.path.join(ROOT, 'docs')) if name.endswith('.md'))
CLASSES, BATCH = 10, 8
# `make horovod` runs what needs it.
HAVE_HOROVOD = importlib.util.find_spec('horovod') is not None


class Batch(mx.io.DataBatch):
    """For Module, and for a loop `for x, y in train`."""

    def __iter__(self):
        return iter((self.data[0], self.label[0]))


class Train(mx.io.NDArrayIter):
    """Two batches, as an iterator of Module's and as a data loader."""

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


def around_a_graph():
    label = mx.sym.var('softmax_label')
    embedding = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=2, name='embedding')
    scores = mx.sym.FullyConnected(embedding, num_hidden=CLASSES, name='scores')
    softmax = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    center = center_loss(embedding, label, CLASSES, name='center_loss')
    fitted = mx.mod.Module(mx.sym.Group([softmax, center]))
    fitted.fit(Train(), num_epoch=1,
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    return dict(label=label, embedding=embedding, scores=scores, softmax=softmax, gt_label=label,
                center=center, module=fitted)


def around_a_loop():
    net = Net()
    net.initialize()
    x, y = next(iter(Train()))
    embedding, scores = net(x)
    loss = center_loss_op.gluon.CenterLoss(CLASSES)
    loss.initialize()
    loss.update(embedding, y)
    return dict(net=net, x=x, y=y, embedding=embedding, scores=scores, center_loss=loss,
                softmax_loss=gluon.loss.SoftmaxCrossEntropyLoss(),
                trainer=gluon.Trainer(net.collect_params(), 'sgd'))


def around_everything():
    return dict(mx=mx, np=np, gluon=gluon, autograd=autograd, train=Train(), classes=CLASSES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where blocks read and write files: it holds what other implementations have saved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MXNET_UPDATE_ON_KVSTORE', '1')  # which a CenterTrainer leaves as it is
    monkeypatch.delenv('MXNET_UPDATE_ON_KVSTORE')
    ported(tmp_path, Naive(), 'center_loss', 20)
    mx.nd.save('center_loss.params', {'centers': mx.nd.ones((CLASSES, 2))})
    np.save('centers.npy', np.ones((CLASSES, 2)))


def blocks(page):
    with open(os.path.join(ROOT, page), encoding='utf-8') as file:
        found = re.findall(r'^```python\n(.*?)^```', file.read(), re.DOTALL | re.MULTILINE)
    return [block for block in found if HAVE_HOROVOD or 'center_loss_op.horovod' not in block]


def is_of_a_graph(text):
    return any(sign in text for sign in ('mx.sym', 'mx.mod', "CenterTrainer('", 'legacy',
                                         'module.'))


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page)])
@pytest.mark.filterwarnings('ignore')
def test_page(page):
    made = {}
    for number, block in enumerate(blocks(page)):
        around = around_a_graph if is_of_a_graph(block) else around_a_loop
        given = {**around_everything(), **around()}
        names = {**given, **made}
        exec(compile(block, '%s, block %d' % (page, number + 1), 'exec'), names)
        mx.nd.waitall()
        made.update((name, value) for name, value in names.items()
                    if value is not given.get(name))


def docstrings():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.iter_modules(center_loss_op.__path__, 'center_loss_op.'):
        if not module.name.endswith('__main__') and (
                HAVE_HOROVOD or not module.name.endswith('horovod')):
            module = importlib.import_module(module.name)
            yield from (found for found in finder.find(module, module.__name__) if found.examples)


@pytest.mark.parametrize('found', docstrings(), ids=lambda found: found.name)
@pytest.mark.filterwarnings('ignore')
def test_docstring(found):
    of_a_graph = is_of_a_graph(found.docstring)
    names = {**around_everything(), **(around_a_graph() if of_a_graph else around_a_loop()),
             **{name: value for name, value in found.globs.items() if not of_a_graph or
                name != 'gluon'}, 'gluon': gluon, 'nearest_center': nearest_center,
             'legacy': legacy}
    for example in found.examples:
        exec(compile(example.source, found.name, 'exec'), names)
        if example.want:
            assert repr(eval(example.source, names)) == example.want.strip()
    mx.nd.waitall()


def test_there_are_blocks_to_run():
    assert sum(len(blocks(page)) for page in PAGES) >= 8
    assert len(list(docstrings())) >= 5
