"""Parameter files of MXNet, written by hand."""
import struct

import numpy as np

MAGICS = {1: 0xF993fac8, 2: 0xF993fac9, 3: 0xF993faca}  # by version; version 0 has none
VERSIONS = (0, *MAGICS)
CONTENT = np.arange(6, dtype='<f4').tobytes()


def array_file(count=1, dimensions=2, shape=(2, 3), kind=0, content=CONTENT, storage=0, keys=1,
               key=1, name=b'x', version=2):
    """A file of mx.nd.save by hand, in the format of a version, with sizes that may lie."""
    begin = (struct.pack('<I', MAGICS[version]) if version else b'') + (
        struct.pack('<i', storage) if version > 1 else b'')
    return (struct.pack('<QQQ', 0x112, 0, count) + begin + struct.pack('<I', dimensions)
            + struct.pack('<%d%s' % (len(shape), 'q' if version else 'I'), *shape)
            + struct.pack('<iii', 1, 0, kind) + content + struct.pack('<QQ', keys, key) + name)
