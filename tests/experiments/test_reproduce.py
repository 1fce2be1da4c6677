"""The paper's pictures, from grids of runs of an epoch or two on digits."""
import os
import re
import shutil
import signal

import checkpoint
import data
import numpy as np
import plots
import pytest
import reproduce
import train
from evaluation import Evaluation
from matplotlib.figure import Figure
from options import RECIPES
from PIL import Image


@pytest.fixture(name='small', scope='module', autouse=True)
def small_fixture():
    """A grid of fewer values, with a fifth of the images, and empty pictures of single runs."""
    patch, load = pytest.MonkeyPatch(), data.load
    patch.setattr(data, 'load', lambda *args: tuple(
        data.Split(part.images[::5], part.labels[::5]) for part in load(*args)))
    for name in 'embedding_figure', 'curves_figure':
        patch.setattr(plots, name, lambda *args: Figure())
    patch.setattr(reproduce, 'LAMBDAS', (0.01, 0.1))
    patch.setattr(reproduce, 'ALPHAS', (0, 0.5))
    yield
    patch.undo()


@pytest.fixture(name='folder', scope='module')
def folder_fixture(tmp_path_factory):
    """The output folder of everything at once, two epochs and two seeds."""
    folder = tmp_path_factory.mktemp('grid')
    reproduce.main(['--figure', 'distributions', 'lambda', 'alpha', '--animate', '--epochs', '2',
                    '--seeds', '0', '1', '--center-weight', '0.1', '--output-dir', str(folder)])
    return folder


@pytest.fixture(name='trained')
def trained_fixture(monkeypatch):
    """The options of every run that is trained from here on."""
    trained, original = [], train.train

    def count(options, each_epoch=None):
        trained.append(options)
        return original(options, each_epoch)

    monkeypatch.setattr(train, 'train', count)
    return trained


def options_of(*arguments):
    return reproduce.parse(list(arguments))


@pytest.mark.slow
def test_every_figure_is_there(folder):
    for name in 'distributions', 'lambda', 'alpha':
        with Image.open(str(folder / ('digits-%s.png' % name))) as picture:
            assert picture.format == 'PNG'
            assert len(set(picture.convert('L').getdata())) > 50  # not a blank page
    assert sorted(path.name for path in folder.iterdir()) == [
        '.lock', 'digits-alpha.png', 'digits-animation.gif', 'digits-distributions.png',
        'digits-lambda.png', 'runs']


def test_the_animation_has_a_frame_an_epoch_and_rests_on_the_last(folder):
    with Image.open(str(folder / 'digits-animation.gif')) as film:
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append((np.asarray(film.convert('RGB')), film.info['duration']))
    # Pillow joins equal frames to one that is shown for longer.
    assert len(frames) == 2
    assert (frames[0][0] != frames[1][0]).any()
    assert frames[1][1] > frames[0][1]


@pytest.mark.slow
def test_runs_are_shared_and_reused(folder, trained, capsys):
    # softmax, center, joint at three λ and α: (0.1, 0.5), (0.01, 0.5), (0.1, 0)
    assert len(os.listdir(str(folder / 'runs'))) == 2 * 5
    reproduce.main(['--figure', 'lambda', '--animate', '--epochs', '2', '--seeds', '0', '1',
                    '--center-weight', '0.1', '--output-dir', str(folder)])
    assert not trained
    rows = capsys.readouterr().out.splitlines()
    assert [row[:8] for row in rows[2:4]] == ['λ = 0.01', 'λ = 0.1 ']
    assert all('±' in row for row in rows[2:4])


def test_a_grid_that_was_stopped_goes_on(tmp_path, trained, monkeypatch):
    arguments = ['--figure', 'lambda', '--epochs', '3', '--output-dir', str(tmp_path)]
    write, epochs = reproduce.run.write, []

    def stop(options, name, content):
        write(options, name, content)
        epochs.append(name)
        if len(epochs) == 5:  # features and history: in the third epoch of the first run
            raise KeyboardInterrupt

    monkeypatch.setattr(reproduce.run, 'write', stop)
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(arguments)
    monkeypatch.setattr(reproduce.run, 'write', write)
    assert len(trained) == 1
    kept = tmp_path / 'runs' / os.path.basename(trained[0].output_dir) / 'features' / '1.npz'
    before = kept.stat().st_mtime_ns
    reproduce.main(arguments)
    assert kept.stat().st_mtime_ns == before
    assert [options.center_weight for options in trained] == [0.01, 0.01, 0.1]


