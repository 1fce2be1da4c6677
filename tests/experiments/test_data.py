"""The data of the examples; every idx file here is written by the test."""
import gzip
import os
import resource
import struct

import data
import numpy as np
import pytest

PIXELS = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
LABELS = np.array([7, 0, 9])


def idx(array, kind=0x08, shape=None):
    """The bytes of an idx file, after its description at yann.lecun.com/exdb/mnist."""
    shape = array.shape if shape is None else shape
    return (struct.pack('>BBBB', 0, 0, kind, len(shape)) + struct.pack('>%dI' % len(shape), *shape)
            + array.astype(np.uint8).tobytes())


@pytest.fixture(name='mnist')
def mnist_fixture(tmp_path):
    """A folder with the four files of a small MNIST, two of them gzipped."""
    for part, images, labels in (('train', PIXELS, LABELS), ('t10k', PIXELS[:2], LABELS[:2])):
        (tmp_path / (part + '-images-idx3-ubyte.gz')).write_bytes(gzip.compress(idx(images)))
        (tmp_path / (part + '-labels-idx1-ubyte')).write_bytes(idx(labels))
    return tmp_path


def error_of(folder):
    with pytest.raises(data.DataError) as error:
        data.load('mnist', str(folder))
    return str(error.value)


def test_digits_have_a_fixed_stratified_split():
    train, test = data.load('digits')
    assert train.images.shape == (1437, 1, 8, 8) and test.images.shape == (360, 1, 8, 8)
    assert train.images.min() == 0 and train.images.max() == 1
    whole = np.bincount(np.concatenate([train.labels, test.labels]).astype(int))
    assert (abs(np.bincount(test.labels.astype(int)) - whole / 5) < 1).all()
    np.testing.assert_array_equal(test.images, data.load('digits')[1].images)
    rows = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in rows for image in test.images) == 0


def test_validation_leaves_the_test_set_alone():
    whole = [image.tobytes() for image in data.load('digits')[0].images]
    train, held_out = data.load('digits', validate=True)
    assert len(held_out.labels) == 1437 // 6
    assert sorted(image.tobytes() for part in (train, held_out) for image in part.images) \
        == sorted(whole)
    np.testing.assert_array_equal(held_out.labels,
                                  data.load('digits', validate=True)[1].labels)


def test_mnist_reads_plain_and_gzipped_files(mnist):
    train, test = data.load('mnist', str(mnist))
    np.testing.assert_allclose(train.images, PIXELS[:, None] / 255, rtol=1e-6)
    np.testing.assert_array_equal(train.labels, LABELS)
    assert test.images.shape == (2, 1, 28, 28)
    assert {part.dtype for part in train + test} == {np.dtype(np.float32)}


def test_mnist_needs_a_folder():
    with pytest.raises(data.DataError, match='give their folder with --data-dir'):
        data.load('mnist')


def test_a_missing_file_is_named(mnist):
    (mnist / 't10k-labels-idx1-ubyte').unlink()
    assert error_of(mnist) == ('t10k-labels-idx1-ubyte not found in %s, neither as it is nor as .gz'
                               % mnist)


@pytest.mark.parametrize('content, complaint', [
    (b'', 'an idx file of 1-dimensional bytes begins with 00000801, this one with nothing'),
    (idx(LABELS, kind=0x0d), 'begins with 00000801, this one with 00000d01'),
    (idx(PIXELS), 'begins with 00000801, this one with 00000803'),
    (idx(LABELS)[:6], 'it ends within its header'),
    (idx(LABELS)[:-1], 'its header promises 3 bytes of data, it has 2'),
    (idx(LABELS) + b'x', 'its header promises 3 bytes of data, it has more'),
    (idx(LABELS, shape=(2 ** 32 - 1,)),
     'its header promises 4294967295 bytes of data, more than the file can hold'),
    (idx(np.array([7, 10, 9])), 'label 10, but digits go from 0 to 9'),
    (idx(LABELS[:2]), 'train-images-idx3-ubyte.gz has 3 images, but .* has 2 labels'),
])
@pytest.mark.parametrize('compressed', [False, True])
def test_a_corrupt_file_is_named(mnist, content, complaint, compressed):
    path = mnist / 'train-labels-idx1-ubyte'
    if compressed:
        path.unlink()
        path = path.with_name(path.name + '.gz')
        content = gzip.compress(content)
    path.write_bytes(content)
    message = error_of(mnist)
    assert str(path) in message and '\n' not in message
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(message)


def test_images_of_another_size_are_refused(mnist):
    path = mnist / 'train-images-idx3-ubyte'
    path.write_bytes(idx(PIXELS[:, :27]))
    assert error_of(mnist) == ('%s is corrupt: its items should have shape (28, 28), its header '
                               'says (27, 28)' % path)


