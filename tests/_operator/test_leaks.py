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
    """A new operator each step, batches of changing sizes."""
    centers = mx.nd.zeros((CLASSES, SIZE))

    def step(number):
        size = SIZES[number % len(SIZES)]
        data = mx.nd.ones((size, SIZE))
        data.attach_grad()
        with mx.autograd.record():
            loss = mx.nd.Custom(data, mx.nd.zeros(size), centers, op_type='centerloss',
                                num_class=CLASSES)
        loss.backward()
    return step


def gluon():
    """A block that is hybridized again and again."""
    loss = CenterLoss(CLASSES, in_units=SIZE)
    loss.initialize()

    def step(number):
        if number % 100 == 0:
            loss.hybridize(number % 200 == 0, static_alloc=number % 400 == 0)
        size = SIZES[number % len(SIZES)]
        data = mx.nd.ones((size, SIZE))
        data.attach_grad()
        with mx.autograd.record():
            value = loss(data, mx.nd.zeros(size))
        value.backward()
    return step


def forward_only():
    """Training forwards whose backward never comes."""
    centers = mx.nd.zeros((CLASSES, SIZE))
    data, label = mx.nd.ones((128, SIZE)), mx.nd.zeros(128)
    data.attach_grad()

    def step(number):
        with mx.autograd.record():
            mx.nd.Custom(data, label, centers, op_type='centerloss', num_class=CLASSES)
    return step


def resident():
    """The bytes of memory that the process holds."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def growth(step, steps):
    """Bytes by which the process grew in the second half of `steps`, after a quarter of them."""

    def run(first, last):
        sizes = []
        for number in range(first, last):
            step(number)
            if number % 50 == 49:
                mx.nd.waitall()
                gc.collect()
                sizes.append(resident())
        return np.median(sizes)

    run(0, steps // 4)
    middle = run(steps // 4, steps * 5 // 8)
    return run(steps * 5 // 8, steps) - middle


CASES = [imperative, gluon, forward_only]


@pytest.mark.parametrize('case, steps', [
    pytest.param(case, steps, marks=mark, id=case.__name__) for case in CASES
    for steps, mark in ((2000, pytest.mark.slow), (20000, pytest.mark.soak))])
def test_flat(case, steps):
    # A leak of one batch of 128 features every other step would be 12 MiB.
    assert growth(case(), steps) < 4 << 20


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
