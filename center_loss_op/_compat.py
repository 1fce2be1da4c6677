"""What must be settled before MXNet 1.9.1 can be imported.

MXNet was last released before NumPy took its old aliases away and before Python dropped
``distutils``. With NumPy 1.24 or newer (on Python 3.12 there is no older one) MXNet imports
only where `numpy.bool` has been put back.
"""
import builtins
import importlib.util
import sys
import warnings

__all__ = ['LENT', 'PYTHONS', 'prepare']

PYTHONS = ((3, 8), (3, 12))

# The names MXNet reads: `bool` when it is imported (mxnet/numpy/utils.py) and in mx.np, `int` in
# mx.test_utils. Both were NumPy's aliases for Python's own types.
_ALIASES = ('bool', 'int')


def prepare():
    """Put those aliases back that this NumPy lacks.

    Returns
    -------
    list of str
        Their names; empty for NumPy before 1.24.

    Raises
    ------
    ImportError
        Where MXNet cannot be imported; it says what to do.
    """
    python = sys.version_info[:2]
    if not PYTHONS[0] <= python <= PYTHONS[1]:
        raise ImportError(
            'center_loss_op runs on Python %d.%d to %d.%d, this is Python %d.%d: MXNet 1.9.1 needs '
            'NumPy < 2, which has no release for it; use an environment with one of these Pythons'
            % (*PYTHONS[0], *PYTHONS[1], *python))
    import numpy  # pylint: disable=import-outside-toplevel
    if int(numpy.__version__.split('.', maxsplit=1)[0]) >= 2:
        raise ImportError("center_loss_op needs NumPy < 2 for MXNet 1.9.1, found NumPy %s: run "
                          "pip install 'numpy<2'" % numpy.__version__)
    if 'mxnet' not in sys.modules and importlib.util.find_spec('distutils') is None:
        raise ImportError('center_loss_op needs distutils for MXNet 1.9.1, but Python %d.%d has '
                          'none and setuptools is missing: run pip install setuptools' % python)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # NumPy warns whoever asks for one of them
        lost = [name for name in _ALIASES if not hasattr(numpy, name)]
    for name in lost:
        setattr(numpy, name, getattr(builtins, name))
    return lost


LENT = prepare()
