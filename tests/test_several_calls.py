"""One loss called several times before one backward pass: one warning, and none otherwise."""
from center_loss_op._operator.step import MANY_OVERLAPPING
from center_loss_op.gluon import CenterLoss, CenterTrainer

import mxnet as mx
import numpy as np
import pytest
from cases import batch
from entries import array, block
from mxnet import autograd

RANDOM = np.random.RandomState(11)
DATA, LABEL, CENTERS = batch(6, 3, 4)
MESSAGE = 'a center loss is called several times before one backward pass'


def made(hybridize=False, **arguments):
    """A loss with arguments that no other test has: a warning is given once per arguments."""
    return block(CENTERS, hybridize, alpha=RANDOM.rand() / 10 + 0.01, **arguments)


def features():
    x = array(DATA)
    x.attach_grad()
    return x


def step(loss, calls=1):
    """One backward pass of the sum of so many calls."""
    with autograd.record():
        total = sum(loss(features(), array(LABEL)) for _ in range(calls))
    total.backward()


def train(loss, calls, steps=3 * MANY_OVERLAPPING):
    for _ in range(steps):
        step(loss, calls)
    mx.nd.waitall()


@pytest.mark.parametrize('hybridize', [False, 'static'])
@pytest.mark.usefixtures('backend')
def test_one_warning(hybridize, log):
    """And none before there were many in a row."""
    loss = made(hybridize)
    for _ in range(3):
        train(loss, 2, MANY_OVERLAPPING - 1)
        train(loss, 1, 1)
    assert MESSAGE not in log()
    train(loss, 2)
    assert log().count(MESSAGE) == 1
    assert 'mx.nd.concat' in log() and 'CenterTrainer' in log()


# -- none for other training


@pytest.mark.usefixtures('backend')
def test_no_warning_for_one_call_per_backward_pass(log):
    """With inference and abandoned passes between; nor on two contexts, or for a trainer."""
    loss, gathered, both = made(True), made(), CenterLoss(4, 3, alpha=RANDOM.rand())
    contexts = [mx.cpu(0), mx.cpu(1)]
    both.initialize(ctx=contexts)
    trainer = CenterTrainer(gathered)
    for number in range(3 * MANY_OVERLAPPING):
        with autograd.record():
            value = loss(features(), array(LABEL))
        loss(array(DATA), array(LABEL)).wait_to_read()
        with autograd.predict_mode():
            loss(array(DATA), array(LABEL))
        value.backward()
        if number % 5 == 0:
            with autograd.record():
                loss(features(), array(LABEL))
        loss.update(array(DATA), array(LABEL))

        xs = [features().as_in_context(context) for context in contexts]
        for x in xs:
            x.attach_grad()
        with autograd.record():
            losses = [both(x, array(LABEL).as_in_context(x.context)) for x in xs]
        autograd.backward(losses)

        step(gathered, 4)
        trainer.step()
    mx.nd.waitall()
    assert MESSAGE not in log()
