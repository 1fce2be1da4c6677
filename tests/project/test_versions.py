"""What the files of the project say about supported versions is the same everywhere."""
import configparser
import re
from pathlib import Path

from center_loss_op._mxnet import compat

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST, LAST = compat.PYTHONS
PYTHONS = ['3.%d' % minor for minor in range(FIRST[1], LAST[1] + 1)]


def text(name):
    return (ROOT / name).read_text(encoding='utf-8')


@pytest.fixture(name='setup', scope='module')
def fixture_setup():
    parser = configparser.ConfigParser()
    parser.read_string(text('setup.cfg'))
    return parser


def test_pythons(setup):
    assert re.findall(r'Python :: (\d\.\d+)', setup['metadata']['classifiers']) == PYTHONS
    assert setup['options']['python_requires'] == '>=3.%d, <3.%d' % (FIRST[1], LAST[1] + 1)
    makefile = text('Makefile')
    assert re.search('SUPPORTED := (.*)', makefile).group(1).split() == PYTHONS[::-1]
    assert '%r <= sys.version_info < %r' % (FIRST, (3, LAST[1] + 1)) in makefile
    both = 'Python %s to %s' % (PYTHONS[0], PYTHONS[-1])
    assert makefile.count(both) == 1 and both in text('README.md')


def test_numpy(setup):
    (major, minor), last = compat.NUMPYS[0], compat.NUMPYS[1][0]
    required = setup['options']['install_requires'].splitlines()
    assert 'numpy >= %d.%d, < %d' % (major, minor, last + 1) in required
    assert 'NumPy %d.%d to %d' % (major, minor, last) in text('README.md')


@pytest.mark.parametrize('python', PYTHONS)
def test_every_dependency_is_pinned_once_within_its_range(setup, python):
    requirements = pytest.importorskip('packaging.requirements')

    def needed(lines):
        parsed = [requirements.Requirement(line) for line in lines
                  if line and not line.startswith(('center_loss_op[', '#'))]
        return [one for one in parsed
                if not one.marker or one.marker.evaluate({'python_version': python})]

    pins = {}
    for pin in needed(text('constraints.txt').splitlines()):
        assert pin.name not in pins
        (version,) = pin.specifier
        assert version.operator == '=='
        pins[pin.name] = version.version
    extras = [line for extra in setup['options.extras_require'].values()
              for line in extra.splitlines()]
    wanted = needed(setup['options']['install_requires'].splitlines() + extras)
    assert len(wanted) > 15
    for one in wanted:
        assert one.specifier.contains(pins[one.name]), one.name


def test_mxnet(setup):
    assert 'mxnet == %s; python_version < "3.13"\n' % compat.MXNET in (
        setup['options.extras_require']['mxnet'] + '\n')
    for name in 'setup.cfg', 'README.md':
        assert 'pip install --no-deps mxnet==' + compat.MXNET in text(name)
    assert '--no-deps mxnet' in text('Makefile')


def test_packages_of_the_system():
    """The README installs a compiler, and with it the libraries that the errors name.

    Debian's gcc depends on both; Fedora's on libgomp alone.
    """
    line, = re.findall('^apt install (.*)', text('README.md'), re.M)
    assert {'python3-venv', 'gcc', 'make', 'git'} == set(line.split())
    assert set(compat.PACKAGES) == {'libgomp.so.1', 'libquadmath.so.0'}
    fedora, = re.findall('dnf install ([^`]*)`', text('README.md'))
    assert {'gcc', 'libquadmath'} <= set(fedora.split())
