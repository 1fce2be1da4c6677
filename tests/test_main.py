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


@pytest.mark.slow
def test_every_change_is_printed(child):
    """All of the list, with what was done by the import, and only that under this heading."""
    printed = child('import runpy; runpy.run_module("center_loss_op", run_name="__main__")').stdout
    at_import, later = printed.split('Changed when the program uses them:\n')
    at_import, needless = at_import.split('Not needed here:\n')
    for change in CHANGES:
        if change.function:
            assert (f'- {change.what} (' in at_import) != (f'- {change.what}\n' in needless)
            assert (done(change) is None) == (f'- {change.what}\n' in needless)
        else:
            assert f'- {change.when}: {change.what}\n' in later
        assert change.prevents in printed or f'- {change.what}\n' in needless
    assert ', '.join(RESTORED) in at_import
    assert "'centerloss', in " + native.which() in at_import


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
