"""The wheel in empty environments: with MXNet by the extra, and with an MXNet that is there."""
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TRAIN = '''
import sys, center_loss_op, mxnet as mx
assert center_loss_op.__file__.startswith(sys.argv[1]), center_loss_op.__file__
print('step runs in', center_loss_op._operator.native.which())
loss = center_loss_op.gluon.CenterLoss(classes=2, alpha=0.5)
loss.initialize(mx.init.Zero())
x, y = mx.nd.array([[2, 4], [4, 8]]), mx.nd.array([1, 1])
x.attach_grad()
with mx.autograd.record():
    value = loss(x, y)
value.backward()
print(value.asnumpy().tolist(), x.grad.asnumpy().tolist(),
      loss.centers.data().asnumpy().round(6).tolist())
'''


def run(*command, cwd, fails=False, **environment):
    """What a command prints; it has to fail, or not to."""
    done = subprocess.run([str(part) for part in command], cwd=str(cwd), timeout=600, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True,
                          env={**os.environ, 'PYTHONPATH': '', **environment})
    assert bool(done.returncode) == fails, done.stdout
    return done.stdout


@pytest.fixture(name='empty', scope='module')
def fixture_empty(tmp_path_factory):
    """An empty environment: its folder and its Python."""
    folder = tmp_path_factory.mktemp('install')
    run(sys.executable, '-m', 'venv', folder / 'env', cwd=folder)
    python = folder / 'env' / 'bin' / 'python'
    # A dependency of MXNet's, 16 kB: only where pip finds no index is there nothing to test.
    try:
        run(python, '-m', 'pip', 'download', '--quiet', '--no-deps', 'graphviz==0.8.4', cwd=folder)
    except AssertionError as error:
        pytest.skip(f'pip reaches no package index: {error}')
    return folder, python


def build(python, folder, **environment):
    """Build the wheel of a copy, without the library that lies beside its sources: its path."""
    shutil.copytree(str(ROOT), str(folder / 'source'),
                    ignore=shutil.ignore_patterns('.*', '*.so', 'out', 'build', 'dist', 'shared'))
    run(python, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '-w', folder, folder / 'source',
            cwd=folder, **environment)
    wheel, = folder.glob('center_loss_op-*.whl')
    return zipfile.ZipFile(str(wheel))


@pytest.mark.slow
def test_without_a_compiler_there_is_a_wheel_without_the_library(empty, tmp_path):
    names = build(empty[1], tmp_path, CC=str(tmp_path / 'no-such-compiler')).namelist()
    assert 'center_loss_op/_operator/native.py' in names
    assert not [name for name in names if name.endswith('.so')]


@pytest.mark.slow
def test_a_plain_install_of_the_wheel_trains(empty, tmp_path):
    folder, python = empty
    wheel = build(python, tmp_path)
    names = wheel.namelist()
    assert 'center_loss_op/py.typed' in names
    metadata = wheel.read(next(name for name in names if name.endswith('/METADATA'))).decode()
    # An index shows the description alone: a link into the repository leads nowhere there.
    assert '# center_loss_op' in metadata
    assert all(target.startswith('https:') for target in re.findall(r'\]\((.*?)\)', metadata))
    # One for all Pythons, from 3.8 on.
    assert '-cp38-abi3-' in wheel.filename
    has_library = shutil.which(sysconfig.get_config_var('CC').split()[0]) is not None
    assert has_library == ('center_loss_op/_operator/csrc/native.abi3.so' in names)

    # An MXNet of another name, as mxnet-cu112 is, stays.
    (tmp_path / 'mxnet.py').write_text("__version__ = 'cu112'")
    (tmp_path / 'setup.py').write_text("""from setuptools import setup
setup(name='mxnet-cu112', version='1.9.1', py_modules=['mxnet'])""")
    install = [python, '-m', 'pip', 'install', '--quiet']
    run(*install, tmp_path, cwd=folder)
    run(*install, wheel.filename, cwd=folder, PIP_CONSTRAINT='')
    assert run(python, '-c', 'import mxnet; print(mxnet.__version__)', cwd=folder) == 'cu112\n'
    run(python, '-m', 'pip', 'uninstall', '--quiet', '--yes', 'mxnet-cu112', cwd=folder)

    said = run(python, '-c', 'import center_loss_op', cwd=folder, fails=True).splitlines()[-1]
    assert said.startswith('ImportError: center_loss_op needs MXNet: run pip install ')
    run(*install, f'{wheel.filename}[mxnet]', cwd=folder, PIP_CONSTRAINT='')
    if sys.version_info >= (3, 13):
        run(python, '-m', *shlex.split(said.split(' run ')[1]), cwd=folder, PIP_CONSTRAINT='')
    out = run(python, '-c', TRAIN, str(folder), cwd=folder, CENTER_LOSS_NATIVE='')
    assert ('step runs in C' in out) == has_library
    # By hand: distances² 20 and 80; the center moves by 0.5 · (6, 12) / 3.
    assert '[10.0, 40.0] [[2.0, 4.0], [4.0, 8.0]] [[0.0, 0.0], [1.0, 2.0]]' in out
