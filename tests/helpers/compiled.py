"""The step in C, compiled with other options than those of the installed package."""
import shutil
import subprocess
from pathlib import Path

import center_loss_op

import pytest

CSRC = Path(center_loss_op.__file__).parent / '_operator' / 'csrc'


def build(folder, *options):
    """The library, built with more options: its path. Skips the test if there is no compiler."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        pytest.skip('no compiler')
    library = folder / 'library.so'
    subprocess.run([compiler, '@%s' % (CSRC / 'compile_flags.txt'), '-shared', '-fPIC',
                    *map(str, options), *map(str, sorted(CSRC.glob('*.c'))), '-o', str(library)],
                   check=True)
    return library
