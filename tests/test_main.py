"""``python -m center_loss_op``: the text for a bug report."""
import platform
import sys
from unittest import mock

import center_loss_op
from center_loss_op import __main__ as main
from center_loss_op._mxnet import CHANGES, done
from center_loss_op._mxnet.compat import RESTORED
from center_loss_op._operator import native

import mxnet as mx
import numpy as np
import pytest


def as_dict(lines):
    return {line[:16].strip(): line[16:] for line in lines}


def test_what_is_printed(child):
    """With every change, and what the import did for it."""
    printed = child('import runpy; runpy.run_module("center_loss_op", run_name="__main__")',
                    MXNET_SUBGRAPH_VERBOSE=0).stdout
    said = as_dict(printed.splitlines())
    assert said['center_loss_op'].startswith(center_loss_op.__version__ + ' in ')
    assert said['Python'] == f'{platform.python_version()} in {sys.executable}'
    assert said['NumPy'].startswith(np.__version__ + ' in ')
    assert said['MXNet'].startswith(mx.__version__ + ' in ')
    assert 'CPU_SSE' in said['MXNet has']
    assert said['GPUs'] == str(mx.context.num_gpus())
    assert 'MXNET_SUBGRAPH_VERBOSE=0' in said['environment']
    assert said['a step is'] == 'right'
    assert said['a step runs in'] == native.which()
    assert said['to change'] == 'nothing'
    for change in CHANGES:
        when = f'import: {done(change) or "not needed here"}' if change.function else change.when
        assert f'- {change.what} ({when})\n    prevents: {change.prevents}\n' in printed
    assert ', '.join(RESTORED) in printed
    assert "import: 'centerloss', in " + native.which() in printed


@pytest.mark.usefixtures('in_python')
def test_what_is_wrong_is_said():
    with mock.patch.object(mx, '__version__', '2.0.0'), \
            mock.patch('center_loss_op._operator.step.Step.backward', lambda *args: None):
        said = as_dict(main.report())
    assert said['to change'] == ('MXNet 2.0.0 is not the tested release: '
                                 'pip install mxnet==1.9.1')
    assert said['a step is'].startswith('WRONG: loss [10.0, 40.0], gradient ')
    assert said['a step is'].endswith('centers [[0.0, 0.0], [0.0, 0.0]]')


def test_import_of_everything_replaces_nothing_of_mxnets(child):
    done = child('import center_loss_op, mxnet as mx\nfrom mxnet import gluon, module, symbol\n'
                 'from center_loss_op import *\n'
                 'assert (gluon, module, symbol) == (mx.gluon, mx.module, mx.symbol)\n'
                 'gluon.Trainer, nearest_center, legacy')
    assert done.returncode == 0, done.stderr
