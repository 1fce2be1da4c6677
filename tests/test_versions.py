"""What the files of the project say about supported versions is the same everywhere."""
import configparser
import re
from pathlib import Path

import pytest

from center_loss_op import __main__ as main
from center_loss_op import _compat

ROOT = Path(__file__).resolve().parent.parent
FIRST, LAST = _compat.PYTHONS
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
    assert re.search('env_list = (.*)', text('tox.ini')).group(1).split(', ') == [
        'py' + python.replace('.', '') for python in PYTHONS]
    makefile = text('Makefile')
    assert sorted(re.search('SUPPORTED := (.*)', makefile).group(1).split()) == sorted(PYTHONS)
    assert '%r <= sys.version_info < %r' % (FIRST, (3, LAST[1] + 1)) in makefile
    assert makefile.count('Python %s to %s' % (PYTHONS[0], PYTHONS[-1])) == 2


def test_every_dependency_is_pinned_within_its_range(setup):
    specifiers = pytest.importorskip('packaging.specifiers')
    pinned = re.findall(r'^([\w-]+) == ([\d.]+)(?:; (.*))?$', text('constraints.txt'), re.M)
    extras = [line for extra in setup['options.extras_require'].values()
              for line in extra.splitlines()]
    lines = setup['options']['install_requires'].splitlines() + extras
    wanted = [re.match(r'([\w-]+) ([^;]+)(?:; (.*))?$', line) for line in lines
              if line and not line.startswith('center_loss_op[')]
    assert len(wanted) > 15
    for name, versions, marker in (match.groups() for match in wanted):
        pins = [version for pin, version, pin_marker in pinned
                if pin == name and (not marker or not pin_marker or pin_marker == marker)]
        assert pins, name
        assert all(version in specifiers.SpecifierSet(versions) for version in pins), name


def test_mxnet(setup):
    assert 'mxnet == ' + main.TESTED_MXNET in setup['options']['install_requires']
