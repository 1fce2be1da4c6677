"""examples/paper_figures.py: pictures of short trainings, of MNIST, and after a kill."""
import gzip
import struct

import paper_figures
import pytest
from mxnet import gluon
from patterns import patterns
from PIL import Image


@pytest.fixture(name='mnist')
def write_mnist(tmp_path):
    """A folder with small files of MNIST, two of them gzipped."""
    for part, each, write in ('train', 30, gzip.open), ('t10k', 5, open):
        images, labels = patterns(10, each, side=28)
        for name, array, magic in ('images-idx3', images, 2051), ('labels-idx1', labels, 2049):
            path = tmp_path / f'{part}-{name}-ubyte{".gz" if write is gzip.open else ""}'
            with write(str(path), 'wb') as file:
                file.write(struct.pack(f'>{1 + array.ndim}I', magic, *array.shape))
                file.write(array.astype('uint8').tobytes())
    return tmp_path


def run(out, *arguments):
    paper_figures.main(['--output-dir', str(out), '--epochs', '2', *arguments])


def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_figures, 'LAMBDAS', (0.01, 0.1))
    run(tmp_path / 'whole', '--figures', 'lambda')
    step, steps = gluon.Trainer.step, []

    def killed(trainer, size):
        steps.append(size)
        if len(steps) == 30:        # in the second of two epochs of 22 steps
            raise KeyboardInterrupt
        step(trainer, size)

    monkeypatch.setattr(gluon.Trainer, 'step', killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'killed', '--figures', 'lambda')
    run(tmp_path / 'killed', '--figures', 'lambda')
    whole, again = ([path.read_bytes() for path in sorted((tmp_path / name).glob('**/result.npz'))]
                    for name in ('whole', 'killed'))
    assert len(whole) == 2 and whole == again
    run(tmp_path / 'killed', '--figures', 'lambda')
    assert len(steps) == 30 + 22 + 44


def test_every_picture_of_mnist_and_the_table(mnist, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper_figures, 'ALPHAS', (0., 0.5))
    out = tmp_path / 'out'
    run(out, '--dataset', 'mnist', '--data-dir', str(mnist), '--figures', 'distributions', 'alpha',
        '--epochs', '1', '--seeds', '0', '1')
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(' | ')[0] for row in rows if '±' in row] == [
        '| softmax alone', '| center loss alone', '| both', '| α = 0', '| α = 0.5']
    assert len(list(out.glob('trainings/*'))) == 2 * 4      # both figures have α = 0.5
    names = 'softmax', 'center', 'joint', 'distributions', 'alpha'
    assert {path.name for path in out.glob('*.png')} == {f'mnist-{name}.png' for name in names}
    with Image.open(str(out / 'mnist-distributions.png')) as picture:
        assert len(picture.convert('L').getcolors()) > 50       # not a blank page
    path = mnist / 'train-labels-idx1-ubyte.gz'
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(paper_figures.checkpoint.DataError, match='cannot read .*labels'):
        run(out, '--dataset', 'mnist', '--data-dir', str(mnist))
