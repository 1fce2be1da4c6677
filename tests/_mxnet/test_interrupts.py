"""Ctrl-C in eager training: a KeyboardInterrupt each time, no crash, and training goes on."""
import json
import sys

import pytest
from numpy.testing import assert_allclose

NATIVE = pytest.mark.parametrize('native', [1, pytest.param(0, marks=pytest.mark.slow)])

HEAD = '''
import json, random, signal, sys, threading, time
import center_loss_op
import mxnet as mx
from _signal import default_int_handler
from center_loss_op.gluon import CenterLoss

data, label, centers = mx.nd.ones((8, 4)), mx.nd.zeros(8), mx.nd.zeros((3, 4))
loss = CenterLoss(3, in_units=4)
loss.initialize()

def custom(x, y):
    return mx.nd.Custom(x, y, centers, op_type='centerloss', num_class=3)

def train(function):
    data.attach_grad()
    with mx.autograd.record():
        value = function(data, label)
    value.backward()
'''

# An interrupt while each of these runs, in the callbacks of a node or where an array goes away,
# comes as soon as Python can raise it.
IN_PLACE = HEAD + '''
node = center_loss_op._operator.operator.CenterLossProp
armed = None

def interrupted_in(holder, name):
    before = getattr(holder, name)
    def interrupted(self, *args):
        global armed
        if armed == name:
            armed = None
            signal.raise_signal(signal.SIGINT)
        return before(self, *args)
    interrupted.__code__ = interrupted.__code__.replace(
        co_name=name, co_filename=before.__code__.co_filename)
    setattr(holder, name, interrupted)

places = [(node, 'list_arguments'), (node, 'infer_shape'), (node, 'create_operator'),
          (mx.nd.NDArray, '__del__'), (mx.autograd._RecordingStateScope, '__exit__')]
for place in places:
    interrupted_in(*place)

def step():
    train(custom)
    mx.nd.waitall()

step()  # the handler is installed when it is needed
for _, armed in places:
    try:
        step()
        for _ in range(9):  # it comes at the next call of a function
            len(str(_))
    except KeyboardInterrupt:
        print('interrupted')
    assert not mx.autograd.is_recording()
    before = centers.asnumpy().copy()
    step()
    assert (centers.asnumpy() != before).any()
'''


def test_held_back(child):
    done = child(IN_PLACE, CENTER_LOSS_NATIVE=0)
    assert (done.returncode, done.stdout) == (0, 'interrupted\n' * 5), done.stderr


LOOP = HEAD + '''
way, times = sys.argv[1], int(sys.argv[2])
data = data.astype('float16' if way == 'float16' else 'float32')
function = loss if way == 'block' else custom
random.seed(3)

def interrupt(after):
    time.sleep(after)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

train(function)
mx.nd.waitall()
came = 0
for _ in range(times):
    thread = threading.Thread(target=interrupt, args=(random.random() * .02,))
    try:
        thread.start()
        while True:  # until it comes
            train(function)
    except KeyboardInterrupt:
        came += 1
    thread.join()
mx.nd.waitall()
# Training goes on.
assert not mx.autograd.is_recording()
state = loss.centers.data() if way == 'block' else centers
state[:] = 0
train(function)
mx.nd.waitall()
print(json.dumps([came, state.asnumpy().tolist()]))
'''


@NATIVE
@pytest.mark.parametrize('way', ['custom', *[pytest.param(way, marks=pytest.mark.slow)
                                             for way in ('block', 'float16')]])
def test_eager_loop(way, native, child, times=25):
    done = child(LOOP, way, times, timeout=300 + 3 * times, CENTER_LOSS_NATIVE=native)
    assert done.returncode == 0, done.stderr[-3000:]
    came, centers = json.loads(done.stdout.splitlines()[-1])
    assert came == times
    # By hand: c ← 0 + 0.5 · 8 · (1 − 0) / (1 + 8)
    assert_allclose(centers, [[4 / 9] * 4, [0] * 4, [0] * 4], rtol=1e-3)
    assert 'KeyboardInterrupt' not in done.stderr


@pytest.mark.soak
@pytest.mark.parametrize('native', [1, 0])
@pytest.mark.parametrize('way', ['custom', 'block', 'float16'])
def test_eager_loop_many_times(way, native, child):
    test_eager_loop(way, native, child, 200)


INSTALLED = HEAD + """
from center_loss_op import symbol

# Making a loss is no use of it.
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler is default_int_handler

class Net(mx.gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.loss = loss
    def hybrid_forward(self, F, x, y):
        return self.loss(x, y)

def run():
    executor.forward(is_train=True)
    executor.backward()

def handler():
    return signal.getsignal(signal.SIGINT)

x, y = mx.sym.var('x'), mx.sym.var('y')
ways = {'block': lambda: train(loss), 'hybridized': lambda: train(net),
        'custom': lambda: train(custom), 'symbol': lambda: symbol.center_loss(x, y, 3),
        'executor': run}
for name, use in ways.items():
    if name == 'hybridized':
        net = Net()
        net.hybridize()
    if name == 'executor':
        executor = symbol.center_loss(x, y, 3).simple_bind(mx.cpu(), x=(8, 4), y=(8,))
    signal.signal(signal.SIGINT, default_int_handler)
    thread = threading.Thread(target=use)  # which must not set a handler
    thread.start()
    thread.join()
    assert handler() is default_int_handler, name
    for _ in range(3):
        signal.signal(signal.SIGINT, default_int_handler)   # as a notebook does for each cell
        use()
        assert handler() is signal.default_int_handler is not default_int_handler, name
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print(name)

# A handler of the program's own is called for every interrupt; if Ctrl-C is ignored it stays so.
signal.signal(signal.SIGINT, lambda *args: print('mine'))
train(loss)
assert handler().defers_sigint
signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.SIG_IGN)
train(loss)
assert handler() is signal.SIG_IGN

# One that was set for an event loop is replaced only after the loop.
async def main():
    signal.signal(signal.SIGINT, of_the_loop)
    train(loss)
    assert handler() is of_the_loop
import asyncio
of_the_loop = lambda *args: print('mine')
asyncio.new_event_loop().run_until_complete(main())
train(loss)
assert handler().defers_sigint
signal.raise_signal(signal.SIGINT)
"""


@NATIVE
def test_installed_by_each_use(native, child):
    done = child(INSTALLED, CENTER_LOSS_NATIVE=native)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name for name in (
        'block', 'hybridized', 'custom', 'symbol', 'executor') for _ in range(3)] + 2 * ['mine']


ASYNC = HEAD + """
import asyncio

async def main():
    interrupt = threading.Timer(.3, signal.pthread_kill,
                                [threading.main_thread().ident, signal.SIGINT])
    interrupt.start()
    try:
        while True:
            train(loss)
            state.append('in a step')
            await asyncio.sleep(0)
            state.pop()
    except asyncio.CancelledError:
        print('cancelled', state, flush=True)
        raise

for number in range(3):     # center loss is used within the loop first, then before it, too
    state = []
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print('interrupted')
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(loss)
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason='asyncio leaves SIGINT alone')
def test_asyncio_cancels_a_task_at_an_await(child):
    done = child(ASYNC)
    assert done.stdout.splitlines() == 3 * ["cancelled ['in a step']", 'interrupted'], done.stderr
