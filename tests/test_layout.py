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
