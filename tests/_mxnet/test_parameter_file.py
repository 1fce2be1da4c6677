"""Files of arrays: what MXNet loads is let through, and what lies about its size is not."""
import resource

from center_loss_op._mxnet.parameter_file import check_arrays

import mxnet as mx
import pytest
from parameter_files import VERSIONS, array_file


def written(path, content):
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize('version', VERSIONS)
def test_arrays_of_every_version_that_mxnet_loads_pass(tmp_path, version):
    path = written(tmp_path / 'hand', array_file(version=version))
    assert check_arrays(path) == ['x']
    with mx.util.np_shape(version == 3):
        assert mx.nd.load(path)['x'].asnumpy().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize('kind, size', [(0, 4), (1, 8), (2, 2), (3, 1), (4, 4), (5, 1), (6, 8),
                                        (7, 1), (12, 2)])
def test_every_type_passes(tmp_path, kind, size):
    path = written(tmp_path / 'typed', array_file(kind=kind, content=bytes(6 * size)))
    assert check_arrays(path) == ['x'] and mx.nd.load(path)['x'].shape == (2, 3)


def test_several_arrays_have_their_names_in_order(tmp_path):
    mx.nd.save(str(tmp_path / 'two'), {'arg:ü': mx.nd.ones(7), 'a': mx.nd.ones((3, 5))})
    assert check_arrays(str(tmp_path / 'two')) == ['arg:ü', 'a']


@pytest.mark.parametrize('shape', [(), (0,), (2, 0, 3), (1,)])
def test_shapes_as_numpy_has_them_pass(tmp_path, shape):
    path = str(tmp_path / 'shaped')
    with mx.util.np_shape(True):
        mx.nd.save(path, {'x': mx.nd.ones(shape)})
        assert check_arrays(path) == ['x'] and mx.nd.load(path)['x'].shape == shape


def test_no_arrays_have_no_names(tmp_path):
    mx.nd.save(str(tmp_path / 'none'), {})
    assert check_arrays(str(tmp_path / 'none')) == []


ENDS, OTHER, UNKNOWN = ('ends before its arrays do', 'holds something other than dense arrays',
                        'holds an array of no known type or shape')
LIES = [
    (b'', ENDS), (array_file()[:30], ENDS), (bytes(100), 'is not a file of arrays'),
    (array_file(storage=1), OTHER), (array_file(storage=-1), OTHER),
    (array_file(shape=(1 << 40, 1 << 40)), ENDS), (array_file(shape=(-1, -6)), UNKNOWN),
    (array_file(shape=(1 << 60,), dimensions=1), ENDS),
    (array_file(shape=(2, 0), version=1), UNKNOWN),
    (array_file(shape=(2, -1), version=3), UNKNOWN),
] + [(array_file(version=version, **lies), complaint) for version in VERSIONS
     for lies, complaint in [
         ({'count': 1 << 26}, ''), ({'count': 1 << 60}, ''), ({'count': (1 << 64) - 1}, ''),
         ({'keys': 1 << 40}, 'has 1 arrays, but %d names' % (1 << 40)),
         ({'keys': 0}, 'has 1 arrays, but 0 names'), ({'key': 0}, 'goes on after its end'),
         ({'key': 2}, ENDS), ({'key': 1 << 40}, ENDS), ({'key': 1 << 62}, ENDS),
         ({'key': 1 << 63}, ENDS), ({'name': b'xy'}, 'goes on after its end'),
         ({'name': b'\xff'}, 'has a name that is not UTF-8'),
         ({'shape': (1 << 20, 1 << 20)}, ENDS), ({'shape': (1 << 31, 1 << 31)}, ENDS),
         ({'shape': (2, 4)}, ''), ({'shape': (1,) * 33, 'dimensions': 33}, OTHER),
         ({'dimensions': 1 << 28}, OTHER), ({'kind': 99}, UNKNOWN), ({'kind': -1}, UNKNOWN),
     ]] + [(array_file(version=version, shape=(), dimensions=0), OTHER) for version in (0, 1, 2)]


@pytest.mark.parametrize('content, complaint', LIES)
def test_what_is_wrong_is_one_line_that_names_the_file(tmp_path, content, complaint):
    path = written(tmp_path / 'wrong', content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:
        check_arrays(path)
    assert str(error.value).startswith('%s %s' % (path, complaint))
    assert '\n' not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KB


@pytest.mark.parametrize('version', VERSIONS)
def test_no_part_of_a_file_passes(tmp_path, version):
    content = array_file(version=version)
    for size in range(len(content)):
        with pytest.raises(ValueError):
            check_arrays(written(tmp_path / 'part', content[:size]))


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_arrays(str(tmp_path / 'missing'))
