"""Builds the operator's callbacks in C; everything else is in setup.cfg."""
from pathlib import Path

from setuptools import Extension, setup

CSRC = Path('center_loss_op/_operator/csrc')

setup(ext_modules=[Extension(
    # The library lies next to its sources, in a folder that is no package: tools that import all
    # modules of a package do not find it.
    'center_loss_op._operator.csrc.native',
    sources=sorted(map(str, CSRC.glob('*.c'))),
    depends=sorted(map(str, CSRC.glob('*.h'))),
    # The tests read the same file: gcc @compile_flags.txt. -ffp-contract=off, because processors
    # with and without fused multiply-adds must give the same bits.
    extra_compile_args=(CSRC / 'compile_flags.txt').read_text().split(),
    # -z defs: a function of a library that is not linked (libm's sqrt) fails here, not at a user's.
    extra_link_args=['-pthread', '-Wl,-z,defs'],
    # ctypes loads the library; it does not use Python's API, so one build serves every Python.
    py_limited_api=True,
    # Without a compiler, Python's callbacks do everything.
    optional=True)])
