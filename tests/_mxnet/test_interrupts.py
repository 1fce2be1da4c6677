"""Ctrl-C in eager training: a KeyboardInterrupt each time, no crash, and training goes on."""
import json
import sys

import pytest
from numpy.testing import assert_allclose

HEAD = '''
import json, random, signal, sys, threading, time
import center_loss_op
import mxnet as mx
from center_loss_op.gluon import CenterLoss

def expect(where):
    """A step, an interrupt in the midst of which comes as soon as Python can raise it."""
    try:
        step()
        for _ in range(9):  # it comes at the next call of a function
            len(str(_))
    except KeyboardInterrupt:
        print('interrupted', flush=True)
    else:
        print('lost', flush=True)

data, label = mx.nd.ones((8, 4)), mx.nd.zeros(8)
centers = mx.nd.zeros((3, 4))
loss = CenterLoss(3, in_units=4)
loss.initialize()
'''

# An interrupt while each of these runs, in the callbacks of a node or where an array goes away.
PLACES = {
    'list_arguments': 'center_loss_op._operator.operator.CenterLossProp.list_arguments',
    'infer_shape': 'center_loss_op._operator.operator.CenterLossProp.infer_shape',
    'create_operator': 'center_loss_op._operator.operator.CenterLossProp.create_operator',
    '__del__': 'mx.nd.NDArray.__del__',
    'end of recording': 'mx.autograd._RecordingStateScope.__exit__',
}
IN_PLACE = HEAD + '''
holder, name = eval(sys.argv[1].rpartition('.')[0]), sys.argv[1].rpartition('.')[2]
before = getattr(holder, name)
armed = False

def interrupted(self, *args):
    global armed
    if armed:
        armed = False
        signal.raise_signal(signal.SIGINT)
    return before(self, *args)
interrupted.__code__ = interrupted.__code__.replace(
    co_name=name, co_filename=before.__code__.co_filename)
setattr(holder, name, interrupted)

def step():
    data.attach_grad()
    with mx.autograd.record():
        value = mx.nd.Custom(data, label, centers, op_type='centerloss', num_class=3)
    value.backward()
    mx.nd.waitall()

step()  # the handler is installed when it is needed
armed = True
expect(step)
assert not mx.autograd.is_recording()
before_it = centers.asnumpy().copy()
step()
assert (centers.asnumpy() != before_it).any()
print('trains')
'''


@pytest.mark.slow
@pytest.mark.parametrize('place', PLACES)
def test_held_back(place, child):
    done = child(IN_PLACE, PLACES[place], CENTER_LOSS_NATIVE=0)
    assert done.stdout.split() == ['interrupted', 'trains'], done.stdout + done.stderr


LOOP = HEAD + '''
way, times = sys.argv[1], int(sys.argv[2])
data = data.astype('float16' if way == 'float16' else 'float32')
data.attach_grad()
random.seed(3)

def step():
    with mx.autograd.record():
        if way == 'block':
            value = loss(data, label)
        else:
            value = mx.nd.Custom(data, label, centers, op_type='centerloss', num_class=3)
    value.backward()

def interrupt(after):
    time.sleep(after)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

step()
mx.nd.waitall()
came = 0
for _ in range(times):
    thread = threading.Thread(target=interrupt, args=(random.random() * .02,))
    try:
        thread.start()
        while True:  # until it comes
            step()
    except KeyboardInterrupt:
        came += 1
    thread.join()
mx.nd.waitall()
# Training goes on.
assert not mx.autograd.is_recording()
state = loss.centers.data() if way == 'block' else centers
state[:] = 0
step()
mx.nd.waitall()
print(json.dumps([came, state.asnumpy().tolist()]))
'''


