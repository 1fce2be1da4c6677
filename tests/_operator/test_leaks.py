"""Memory is flat after a warm-up, whatever changes from step to step."""
import gc
import resource
from pathlib import Path

from center_loss_op.gluon import CenterLoss

import mxnet as mx
import numpy as np
import pytest

SIZE, CLASSES = 64, 1000
SIZES = (7, 64, 33, 128, 1, 96)  # batches; the largest is 32 KiB of features


def imperative():
    """A new operator each step."""
    centers = mx.nd.zeros((CLASSES, SIZE))
    return lambda number, *inputs: mx.nd.Custom(*inputs, centers, op_type='centerloss',
                                                num_class=CLASSES)


def gluon():
    """A block that is hybridized again and again."""
    loss = CenterLoss(CLASSES, in_units=SIZE)
    loss.initialize()

    def call(number, *inputs):
        if number % 100 == 0:
            loss.hybridize(number % 200 == 0, static_alloc=number % 400 == 0)
        return loss(*inputs)
    return call


def train(call, number, backward=True):
    """A step with a batch of another size than the one before."""
    size = SIZES[number % len(SIZES)]
    data = mx.nd.ones((size, SIZE))
    data.attach_grad()
    with mx.autograd.record():
        loss = call(number, data, mx.nd.zeros(size))
    if backward:
        loss.backward()


def resident():
    """The bytes of memory that the process holds."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def growth(call, steps, backward):
    """Bytes by which the process grew in the second half of `steps`, after a quarter of them."""

    def run(first, last):
        sizes = []
        for number in range(first, last):
            train(call, number, backward)
            if number % 50 == 49:
                mx.nd.waitall()
                gc.collect()
                sizes.append(resident())
        return np.median(sizes)

    run(0, steps // 4)
    middle = run(steps // 4, steps * 5 // 8)
    return run(steps * 5 // 8, steps) - middle


@pytest.mark.parametrize('make, backward, steps', [
    pytest.param(make, backward, steps, marks=mark)
    for make, backward in ((imperative, True), (imperative, False), (gluon, True))
    for steps, mark in ((2000, pytest.mark.slow), (20000, pytest.mark.soak))])
def test_flat(make, backward, steps):
    """Also without backward passes. A leak of one batch of 128 every other step would be 12 MiB."""
    assert growth(make(), steps, backward) < 4 << 20


@pytest.mark.usefixtures('in_python')
def test_large_batches_do_not_wait_for_the_garbage_collector():
    """Dead operators hold a batch each, in reference cycles: more than a few are too many."""
    data, label = mx.nd.ones((2048, 512)), mx.nd.zeros(2048)  # 4 MiB
    centers = mx.nd.zeros((10, 512))
    data.attach_grad()

    def steps(number):
        for _ in range(number):
            with mx.autograd.record():
                loss = mx.nd.Custom(data, label, centers, op_type='centerloss', num_class=10)
            loss.backward()
            mx.nd.waitall()
    steps(5)
    before = resident()
    thresholds = gc.get_threshold()
    gc.set_threshold(1000000)  # as in a process with so many objects that it hardly collects
    try:
        steps(100)
    finally:
        gc.set_threshold(*thresholds)
    assert resident() - before < 200 << 20
