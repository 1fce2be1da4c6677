"""λ is λ: docs/lambda.md, row by row.

The pull of center loss on the features is what the gradient has more with it than without.
"""
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import pytest
from entries import array, imperative
from mxnet import autograd, gluon
from numpy.testing import assert_allclose

N, D, CLASSES = 128, 2, 10
RANDOM = np.random.RandomState(11)
DATA = RANDOM.randn(N, 5).astype('float32')
FEATURES = RANDOM.randn(N, CLASSES).astype('float32')
LABEL = RANDOM.randint(0, CLASSES, N).astype('float32')
IGNORED = np.where(np.arange(N) % 4 == 0, -1, LABEL).astype('float32')
M = (IGNORED >= 0).sum()
CENTERS = RANDOM.randn(CLASSES, CLASSES).astype('float32')
LAMBDA = 0.1


# -- beside SoftmaxOutput


def gradient(normalization, center=None):
    """Of the features, which are the scores, too: softmax alone, or with center loss."""
    data, label = mx.sym.var('data'), mx.sym.var('label')
    losses = [mx.sym.SoftmaxOutput(data, label, use_ignore=True, ignore_label=-1,
                                   normalization=normalization)]
    states = []
    if center is not None:
        losses.append(center_loss(data, label, CLASSES, use_ignore=True, scale=LAMBDA, **center))
        states = [array(CENTERS)]
    executor = mx.sym.Group(losses).bind(
        mx.cpu(), {'data': array(FEATURES), 'label': array(IGNORED)},
        {'data': mx.nd.zeros(FEATURES.shape)}, {'data': 'write', 'label': 'null'}, states)
    executor.forward(is_train=True)
    executor.backward()
    return executor.grad_dict['data'].asnumpy().astype(float)


@pytest.mark.parametrize('normalization, summed, averaged', [
    ('null', LAMBDA, LAMBDA / M), ('batch', N * LAMBDA, LAMBDA * N / M),
    ('valid', M * LAMBDA, LAMBDA)])
def test_table_of_normalizations(normalization, summed, averaged):
    alone = gradient(normalization)
    softmax = np.exp(FEATURES) / np.exp(FEATURES).sum(1, keepdims=True)
    error = (softmax - np.eye(CLASSES)[IGNORED.astype(int)]) * (IGNORED >= 0)[:, None]
    share = (alone * error).sum() / (error * error).sum()   # 1, 1/N or 1/M of the sum
    pull = (FEATURES - CENTERS[IGNORED.astype(int)]) * (IGNORED >= 0)[:, None]
    for center, weight in (({}, summed), ({'reduction': 'none'}, summed),
                           ({'reduction': 'sum'}, summed), ({'reduction': 'mean'}, averaged)):
        assert_allclose(gradient(normalization, center) - alone, share * weight * pull, atol=1e-5)


# -- the README's graph and its loop: one step of SGD with rate 1 from the same weights


def weights():
    random = np.random.RandomState(5)
    return {'embedding_weight': random.randn(D, 5), 'embedding_bias': random.randn(D),
            'scores_weight': random.randn(CLASSES, D)}


def step_of_module(scale):
    label = mx.sym.var('softmax_label')
    embedding = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=D, name='embedding')
    scores = mx.sym.FullyConnected(embedding, num_hidden=CLASSES, no_bias=True, name='scores')
    softmax = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    center = center_loss(embedding, label, num_class=CLASSES, scale=scale, name='center_loss')
    module = mx.mod.Module(mx.sym.Group([softmax, center]))
    module.fit(mx.io.NDArrayIter(DATA, LABEL, N), num_epoch=1, initializer=mx.init.Zero(),
               arg_params={name: array(value.astype('float32'))
                           for name, value in weights().items()}, allow_missing=True,
               optimizer_params={'learning_rate': 1},
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    return module.get_params()[0]['embedding_weight'].asnumpy() - weights()['embedding_weight']


def step_of_gluon(weight, total=lambda softmax, center: softmax + center, rescale=N):
    embed, classify = gluon.nn.Dense(D, in_units=5), gluon.nn.Dense(CLASSES, use_bias=False,
                                                                    in_units=D)
    net = gluon.nn.Sequential()
    net.add(embed, classify)
    net.initialize()
    for parameter, value in zip(net.collect_params().values(), weights().values()):
        parameter.set_data(array(value.astype('float32')))
    softmax_loss, loss = gluon.loss.SoftmaxCrossEntropyLoss(), CenterLoss(CLASSES, weight=weight)
    loss.initialize()
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 1})
    x, y = array(DATA), array(LABEL)
    with autograd.record():
        embedding = embed(x)
        value = total(softmax_loss(classify(embedding), y), loss(embedding, y))
    value.backward()
    trainer.step(rescale)
    return embed.weight.data().asnumpy() - weights()['embedding_weight']