def test_the_features_drawn_are_those_of_the_trained_network(folder):
    """The last epoch's, as kept for the animation, against the checkpoint's."""
    options = options_of('--figure', 'lambda', '--epochs', '2', '--output-dir', str(folder))
    splits = reproduce.data.load('digits')
    for cell in reproduce.cells('distributions', 0.1):
        one = reproduce.Run(options, cell, seed=1)
        assert one.finished()
        training, test = one.evaluations(splits)
        kept = one.features(2, splits[1].labels)
        np.testing.assert_allclose(test.embedding, kept.embedding, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(test.centers, kept.centers)
        assert test.metrics['accuracy'] == one.metrics()['accuracy']
        assert len(training.embedding) == len(splits[0].labels)


def test_the_grid_varies_what_its_figure_says():
    options = options_of('--figure', 'lambda')
    runs = {figure: [reproduce.Run(options, cell, 0).options
                     for cell in reproduce.cells(figure, 0.3)]
            for figure in ('distributions', 'lambda', 'alpha')}
    assert [one.loss for one in runs['distributions']] == ['softmax', 'center', 'joint']
    assert [one.center_weight for one in runs['distributions']][2] == 0.3
    assert [one.center_weight for one in runs['lambda']] == [0.01, 0.1]
    assert [(one.alpha, one.center_weight) for one in runs['alpha']] == [(0, 0.3), (0.5, 0.3)]


@pytest.mark.parametrize('dataset', sorted(RECIPES))
def test_a_run_has_one_folder_whether_its_values_are_given_or_the_recipes(dataset):
    options = options_of('--figure', 'lambda', '--dataset', dataset)
    given = [text for name, value in RECIPES[dataset].items()
             for text in ('--' + name.replace('_', '-'), '%g' % value)]
    folders = {reproduce.Run(options, reproduce.Cell('', 'joint', tuple(arguments)), 0)
               .options.output_dir for arguments in ([], given)}
    assert len(folders) == 1


class Finished:
    """A run of known metrics."""

    def __init__(self, **metrics):
        self.metrics = lambda: metrics


def test_mean_and_spread():
    runs = [Finished(accuracy=0.98, compactness=0.2), Finished(accuracy=0.96, compactness=None),
            Finished(accuracy=0.97, compactness=0.4)]
    assert reproduce.spread(runs, 'accuracy') == '97.00 ± 1.00 %'
    assert reproduce.spread(runs, 'compactness') == '0.300 ± 0.141'
    assert reproduce.spread(runs[:1], 'accuracy') == '98.00 %'
    assert reproduce.spread(runs[1:2], 'compactness') == '-'


@pytest.mark.slow
def test_a_center_of_a_collapsed_run_can_be_drawn(tmp_path):
    class Collapsed:
        """Every feature at 0."""
        epochs = 2
        features = staticmethod(lambda epoch, labels: Evaluation(
            np.zeros((10, 2)), labels, np.zeros((10, 2)), {}))

    cells = {cell: [Collapsed()] for cell in reproduce.cells('animation', None)}
    reproduce.animate(cells, np.arange(10.), str(tmp_path / 'film.gif'))
    assert (tmp_path / 'film.gif').stat().st_size > 0


@pytest.mark.parametrize('arguments, words', [
    ([], 'nothing to draw: give --figure or --animate'),
    (['--figure', 'lambda', '--seeds', '-1'], '--seeds'),
    (['--figure', 'lambda', '--resume'], 'unrecognized arguments: --resume'),
    (['--figure', 'beta'], "invalid choice: 'beta'")])
def test_impossible_arguments_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        reproduce.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_runs_of_other_options_are_not_reused(tmp_path):
    cell = reproduce.cells('distributions', None)[0]
    folders = {reproduce.Run(options_of('--animate', '--output-dir', str(tmp_path), *more), cell,
                             seed).options.output_dir
               for seed in (0, 1) for more in (
                   [], ['--epochs', '3'],
                   ['--dataset', 'mnist', '--data-dir', str(tmp_path / 'one')],
                   ['--dataset', 'mnist', '--data-dir', str(tmp_path / 'other')])}
    assert len(folders) == 8


@pytest.mark.slow
def test_metrics_without_a_checkpoint_are_no_finished_run(folder, tmp_path, trained):
    """As after a copy of the results alone."""
    arguments = ['--figure', 'distributions', '--epochs', '2', '--center-weight', '0.1',
                 '--output-dir', str(tmp_path)]
    shutil.copytree(str(folder / 'runs'), str(tmp_path / 'runs'))
    lost = next(path for path in (tmp_path / 'runs').iterdir()
                if 'softmax' in path.name and path.name.endswith('seed_0'))
    shutil.rmtree(str(lost / 'checkpoints'))
    reproduce.main(arguments)
    assert [options.loss for options in trained] == ['softmax']


def test_a_second_command_in_the_same_folder_is_refused(tmp_path, trained):
    with reproduce.run.locked(str(tmp_path), []):
        with pytest.raises(reproduce.run.TrainingError, match='another run is using'):
            reproduce.main(['--animate', '--output-dir', str(tmp_path)])
    assert not trained


def test_a_picture_that_is_a_folder_shows_before_the_training(tmp_path, trained):
    (tmp_path / 'digits-animation.gif').mkdir()
    with pytest.raises(checkpoint.CheckpointError, match='cannot write .*gif: it is a folder'):
        reproduce.main(['--animate', '--output-dir', str(tmp_path)])
    assert not trained


def test_a_folder_without_mnist_is_refused(tmp_path, trained):
    with pytest.raises(reproduce.data.DataError, match='--data-dir is for --dataset mnist'):
        reproduce.main(['--animate', '--data-dir', str(tmp_path), '--output-dir', str(tmp_path)])
    assert not trained


@pytest.mark.parametrize('file, content, complaint', [
    ('features/1.npz', b'PK', 'features/1.npz: it is no .npz file'),
    ('features/1.npz', checkpoint.npz(embedding=np.zeros((2, 2))),
     'features/1.npz: it must have embedding and centers, it has embedding'),
    ('metrics.json', b'{"acc', 'metrics.json: .*; delete it to evaluate the run again')])
def test_a_damaged_file_of_a_run_is_named(folder, tmp_path, file, content, complaint):
    shutil.copytree(str(folder / 'runs'), str(tmp_path / 'runs'))
    for path in (tmp_path / 'runs').glob('*/' + file):
        path.write_bytes(content)
    with pytest.raises(reproduce.data.DataError, match='cannot read .*' + complaint):
        reproduce.main(['--animate', '--epochs', '2', '--center-weight', '0.1', '--output-dir',
                        str(tmp_path)])


def test_a_checkpoint_that_lacks_the_centers_is_one_line(folder, tmp_path):
    options = options_of('--figure', 'lambda', '--epochs', '2', '--output-dir', str(folder))
    one = reproduce.Run(options, reproduce.cells('distributions', 0.1)[0], seed=0)
    saved = checkpoint.load(one.options.output_dir, pytest.fail)
    one.options.output_dir = str(tmp_path)
    checkpoint.save(str(tmp_path), 1, reproduce.mx.sym.var('x'), saved.arg_params, {},
                    saved.optimizer_states, saved.state)
    with pytest.raises(checkpoint.CheckpointError, match='has no parameter center_loss_center'):
        one.evaluations(reproduce.data.load('digits'))


def test_help_names_each_default_once(capsys):
    with pytest.raises(SystemExit):
        reproduce.parse(['--help'])
    assert "recipe) (default" not in ' '.join(capsys.readouterr().out.split())


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(options, name, content):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(reproduce.run, 'write', interrupt)
    with pytest.raises(SystemExit) as caught:
        reproduce.run.script(
            lambda: reproduce.main(['--figure', 'lambda', '--output-dir', str(tmp_path)]),
            'the same command continues')
    assert caught.value.code == 130
    assert re.search('SIGINT: saved .*step-[0-9]*, the same command continues\n$',
                     capsys.readouterr().err)


@pytest.mark.skipif(not os.path.isdir('/sys/kernel'), reason='no folder that root cannot write to')
def test_a_folder_that_cannot_be_written_shows_before_the_training(trained):
    with pytest.raises(checkpoint.CheckpointError, match='cannot write to /sys/kernel'):
        reproduce.main(['--animate', '--output-dir', '/sys/kernel'])
    assert not trained