def check(child, way, native, times):
    environment = {} if native else {'CENTER_LOSS_NATIVE': 0}
    done = child(LOOP, way, times, timeout=60 + times, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    came, centers = json.loads(done.stdout.splitlines()[-1])
    assert came == times
    # By hand: c ← 0 + 0.5 · 8 · (1 − 0) / (1 + 8)
    assert_allclose(centers, [[4 / 9] * 4, [0] * 4, [0] * 4], rtol=1e-3)
    assert 'KeyboardInterrupt' not in done.stderr


@pytest.mark.parametrize('way, native', [
    ('custom', True), pytest.param('block', True, marks=pytest.mark.slow),
    pytest.param('float16', True, marks=pytest.mark.slow), ('custom', False),
    pytest.param('block', False, marks=pytest.mark.slow)])
def test_eager_loop(way, native, child):
    check(child, way, native, 25)


@pytest.mark.soak
@pytest.mark.parametrize('native', [True, False])
@pytest.mark.parametrize('way', ['custom', 'block', 'float16'])
def test_eager_loop_many_times(way, native, child):
    check(child, way, native, 200)


@pytest.mark.slow
def test_a_handler_of_the_programs_own(child):
    """It is called for every interrupt; and where Ctrl-C is ignored it stays so."""
    done = child(HEAD + '''
seen = []
signal.signal(signal.SIGINT, lambda *args: seen.append(args))
center_loss_op._mxnet.interrupts.defer_sigint()
signal.raise_signal(signal.SIGINT)
assert len(seen) == 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
center_loss_op._mxnet.interrupts.defer_sigint()
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
print('done')
''')
    assert done.stdout == 'done\n', done.stderr


UNUSED = """
import signal, sys, threading
import center_loss_op
from center_loss_op import gluon, symbol
loss = gluon.CenterLoss(3, in_units=4)
loss.initialize()
import mxnet as mx
from _signal import default_int_handler
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler is default_int_handler
step = {
    'block': lambda: loss(mx.nd.ones((8, 4)), mx.nd.zeros(8)),
    'custom': lambda: mx.nd.Custom(mx.nd.ones((8, 4)), mx.nd.zeros(8), mx.nd.zeros((3, 4)),
                                   op_type='centerloss', num_class=3),
    'symbol': lambda: symbol.center_loss(mx.sym.var('x'), mx.sym.var('y'), 3),
}[sys.argv[1]]
thread = threading.Thread(target=step)  # which must not set a handler
thread.start()
thread.join()
assert signal.getsignal(signal.SIGINT) is default_int_handler
step()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler is not default_int_handler
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print('done')
"""


@pytest.mark.slow
@pytest.mark.parametrize('native', [True, False])
@pytest.mark.parametrize('way', ['block', 'custom', 'symbol'])
def test_installed_by_the_first_use(way, native, child):
    done = child(UNUSED, way, **({} if native else {'CENTER_LOSS_NATIVE': 0}))
    assert done.stdout == 'done\n', done.stderr


# Each way to use center loss after the first time, when nothing new may be made.
AGAIN = HEAD + """
from _signal import default_int_handler

class Net(mx.gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.loss = loss
    def hybrid_forward(self, F, x, y):
        return self.loss(x, y)

def backward(function):
    data.attach_grad()
    with mx.autograd.record():
        value = function(data, label)
    value.backward()
    mx.nd.waitall()

net = Net()
net.hybridize()
symbol = mx.sym.Custom(mx.sym.var('x'), mx.sym.var('y'), op_type='centerloss', num_class=3)
executor = symbol.simple_bind(mx.cpu(), x=(8, 4), y=(8,))
STEPS = {
    'block': lambda: backward(loss),
    'hybridized': lambda: backward(net),
    'custom': lambda: backward(lambda x, y: mx.nd.Custom(x, y, centers, op_type='centerloss',
                                                        num_class=3)),
    'executor': lambda: (executor.forward(is_train=True), executor.backward())}
"""


@pytest.mark.parametrize('native', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_installed_by_each_use(native, child):
    """A notebook sets Python's own handler for each cell."""
    done = child(AGAIN + """
for name, step in STEPS.items():
    for _ in range(3):
        signal.signal(signal.SIGINT, default_int_handler)
        step()
        print(name, hasattr(signal.getsignal(signal.SIGINT), 'defers_sigint'))
""", **({} if native else {'CENTER_LOSS_NATIVE': 0}))
    assert done.stdout.split() == [word for name in ('block', 'hybridized', 'custom', 'executor')
                                   for word in 3 * [name, 'True']], done.stderr


KERNEL = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name='python3')
try:
    for cell in sys.argv[1:]:
        reply = client.execute_interactive(cell, timeout=60, output_hook=lambda message: print(
            *message['content'].get('traceback', [message['content'].get('text', '')]), end=''))
        assert reply['content']['status'] == 'ok'
finally:
    manager.shutdown_kernel(now=True)
"""


@pytest.mark.slow
def test_in_later_cells_of_a_notebook(child):
    """An interrupt where an array goes away, of which Python drops the exception."""
    pytest.importorskip('jupyter_client')
    pytest.importorskip('ipykernel')
    first = """
class Interrupts:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def step():
    Interrupts()

for each in STEPS.values():
    each()
"""
    cells = [f'STEPS[{way!r}]()\nexpect(step)'
             for way in ('block', 'hybridized', 'custom', 'executor')]
    done = child(KERNEL, AGAIN + first, *cells)
    assert done.stdout.split() == ['interrupted'] * 4, done.stdout + done.stderr


ASYNC = HEAD + """
import asyncio

def step():
    data.attach_grad()
    with mx.autograd.record():
        value = loss(data, label)
    value.backward()

async def train():
    interrupt = threading.Timer(.3, signal.pthread_kill,
                                [threading.main_thread().ident, signal.SIGINT])
    interrupt.start()
    try:
        while True:
            step()
            state.append('in a step')
            await asyncio.sleep(0)
            state.pop()
    except asyncio.CancelledError:
        print('cancelled', state, flush=True)
        raise

for _ in range(3):
    state = []
    if sys.argv[1] == 'before and within':
        step()
    handler = signal.getsignal(signal.SIGINT)
    try:
        asyncio.run(train())
    except KeyboardInterrupt:
        print('interrupted')
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    step()
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason='asyncio leaves SIGINT alone')
@pytest.mark.parametrize('native', [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize('steps', ['within', 'before and within'])
def test_asyncio_cancels_a_task_at_an_await(steps, native, child):
    done = child(ASYNC, steps, **({} if native else {'CENTER_LOSS_NATIVE': 0}))
    assert done.stdout.splitlines() == 3 * ["cancelled ['in a step']", 'interrupted'], done.stderr


@pytest.mark.slow
def test_a_loop_keeps_its_handler(child):
    """One that a program has set for a loop; after the loop it may be wrapped."""
    done = child(HEAD + """
import asyncio
async def main():
    handler = lambda *args: print('mine')
    signal.signal(signal.SIGINT, handler)
    loss(data, label)
    assert signal.getsignal(signal.SIGINT) is handler
asyncio.new_event_loop().run_until_complete(main())
loss(data, label)
assert signal.getsignal(signal.SIGINT).defers_sigint
signal.raise_signal(signal.SIGINT)
""")
    assert done.stdout == 'mine\n', done.stderr