def test_graph_and_loop_pull_alike():
    in_graph = step_of_module(LAMBDA) - step_of_module(0)
    in_loop = step_of_gluon(LAMBDA) - step_of_gluon(0)
    embedding = DATA @ weights()['embedding_weight'].T + weights()['embedding_bias']
    want = -LAMBDA * embedding.T @ DATA / N     # centers at 0
    assert_allclose(in_graph, in_loop, atol=1e-5)
    assert_allclose(in_graph, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('total', [
    lambda softmax, center: (softmax + center).mean(),
    lambda softmax, center: softmax.mean() + center.mean(),
    lambda softmax, center: mx.nd.broadcast_add(softmax.mean(), center) / N],
    ids=['mean of sums', 'sum of means', 'mean next to a sum'])
def test_table_of_loops(total):
    pull = step_of_gluon(LAMBDA, total, 1) - step_of_gluon(0, total, 1)
    assert_allclose(pull, step_of_gluon(LAMBDA) - step_of_gluon(0), atol=1e-5)


# -- other implementations, written down from their formulas: the step of features and centers


# Each: the step of the features and of the centers, with d = x − c of each sample, `sums`, the
# Σ (c − x) of each class, n samples of each class and N in all; then λ and α here.
PORTS = {
    'caffe': (lambda d, sums, n, N, w, rate: (w * d / N, -rate * sums / (1 + n)),
              lambda w, n, N: w, lambda rate, w, n, N: rate),
    'jxgu1016': (lambda d, sums, n, N, w, rate: (w * d / N, -rate * sums / (1 + n) / N),
                 lambda w, n, N: w, lambda rate, w, n, N: rate / N),
    # The gradient of the centers is divided by the weight again.
    'kaiyangzhou': (lambda d, sums, n, N, w, rate: (w * 2 * d / N, -rate * 2 * sums / N),
                    lambda w, n, N: 2 * w, lambda rate, w, n, N: 2 * rate * (1 + n) / N),
    'shownx': (lambda d, sums, n, N, w, rate: (w * d / n / N, -rate * w * sums / n / N),
               lambda w, n, N: w / n, lambda rate, w, n, N: rate * w * (1 + n) / (N * n)),
    'encodets': (lambda d, sums, n, N, w, rate: (w * d, -rate * sums / (1 + n)),
                 lambda w, n, N: w * N, lambda rate, w, n, N: rate),
    'facenet': (lambda d, sums, n, N, w, rate: (w * 2 * d / d.size, -(1 - rate) * sums),
                lambda w, n, N: 2 * w / 3, lambda rate, w, n, N: (1 - rate) * (1 + n))}


def balanced(n):
    """A batch with n samples of each class."""
    label = np.repeat(np.arange(CLASSES), n)
    features = RANDOM.randn(len(label), 3).astype('float32')
    return features, label.astype('float32'), RANDOM.randn(CLASSES, 3).astype('float32')


@pytest.mark.parametrize('port', PORTS)
def test_table_of_ports(port):
    n, weight, rate = 4, 0.3, 0.5
    features, label, centers = balanced(n)
    samples = len(label)
    difference = features.astype(float) - np.repeat(centers, n, axis=0)
    sums = -difference.reshape(CLASSES, n, 3).sum(axis=1)
    step, scale, alpha = PORTS[port]
    gradient_there, move_there = step(difference, sums, n, samples, weight, rate)
    got = imperative(features, label, centers, num_class=CLASSES, reduction='none',
                     scale=scale(weight, n, samples), alpha=alpha(rate, weight, n, samples))
    # Here the optimizer divides a sum by the batch; there the losses are means.
    assert_allclose(got.grad / samples, gradient_there, rtol=1e-4, atol=1e-7)
    assert_allclose(got.centers - centers, move_there, rtol=1e-3, atol=1e-6)
