"""``python -m center_loss_op``: the text for a bug report."""
import platform
import sys
from unittest import mock

import mxnet as mx
import numpy as np
import pytest

import center_loss_op
from center_loss_op import __main__ as main
from center_loss_op._operator import native


def as_dict(lines):
    return {line[:16].strip(): line[16:] for line in lines}


def test_what_is_printed(child):
    done = child('import runpy; runpy.run_module("center_loss_op", run_name="__main__")',
                 MXNET_SUBGRAPH_VERBOSE=0)
    assert done.returncode == 0, done.stderr
    said = as_dict(done.stdout.splitlines())
    assert said['center_loss_op'].startswith(center_loss_op.__version__ + ' in ')
    assert said['Python'] == '%s in %s' % (platform.python_version(), sys.executable)
    assert said['NumPy'].startswith(np.__version__ + ' in ')
    assert said['MXNet'].startswith(mx.__version__ + ' in ')
    assert 'CPU_SSE' in said['MXNet has']
    assert said['GPUs'] == str(mx.context.num_gpus())
    assert 'MXNET_SUBGRAPH_VERBOSE=0' in said['environment']
    assert said['a step is'] == 'right'
    assert said['a step runs in'] == native.which()
    assert said['to change'] == 'nothing'
    lent = 'nothing' if main.importable.LENT == [] else (
        'NumPy has again %s: MXNet reads them, NumPy %s took them away'
        % (', '.join(main.importable.LENT), np.__version__))
    assert said['was changed'] == lent


@pytest.mark.usefixtures('in_python')
def test_what_is_wrong_is_said():
    with mock.patch.object(mx, '__version__', '2.0.0'), \
            mock.patch.object(main.importable, 'LENT', ['bool']), \
            mock.patch('center_loss_op._operator.step.Step.backward', lambda *args: None):
        said = as_dict(main.report())
    assert said['to change'] == ('MXNet 2.0.0 is not the tested release: '
                                 'pip install mxnet==1.9.1')
    assert said['was changed'].startswith('NumPy has again bool: ')
    assert said['a step is'].startswith('WRONG: loss [10.0, 40.0], gradient ')
    assert said['a step is'].endswith('centers [[0.0, 0.0], [0.0, 0.0]]')
