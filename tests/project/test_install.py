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
import center_loss_op, mxnet as mx
assert center_loss_op.__file__.startswith(%r), center_loss_op.__file__
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


def run(*command, cwd, **environment):
    return subprocess.run([str(part) for part in command], cwd=str(cwd), timeout=600, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, env={**os.environ, **environment})


def checked(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(name='empty', scope='module')
def fixture_empty(tmp_path_factory):
    """An empty environment: its folder and its Python."""
    folder = tmp_path_factory.mktemp('install')
    checked(sys.executable, '-m', 'venv', folder / 'env', cwd=folder)
    python = folder / 'env' / 'bin' / 'python'
    # A dependency of MXNet's, 16 kB: only where pip finds no index is there nothing to test.
    if run(python, '-m', 'pip', 'download', '--quiet', '--no-deps', 'graphviz==0.8.4',
           cwd=folder).returncode:
        pytest.skip('pip reaches no package index')
    return folder, python


def build(python, folder, **environment):
    """Build the wheel there: its path."""
    source = folder / 'source'
    source.mkdir()
    for name in ('setup.cfg', 'setup.py', 'pyproject.toml', 'LICENSE', 'MANIFEST.in'):
        shutil.copy(str(ROOT / name), str(source))
    shutil.copytree(str(ROOT / 'docs'), str(source / 'docs'))
    shutil.copytree(str(ROOT / 'center_loss_op'), str(source / 'center_loss_op'),
                    ignore=shutil.ignore_patterns('*.so'))
    checked(python, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '-w', folder, source, cwd=folder,
            **environment)
    wheel, = folder.glob('center_loss_op-*.whl')
    return wheel


def stand_in(folder):
    """A wheel mxnet-cu112 that has one module: its path."""
    path = folder / 'mxnet_cu112-1.9.1-py3-none-any.whl'
    info = 'mxnet_cu112-1.9.1.dist-info'
    files = {'mxnet.py': "__version__ = 'cu112'\n",
             f'{info}/METADATA': 'Metadata-Version: 2.1\nName: mxnet-cu112\nVersion: 1.9.1\n',
             f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    files[f'{info}/RECORD'] = ''.join(f'{name},,\n' for name in [*files, f'{info}/RECORD'])
    with zipfile.ZipFile(str(path), 'w') as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.mark.slow
def test_without_a_compiler_there_is_a_wheel_without_the_library(empty, tmp_path):
    _, python = empty
    wheel = build(python, tmp_path, CC=str(tmp_path / 'no-such-compiler'))
    names = zipfile.ZipFile(str(wheel)).namelist()
    assert 'center_loss_op/_operator/native.py' in names
    assert not [name for name in names if name.endswith('.so')]


@pytest.mark.slow
def test_a_plain_install_of_the_wheel_trains(empty, tmp_path):
    folder, python = empty
    wheel = build(python, folder)
    with zipfile.ZipFile(str(wheel)) as files:
        metadata, = (files.read(name).decode() for name in files.namelist()
                     if name.endswith('.dist-info/METADATA'))
    # An index shows the description alone: a link into the repository leads nowhere there.
    assert '# center_loss_op' in metadata
    assert all(target.startswith('https:') for target in re.findall(r'\]\((.*?)\)', metadata))
    # One for all Pythons, from 3.8 on.
    assert '-cp38-abi3-' in wheel.name
    has_library = shutil.which(sysconfig.get_config_var('CC').split()[0]) is not None
    assert has_library == ('center_loss_op/_operator/csrc/native.abi3.so'
                           in zipfile.ZipFile(str(wheel)).namelist())

    # An MXNet of another name, as mxnet-cu112 is, stays.
    checked(python, '-m', 'pip', 'install', '--quiet', stand_in(tmp_path), cwd=folder)
    checked(python, '-m', 'pip', 'install', '--quiet', wheel, cwd=folder, PIP_CONSTRAINT='')
    found = run(python, '-c', 'import mxnet; print(mxnet.__version__)', cwd=folder).stdout
    assert found == 'cu112\n'
    checked(python, '-m', 'pip', 'uninstall', '--quiet', '--yes', 'mxnet-cu112', cwd=folder)

    said = run(python, '-c', 'import center_loss_op', cwd=folder).stdout.splitlines()[-1]
    assert said.startswith('ImportError: center_loss_op needs MXNet: run pip install ')
    checked(python, '-m', 'pip', 'install', '--quiet', f'{wheel}[mxnet]', cwd=folder,
            PIP_CONSTRAINT='')
    if sys.version_info >= (3, 13):
        checked(python, '-m', *shlex.split(said.split(' run ')[1]), cwd=folder, PIP_CONSTRAINT='')
    out = checked(python, '-c', TRAIN % str(folder), cwd=folder, CENTER_LOSS_NATIVE='')
    assert ('step runs in C' in out) == has_library
    # By hand: distances² 20 and 80; the center moves by 0.5 · (6, 12) / 3.
    assert '[10.0, 40.0] [[2.0, 4.0], [4.0, 8.0]] [[0.0, 0.0], [1.0, 2.0]]' in out
    assert list((folder / 'env').glob('lib/python*/site-packages/center_loss_op/py.typed'))
