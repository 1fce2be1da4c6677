"""What the tests share."""
import logging
import os
import signal
import subprocess
import sys
import warnings
from unittest import mock

os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')  # read when a graph is bound
# The examples use every processor, and whichever test file imported one of them first would decide
# for all processes that later tests start. Digits are too small to gain from it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# A shell lets what it starts in the background ignore Ctrl-C, and so would what tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# MXNet 1.9.1 uses names that NumPy and SciPy have deprecated since.
warnings.filterwarnings('ignore', category=DeprecationWarning, module='mxnet')

from center_loss_op._operator import native

import pytest
from entries import settle

try:
    import hypothesis
except ImportError:
    # A random test is a skip then; what makes its arguments does nothing.
    hypothesis = mock.MagicMock()
    hypothesis.given = lambda *_, **__: pytest.mark.skip('hypothesis is not installed')
    hypothesis.settings = hypothesis.example = lambda *_, **__: lambda test: test
    hypothesis.settings.default = mock.MagicMock(max_examples=0)
    sys.modules.update({'hypothesis': hypothesis, 'hypothesis.strategies': hypothesis.strategies})


def pytest_configure(config):
    config.addinivalue_line('filterwarnings', 'ignore::DeprecationWarning:mxnet')
    if isinstance(hypothesis, mock.MagicMock):
        return
    # Random tests are repeatable; `-m soak` gives them more examples, and makes one that fails
    # small.
    usual = hypothesis.settings(
        deadline=None, max_examples=40, derandomize=True, database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck))
    soak = hypothesis.settings(usual, max_examples=600, derandomize=False, print_blob=True,
                               phases=list(hypothesis.Phase))
    hypothesis.settings.register_profile('center_loss_op', soak if in_soak(config) else usual)
    hypothesis.settings.load_profile('center_loss_op')


def in_soak(config):
    return config.getoption('markexpr', '').strip() == 'soak'


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """`-m soak` runs the random tests too, with more examples."""
    for item in items if in_soak(config) else ():
        if getattr(getattr(item, 'obj', None), 'is_hypothesis_test', False):
            item.add_marker('soak')


@pytest.fixture(name='settle', autouse=True)
def settle_fixture():
    """No exception that is still queued after a test reaches the next one."""
    yield
    settle()


@pytest.fixture
def in_python():
    """Operators made during the test run in Python."""
    with native.switched(False):
        yield
        settle()


@pytest.fixture
def natively():
    """Operators made during the test run natively; skipped where the library is missing."""
    if not native.running():
        pytest.skip('a step runs in %s' % native.which())


@pytest.fixture
def copies():
    """Operators made during the test take the CPU for a device whose memory NumPy cannot reach."""
    with native.switched(False), mock.patch(
            'center_loss_op._operator.arrays.is_host_memory', lambda context: False):
        yield
        settle()


@pytest.fixture(params=['native', 'python', 'copies'])
def backend(request):
    """How the operators made during the test compute: in C, in Python, and there on copies."""
    request.getfixturevalue(
        {'native': 'natively', 'python': 'in_python', 'copies': 'copies'}[request.param])
    return request.param


@pytest.fixture
def log(caplog):
    """The text that the package has logged: a function, called after the fact."""
    caplog.set_level(logging.WARNING, logger='center_loss_op')

    def text():
        return '\n'.join(record.getMessage() for record in caplog.records
                         if record.name == 'center_loss_op')
    return text


@pytest.fixture(scope='session')
def child(tmp_path_factory):
    """Run Python code in a process of its own, from another folder: its CompletedProcess."""
    def run(code, *args, timeout=900, **environment):
        command = [sys.executable, '-c', code, *map(str, args)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True, cwd=str(tmp_path_factory.mktemp('child')),
                              env={**os.environ, **{k: str(v) for k, v in environment.items()}},
                              start_new_session=True) as process:
            try:
                output = process.communicate(timeout=timeout)
            except BaseException as error:
                # With what it has forked, which would keep the pipes open.
                os.killpg(process.pid, signal.SIGKILL)
                output = process.communicate()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                pytest.fail(f'does not end within {timeout} s: {output}', pytrace=False)
        return subprocess.CompletedProcess(command, process.returncode, *output)
    return run
