"""Arrays in oneDNN's layout, and views of them, are what NumPy would make of them."""
import os
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parent / 'helpers'


@pytest.mark.parametrize('native, workers', [(1, 1), (0, 2)])
def test_any_array_is_itself(child, native, workers):
    """In a child, because with centers or features that were freed the process may crash."""
    path = os.pathsep.join([str(HELPERS), os.environ.get('PYTHONPATH', '')])
    done = child('import layouts; layouts.main()', CENTER_LOSS_NATIVE=native,
                 MXNET_CPU_WORKER_NTHREADS=workers, PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (0, ''), done.stderr[-3000:]


@pytest.mark.slow
def test_threads_that_share_features(child):
    """They hung within the first 23 rounds, 3 times of 3, while features got a fence."""
    code = '''if True:
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
        print(abs(loss.centers.data().asnumpy().item() - 1) < 1e-5)'''
    done = child(code, MXNET_CPU_WORKER_NTHREADS=1)
    assert (done.returncode, done.stdout) == (0, 'True\n'), done.stderr[-3000:]