@pytest.mark.parametrize('content', [
    b'not gzip at all', gzip.compress(idx(LABELS))[:-5],
    gzip.compress(idx(LABELS))[:-8] + bytes(8),     # checksum and length of the content
], ids=['other', 'truncated', 'checksum'])
def test_corrupt_gzip_is_named(mnist, content):
    (mnist / 'train-labels-idx1-ubyte').unlink()
    path = mnist / 'train-labels-idx1-ubyte.gz'
    path.write_bytes(content)
    assert error_of(mnist).startswith('%s is corrupt: ' % path)


@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo])
@pytest.mark.parametrize('name', ['train-labels-idx1-ubyte', 't10k-labels-idx1-ubyte',
                                  'train-images-idx3-ubyte'])
def test_what_is_no_file_is_not_opened(mnist, make, name):
    path = mnist / name
    if path.exists():
        path.unlink()
    make(str(path))
    assert error_of(mnist) == 'cannot read %s: it is no file' % path


@pytest.mark.parametrize('labels, count', [([], 0), ([4], 1), ([7, 7, 7], 1)])
@pytest.mark.parametrize('part', ['train', 't10k'])
def test_fewer_than_two_classes_are_refused(mnist, part, labels, count):
    path = mnist / (part + '-labels-idx1-ubyte')
    path.write_bytes(idx(np.array(labels)))
    (mnist / (part + '-images-idx3-ubyte.gz')).write_bytes(
        gzip.compress(idx(PIXELS[:len(labels)])))
    assert error_of(mnist) == ('%s has %d labels of %d classes, at least 2 classes are needed'
                               % (path, len(labels), count))


@pytest.mark.parametrize('compressed', [False, True])
def test_sizes_are_checked_before_memory_is_taken(tmp_path, compressed):
    """A file of 16 bytes that promises 4 GB; and its gzip, which could hold 16 KB at most."""
    content = idx(np.empty((0,)), shape=(2 ** 32 // 784, 28, 28))
    path = tmp_path / ('images.gz' if compressed else 'images')
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert len(content) == 16
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(data.DataError, match='promises 4294966816 bytes of data, more than'):
        data.read_idx(str(path), (28, 28))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KB


def test_more_than_the_header_promises_is_not_unpacked(tmp_path):
    path = tmp_path / 'labels.gz'
    path.write_bytes(gzip.compress(idx(LABELS) + bytes(2 ** 28)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(data.DataError, match='promises 3 bytes of data, it has more'):
        data.read_idx(str(path), ())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_an_epoch_sees_every_image_at_most_once_in_an_order_of_its_own():
    split = data.Split(np.arange(10.), np.arange(10.))
    epochs = [np.concatenate([labels for _, labels in data.batches(split, 3, 5, epoch)])
              for epoch in range(3)]
    assert all(len(set(epoch)) == len(epoch) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for start in range(4):
        rest = [labels for _, labels in data.batches(split, 3, 5, 1, start=start)]
        assert len(rest) == 3 - start
        np.testing.assert_array_equal(np.concatenate(rest or [[]]), epochs[1][3 * start:])


def test_another_seed_is_another_order():
    split = data.Split(np.arange(100.), np.arange(100.))
    first, other = (next(data.batches(split, 100, seed, 0))[1] for seed in (0, 1))
    assert sorted(first) == sorted(other) and (first != other).any()


def test_moved_images_are_the_same_digits_elsewhere():
    images = np.random.RandomState(0).uniform(0.1, 1, (6, 1, 5, 4)).astype(np.float32)
    split = data.Split(images, np.arange(6, dtype=np.float32))
    moves = set()
    for epoch in range(20):
        for moved, labels in data.batches(split, 3, 0, epoch, shift=2):
            for image, label in zip(moved, labels):
                original = np.zeros((9, 8), np.float32)
                original[2:7, 2:6] = images[int(label), 0]
                found = [(down, right) for down in range(-2, 3) for right in range(-2, 3)
                         if (original[2 - down:7 - down, 2 - right:6 - right] == image[0]).all()]
                assert len(found) == 1
                moves.update(found)
    assert len(moves) == 25


def test_moves_are_those_of_the_seed_also_after_a_restart():
    split, _ = data.load('digits')
    whole = list(data.batches(split, 400, 1, 2, shift=1))
    rest = list(data.batches(split, 400, 1, 2, start=2, shift=1))
    for (images, labels), (again, same) in zip(whole[2:], rest):
        assert (images == again).all() and (labels == same).all()
    other = next(data.batches(split, 400, 1, 3, shift=1))[0]
    assert (whole[0][0] != other).any()
    unmoved = next(data.batches(split, 400, 1, 2))
    assert (unmoved[1] == whole[0][1]).all() and (unmoved[0] != whole[0][0]).any()
