"""The operator's callbacks in C; everything else is said in setup.cfg."""
from setuptools import Extension, setup

setup(ext_modules=[Extension(
    # Beside its sources, which are no package: what walks over packages would import it.
    'center_loss_op._operator.csrc.native',
    sources=['center_loss_op/_operator/csrc/%s.c' % name for name in ('operator', 'params', 'step')],
    depends=['center_loss_op/_operator/csrc/%s.h' % name for name in ('mxnet', 'params', 'rows', 'step')],
    # No contraction to fused multiply-adds: processors with and without them give the same bits.
    extra_compile_args=['-std=gnu11', '-O3', '-fno-fast-math', '-ffp-contract=off',
                        '-fvisibility=hidden'],
    extra_link_args=['-pthread'],
    # No module for Python but a library that ctypes loads: one for all Pythons.
    py_limited_api=True,
    # Where no compiler is, the operator's Python callbacks do all of it.
    optional=True)])
