"""What the files of the project say about supported versions is the same everywhere."""
import configparser
import re
from pathlib import Path

from center_loss_op._mxnet import compat

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST, LAST = compat.PYTHONS
PYTHONS = [f'3.{minor}' for minor in range(FIRST[1], LAST[1] + 1)]


def text(name):
    return (ROOT / name).read_text(encoding='utf-8')


@pytest.fixture(name='setup', scope='module')
def fixture_setup():
    parser = configparser.ConfigParser()
    parser.read_string(text('setup.cfg'))
    return parser


def test_pythons(setup):
    assert re.findall(r'Python :: (\d\.\d+)', setup['metadata']['classifiers']) == PYTHONS
    assert setup['options']['python_requires'] == f'>=3.{FIRST[1]}, <3.{LAST[1] + 1}'
    makefile = text('Makefile')
    assert re.search('SUPPORTED := (.*)', makefile).group(1).split() == PYTHONS[::-1]
    assert f'{FIRST} <= sys.version_info < {(3, LAST[1] + 1)}' in makefile
    both = f'Python {PYTHONS[0]} to {PYTHONS[-1]}'
    assert makefile.count(both) == 1 and both in text('README.md')


@pytest.mark.parametrize('python', PYTHONS)
def test_every_dependency_is_pinned_once_within_its_range(setup, python):
    requirements = pytest.importorskip('packaging.requirements')

    def needed(lines):
        parsed = [requirements.Requirement(line) for line in lines
                  if line and not line.startswith(('center_loss_op[', '#'))]
        return [one for one in parsed
                if not one.marker or one.marker.evaluate({'python_version': python})]

    pinned = needed(text('constraints.txt').splitlines())
    pins = {pin.name: str(pin.specifier)[2:] for pin in pinned}
    assert len(pins) == len(pinned)
    extras = [line for extra in setup['options.extras_require'].values()
              for line in extra.splitlines()]
    wanted = needed(setup['options']['install_requires'].splitlines() + extras)
    assert len(wanted) > 15
    for one in wanted:
        assert one.specifier.contains(pins[one.name]), one.name


def test_mxnet_and_numpy(setup):
    (major, minor), last = compat.NUMPYS[0], compat.NUMPYS[1][0]
    required = setup['options']['install_requires'].splitlines()
    assert f'numpy >= {major}.{minor}, < {last + 1}' in required
    assert f'NumPy {major}.{minor} to {last}' in text('README.md')
    assert f'mxnet == {compat.MXNET}; python_version < "3.13"' in (
        setup['options.extras_require']['mxnet'].splitlines())
    for name in 'setup.cfg', 'README.md':
        assert f'pip install --no-deps mxnet=={compat.MXNET}' in text(name)
    # The compiler that README installs brings the libraries which the errors of an import name:
    # Debian's gcc brings both, Fedora's one.
    assert set(compat.PACKAGES) == {'libgomp.so.1', 'libquadmath.so.0'}
    debian, fedora = re.findall('(?:apt|dnf) install ([^`\n]*)', text('README.md'))[::-1]
    assert 'gcc' in debian.split() and {'gcc', 'libquadmath'} <= set(fedora.split())
