"""Every command that a page prints names a script that exists, with options that it has."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'examples' / 'README.md', ROOT / 'experiments' / 'README.md',
         *sorted((ROOT / 'docs').glob('*.md')), *sorted((ROOT / 'examples').glob('*.py'))]


def commands():
    for page in PAGES:
        text = page.read_text(encoding='utf-8').replace('\\\n', ' ')
        for found in re.finditer(r'python ((?:examples|experiments)/[a-z_]+\.py)([^\n`]*)', text):
            yield pytest.param(*found.groups(), id=f'{page.name}: {found.group(1)}')


@pytest.mark.parametrize('script, rest', commands())
def test_the_script_and_its_options_exist(script, rest):
    source = ROOT / script
    assert source.exists()
    own = rest.split(' python ')[0]     # a launcher is followed by the command that it runs
    known = source.read_text(encoding='utf-8')
    if script.startswith('experiments/'):
        known += (ROOT / 'experiments' / 'options.py').read_text(encoding='utf-8')
    for option in re.findall(r'(?<=\s)--?[a-z][a-z-]*', own.split('#')[0]):
        assert repr(option) in known, option


def test_there_are_commands():
    assert len(list(commands())) > 10
