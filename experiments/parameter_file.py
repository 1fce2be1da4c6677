"""Files of mx.nd.save, checked before MXNet reads them.

MXNet allocates the memory that a header asks for before it checks the size of the file: 14 GB for
a file of 56 bytes.
"""
import math
import os
import struct
from typing import List

__all__ = ['check_arrays']

_FILE_MAGIC = 0x112
# The magic numbers that an array begins with, one per format: lengths of 64 bits; a storage type
# before them; the same with NumPy's shapes, which may have no dimension, or a length of 0. The
# oldest format has no magic number: it begins with the number of lengths, which have 32 bits.
_LONG, _STORED, _NUMPY = 0xF993fac8, 0xF993fac9, 0xF993faca
_DENSE = 0
_MOST_DIMENSIONS = 32
# Bytes per element, by MXNet's number of the type.
_ITEM_SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 12: 2}


def check_arrays(path: str) -> List[str]:
    """Check that the sizes that a file of named arrays states agree with the size of the file.

    Parameters
    ----------
    path : str
        A file of dense arrays, from any version of MXNet up to 1.9.1.

    Returns
    -------
    list of str
        The names of the arrays.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        Names the file and what is wrong with it.
    """
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size

        def need(count):
            if count > size - file.tell():
                raise ValueError('%s ends before its arrays do' % path)
            return count

        def take(layout):
            return struct.unpack(layout, file.read(need(struct.calcsize(layout))))

        magic, _, arrays = take('<QQQ')
        if magic != _FILE_MAGIC:
            raise ValueError('%s is not a file of arrays' % path)
        for _ in range(arrays):
            magic, = take('<I')
            storage, dimensions, length = _DENSE, magic, 'I'
            if magic in (_STORED, _NUMPY):
                storage, = take('<i')
            if magic in (_LONG, _STORED, _NUMPY):
                (dimensions,), length = take('<I'), 'q'
            least = 0 if magic == _NUMPY else 1
            if storage != _DENSE or not least <= dimensions <= _MOST_DIMENSIONS:
                raise ValueError('%s holds something other than dense arrays' % path)
            shape = take('<%d%s' % (dimensions, length))
            *_, kind = take('<iii')  # the device, then the type
            if kind not in _ITEM_SIZES or any(length < least for length in shape):
                raise ValueError('%s holds an array of no known type or shape' % path)
            file.seek(need(math.prod(shape) * _ITEM_SIZES[kind]), os.SEEK_CUR)
        names, = take('<Q')
        if names != arrays:
            raise ValueError('%s has %d arrays, but %d names' % (path, arrays, names))
        try:
            result = [file.read(need(*take('<Q'))).decode() for _ in range(names)]
        except UnicodeDecodeError:
            raise ValueError('%s has a name that is not UTF-8' % path) from None
        if file.tell() != size:
            raise ValueError('%s goes on after its end' % path)
        return result
