"""Arrays in oneDNN's layout, and views of them, are what NumPy would make of them."""
import os
import re
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parent / 'helpers'
README = HELPERS.parents[1] / 'README.md'

# With centers or features that were freed, the process may crash: it is a child.
STEP = pytest.mark.parametrize('native, workers', [(1, 1), (0, 2)])


def run(child, code, native, workers):
    """The output of a program that ended well."""
    path = os.pathsep.join([str(HELPERS), os.environ.get('PYTHONPATH', '')])
    done = child(code, CENTER_LOSS_NATIVE=native, MXNET_CPU_WORKER_NTHREADS=workers,
                 PYTHONPATH=path)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@STEP
def test_any_array_is_itself(child, native, workers):
    """Also beside another thread, when features are copied."""
    other = 'import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()'
    code = 'import layouts; layouts.main()'
    assert run(child, code if native else f'{other}\n{code}', native, workers) == ''


@pytest.mark.slow
def test_threads_that_share_features(child):
    """They hung within the first 23 rounds, 3 times of 3, while features got a fence."""
    assert run(child, '''if True:
        import threading
        from center_loss_op.gluon import CenterLoss
        import mxnet as mx
        features, label, loss = mx.nd.ones((2, 1)), mx.nd.zeros(2), CenterLoss(1, 1)
        loss.initialize()
        def train():
            for _ in range(60):
                mine = features.detach()
                mine.attach_grad()
                with mx.autograd.record():
                    value = loss(mine, label)
                value.backward()
        for _ in range(50):
            threads = [threading.Thread(target=train) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            mx.nd.waitall()
        print(abs(loss.centers.data().asnumpy().item() - 1) < 1e-5)''', 1, 1) == 'True\n'


@STEP
def test_the_first_example_with_a_network_of_the_model_zoo(child, native, workers):
    """The README's Gluon example, on features that are a view of the result of a pooling."""
    code = re.search('```python\n(.*?)```', README.read_text(encoding='utf-8'), re.DOTALL)[1]
    for old, new in (
            ('(images / 16)', '(images[:8].repeat(3, 1).reshape((8, 3, 8, 8)) / 16)'),
            ("labels.astype('float32')", "labels[:8].astype('float32')"),
            (', 64, shuffle', ', 4, shuffle'), ('range(5)', 'range(1)'),
            ("gluon.nn.Dense(128, activation='relu')",
             'gluon.model_zoo.vision.resnet18_v1().features'),
            ('self.embedding(self.features(x))', 'self.features(x).reshape((-1, 512))'),
            ('self.embedding, self.scores = gluon.nn.Dense(32), ', 'self.scores = '),
            ('        loss.backward()', CHECKED), ('print(f', 'str(f')):
        assert old in code
        code = code.replace(old, new)
    assert run(child, 'import numpy, oracle\n' + code, native, workers) == 'right\n' * 2


# Against the oracle, before the centers move and after.
CHECKED = '''
        data, classes = mx.nd.flatten(embedding).asnumpy(), y.asnumpy()
        want = oracle.center_loss(data, classes, center_loss.centers.data().asnumpy(),
                                  reduction='none')
        pull = loss - softmax_loss(scores, y)
        right = numpy.allclose(pull.asnumpy(), 0.1 * want.loss, rtol=1e-3)
        loss.backward()
        moved = center_loss.centers.data().asnumpy()
        print('right' if right and numpy.allclose(moved, want.centers, atol=1e-3) else 'wrong')
'''
