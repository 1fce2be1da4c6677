"""What README and docs print is true: blocks run, commands and links lead somewhere.

The blocks of a page run in a process of their own, after those of README (tests/helpers/page.py).
The examples of a docstring run here, with the names of README's blocks.
"""
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import center_loss_op

import mxnet as mx
import numpy as np
import page
import pytest
from ported import iterator, ported

ROOT = Path(__file__).resolve().parents[2]
PAGES = [str(path.relative_to(ROOT)) for path in (
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(ROOT.glob('docs/*.md')),
    *sorted(ROOT.glob('examples/**/*.md')))]


def text(name):
    return (ROOT / name).read_text(encoding='utf-8')


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where blocks read and write files: it holds what other implementations have saved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MXNET_UPDATE_ON_KVSTORE', '1')  # which a CenterTrainer leaves as it is
    monkeypatch.delenv('MXNET_UPDATE_ON_KVSTORE')
    ported(tmp_path, 'center_loss', 20)
    mx.nd.save('center_loss.params', {'centers': mx.nd.ones((10, 32))})
    np.save('centers.npy', np.ones((10, 32)))


@pytest.mark.parametrize('name', [name for name in PAGES if page.blocks(ROOT / name)])
def test_blocks(name):
    pytest.importorskip('sklearn')
    pages = dict.fromkeys(str(ROOT / one) for one in ('README.md', name))
    done = subprocess.run(
        [sys.executable, page.__file__, *pages], check=False, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith(' blocks')


def docstrings():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(center_loss_op.__path__, 'center_loss_op.'):
        if not module.name.endswith('__main__') and (
                page.HAVE_HOROVOD or not module.name.endswith('horovod')):
            module = importlib.import_module(module.name)
            yield from (found for found in finder.find(module, module.__name__) if found.examples)


@pytest.fixture(scope='module')
def readme():
    pytest.importorskip('sklearn')
    names = {}
    page.run(ROOT / 'README.md', names)
    return names


@pytest.mark.parametrize('found', docstrings(), ids=lambda found: found.name)
@pytest.mark.filterwarnings('ignore')
def test_docstring(found, readme):
    own = {name: value for name, value in found.globs.items()
           if getattr(value, '__module__', '') == found.globs['__name__']}
    names = {**found.globs, **readme, **own}
    if 'legacy' in found.name:
        names['train_iter'] = iterator()
    for example in found.examples:
        exec(compile(example.source, found.name, 'exec'), names)
        if example.want:
            assert repr(eval(example.source, names)) == example.want.strip()
    mx.nd.waitall()


# -- links, commands and files


def prose(name):
    """A page without its blocks of code."""
    return re.sub('^```.*?^```', '', text(name), flags=re.DOTALL | re.MULTILINE)


def anchors(name):
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r'[^\w\- ]', '', re.sub(r'[*`]|\[(.*?)\]\(.*?\)', r'\1', heading).strip().lower()
                   ).replace(' ', '-') for heading in re.findall('^#+ (.*)', prose(name), re.M)}


def test_links_and_files_that_are_named():
    for name in PAGES:
        for link in re.findall(r'\]\(([^()]+(?:\([^()]*\))?)\)', prose(name)):
            path, _, anchor = link.partition('#')
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            assert '://' in link or (ROOT / target).exists(), (name, link)
            assert '://' in link or not anchor or anchor in anchors(target), (name, link)
        for path in re.findall(r'`((?:tests|examples|benchmarks|docs|center_loss_op)/'
                               r'[\w./-]+\.(?:py|sh|md|c|h|ipynb))', text(name)):
            assert (ROOT / path).exists(), (name, path)


def test_commands():
    """A target of make is there; so is a script or module, and its source names each option."""
    targets = re.findall(r'^([a-z]+):', text('Makefile'), re.MULTILINE)
    scripts = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob('examples/*.py'))]
    for name in PAGES + scripts:
        named = re.findall(r'(?:^|`)make (?:[A-Z_]+=\S+ )*([a-z]+)(?![a-z ]* [a-z])', text(name),
                           re.MULTILINE)
        assert set(named) <= set(targets), name
        for module, script, rest in re.findall(
                r'(?:^|[\s`"/(])python3? (?:-m ((?:benchmarks|center_loss_op)[\w.]*\b)'
                r'|([a-z]\w*/[\w./-]+\.py))([^`\n]*)', text(name)):
            path = ROOT / (script or module.replace('.', '/') + '.py')
            path = path if path.exists() else path.with_suffix('') / '__main__.py'
            assert path.exists(), (name, module, script)
            # Options that scripts of a folder share stand in another of its modules.
            source = ''.join(one.read_text(encoding='utf-8') for one in path.parent.glob('*.py'))
            for option in re.findall(r'(?<!\S)--[a-z][a-z-]+', rest.split('  #')[0]):
                assert repr(option) in source, (name, option)
