"""Draw the figures of the paper on digits or MNIST: trains a grid of runs.

    python experiments/reproduce.py --figure distributions --output-dir out/reproduce
    python experiments/reproduce.py --figure lambda --dataset mnist --data-dir DIR
    python experiments/reproduce.py --figure alpha --seeds 0 1 2
    python experiments/reproduce.py --animate

Each run has a folder of its own in the output folder. Finished runs are used again, an interrupted
run continues where it stopped.
"""
import argparse
import contextlib
import io
import json
import math
import os
import zlib
from typing import NamedTuple

import checkpoint
import data
import mxnet as mx
import networks
import numpy as np
import plots
import run
import train  # imports the operator before mxnet, for newer NumPys
from evaluation import Evaluation, aligned, evaluate
from matplotlib import animation
from matplotlib.figure import Figure
from options import number, whole
from options import parse as parse_training
from tqdm import tqdm

LAMBDAS = (0.001, 0.01, 0.1, 1)
ALPHAS = (0.01, 0.05, 0.1, 0.5, 1)
FRAMES = 25  # the most that the animation has, so that its file stays small
CENTERS = 'center_loss_center_bias'
SHOWN = ('accuracy', 'nearest_center_accuracy', 'compactness')


class Cell(NamedTuple):
    """A cell of the grid: its title, and the options to train with, with each seed."""
    title: str
    loss: str
    arguments: tuple


def cells(figure, center_weight):
    """The Cells of a figure.

    `center_weight` is λ if the figure does not vary it; None means the default of the data set.
    """
    weight = () if center_weight is None else ('--center-weight', '%g' % center_weight)
    if figure == 'lambda':
        return [Cell('λ = %g' % value, 'joint', ('--center-weight', '%g' % value))
                for value in LAMBDAS]
    if figure == 'alpha':
        return [Cell('α = %g' % value, 'joint', (*weight, '--alpha', '%g' % value))
                for value in ALPHAS]
    result = [Cell('softmax alone', 'softmax', ()), Cell('joint', 'joint', weight)]
    if figure == 'distributions':
        result.insert(1, Cell('center loss alone', 'center', weight))
    return result


def parse(arguments=None):
    """The options as an argparse.Namespace; None means the default of the data set."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument
    add('--figure', nargs='+', choices=('distributions', 'lambda', 'alpha'), default=[],
        help='distributions: the losses side by side, on training and test set; lambda: several λ '
        'side by side; alpha: accuracy and compactness against α')
    add('--animate', action='store_true',
        help='a GIF of the features after each epoch, for softmax alone and joint training')
    add('--dataset', choices=data.DATASETS, default='digits',
        help='the digits bundled with scikit-learn, or the files of MNIST in --data-dir')
    add('--data-dir', metavar='DIR',
        help='the folder of the four idx files of MNIST, gzipped or not')
    add('--seeds', type=whole(0), nargs='+', default=[0], metavar='N',
        help='one run per seed; tables show mean ± standard deviation, pictures the features of '
        'the first seed')
    add('--center-weight', type=number, metavar='λ', default=argparse.SUPPRESS,
        help='λ in the figures that do not vary it (default: as for train.py)')
    add('--epochs', type=whole(1), metavar='N', default=argparse.SUPPRESS,
        help='how often to see the training set (default: as for train.py)')
    add('--output-dir', default='out/reproduce', metavar='DIR',
        help='the folder for runs and pictures')
    options = result.parse_args(arguments)
    for name in 'center_weight', 'epochs':
        vars(options).setdefault(name, None)
    if not options.figure and not options.animate:
        result.error('nothing to draw: give --figure or --animate')
    return options


class Run:
    """A cell trained with a seed. The name of its folder has all the options that define it."""

    def __init__(self, options, cell, seed):
        arguments = ['--dataset', options.dataset, '--loss', cell.loss, '--seed', str(seed),
                     *cell.arguments]
        if options.epochs is not None:
            arguments += ['--epochs', str(options.epochs)]
        if options.data_dir is not None:
            arguments += ['--data-dir', options.data_dir]
        self.options = parse_training(arguments)
        self.options.output_dir = os.path.join(options.output_dir, 'runs', self._name())
        self.epochs = self.options.epochs

    def _name(self):
        values = vars(self.options)
        names = ['center_weight', 'center_warmup', 'alpha', 'epochs', 'batch_size', 'lr', 'shift',
                 'seed']
        if values['data_dir'] is not None:
            names.append('data')
            place = os.fsencode(os.path.realpath(values['data_dir']))
            values = {**values, 'data': '%08x' % zlib.crc32(place)}
        return '-'.join([values['dataset'], values['loss'],
                         *('%s_%s' % (name, values[name]) for name in names)])

    def _path(self, *names):
        return os.path.join(self.options.output_dir, *names)

    def finished(self):
        """Whether nothing is left to train."""
        return (os.path.exists(self._path('metrics.json'))
                and checkpoint.latest(self.options.output_dir) is not None)

    def train(self, bar):
        """Train or continue, and save the features of each epoch for the animation."""
        def keep(epoch, embedding, centers):
            content = checkpoint.npz(embedding=embedding.astype(np.float32), centers=centers)
            run.write(self.options, os.path.join('features', '%d.npz' % epoch), content)
            bar.update()

        run.make_folder(self._path('features'))
        self.options.resume = checkpoint.latest(self.options.output_dir) is not None
        with contextlib.redirect_stdout(io.StringIO()):  # the table of each run is not shown
            train.train(self.options, each_epoch=keep)

    def metrics(self):
        """The content of metrics.json."""
        path = self._path('metrics.json')
        try:
            with open(path, encoding='utf-8') as file:
                return json.load(file)
        except ValueError as error:
            raise data.DataError('cannot read %s: %s; delete it to evaluate the run again'
                                 % (path, error)) from None

    def features(self, epoch, labels):
        """The Evaluation of the test set after an epoch, counted from 1, without metrics."""
        path = self._path('features', '%d.npz' % epoch)
        arrays = data.read_npz(path)
        if not {'embedding', 'centers'} <= set(arrays):
            raise data.DataError('cannot read %s: it must have embedding and centers, it has %s'
                                 % (path, ', '.join(arrays) or 'nothing'))
        return Evaluation(arrays['embedding'], labels, arrays['centers'], {})

    def evaluations(self, splits):
        """The Evaluation of each split with the network of the last checkpoint."""
        saved = checkpoint.load(self.options.output_dir, print)
        net = networks.Network(data.CLASSES, self.options.embedding_size)
        net.initialize()
        checkpoint.restore_parameters(net.collect_params(), saved.arg_params, saved.path)
        if list(saved.aux_params) != [CENTERS]:
            raise checkpoint.CheckpointError('%s has no parameter %s' % (saved.path, CENTERS))
        centers = saved.aux_params[CENTERS].asnumpy()
        return [evaluate(*train.predict(net, split.images, 500, mx.cpu()), split.labels,
                         centers) for split in splits]


def train_missing(options, figures):
    """Train the runs of several figures that are not finished: {figure: {Cell: [Run]}}."""
    grid = {figure: {cell: [Run(options, cell, seed) for seed in options.seeds]
                     for cell in cells(figure, options.center_weight)} for figure in figures}
    # Figures share runs: train each folder once.
    runs = {one.options.output_dir: one
            for of_figure in grid.values() for of_cell in of_figure.values() for one in of_cell}
    with tqdm(total=sum(one.epochs for one in runs.values()), unit=' epochs') as bar:
        for one in runs.values():
            bar.set_description(os.path.basename(one.options.output_dir))
            before = bar.n
            if not one.finished():
                one.train(bar)
            bar.update(before + one.epochs - bar.n)  # epochs that an earlier start has trained
    return grid


def spread(runs, metric):
    """Mean ± standard deviation over the runs as text, without missing values."""
    values = [value for value in (one.metrics()[metric] for one in runs) if value is not None]
    if not values:
        return '-'
    scale, unit = (100, ' %') if metric.endswith('accuracy') else (1, '')
    text = '%.*f' % (2 if unit else 3, scale * np.mean(values))
    if len(values) > 1:
        text += ' ± %.*f' % (2 if unit else 3, scale * np.std(values, ddof=1))
    return text + unit


def table(grid):
    """The metrics of a figure's cells as text."""
    lines = [['', *SHOWN]]
    lines += [[cell.title, *(spread(runs, metric) for metric in SHOWN)]
              for cell, runs in grid.items()]
    return aligned(lines)


def _below(axes, runs):
    axes.set_xlabel('\n'.join('%s %s' % (metric.replace('_', ' '), spread(runs, metric))
                              for metric in SHOWN if metric != 'nearest_center_accuracy'))


def distributions_figure(grid, splits):
    """One column per cell, one row per split of {name: data.Split}."""
    figure = Figure(figsize=(3.6 * len(grid), 3.6 * len(splits)), layout='constrained')
    panels = figure.subplots(len(splits), len(grid), squeeze=False)
    for column, (cell, runs) in zip(panels.T, grid.items()):
        evaluations = runs[0].evaluations(splits.values())
        for axes, name, evaluation in zip(column, splits, evaluations):
            plots.draw_embedding(axes, '%s, %s set' % (cell.title, name), evaluation)
            axes.locator_params(nbins=5)
        _below(column[-1], runs)
    return figure


def alpha_figure(grid):
    """Accuracy and compactness against α, mean and standard deviation over the seeds."""
    figure = Figure(figsize=(10, 4), layout='constrained')
    places = np.arange(len(grid))
    for axes, metrics in zip(figure.subplots(1, 2),
                             (('accuracy', 'nearest_center_accuracy'), ('compactness',))):
        for metric in metrics:
            # A collapsed run has no compactness.
            values = [[np.nan if value is None else value
                       for value in (one.metrics()[metric] for one in runs)]
                      for runs in grid.values()]
            axes.errorbar(places, np.mean(values, axis=1),
                          np.std(values, axis=1, ddof=1) if len(values[0]) > 1 else None,
                          marker='o', capsize=3, label=metric.replace('_', ' '))
        axes.set_xticks(places)
        axes.set_xticklabels([cell.title for cell in grid])
        axes.grid(alpha=0.2)
        # Above the axes, because an error bar can be at any place inside.
        axes.legend(frameon=False, loc='lower left', bbox_to_anchor=(0, 1), ncol=2)
    return figure


def animate(grid, labels, path):
    """Write a GIF of the features of the test set after each epoch, the cells side by side.

    A long training is shown at every n-th epoch and the last one.
    """
    runs = {cell.title: of_cell[0] for cell, of_cell in grid.items()}
    last = min(one.epochs for one in runs.values())
    epochs = [*range(1, last, math.ceil(last / FRAMES)), last]
    figure = Figure(figsize=(3.6 * len(runs), 3.8), layout='constrained', dpi=64)
    panels = figure.subplots(1, len(runs))
    limits = {title: max(np.abs(one.features(epoch, labels).embedding).max()
                         for epoch in epochs) for title, one in runs.items()}

    def draw(epoch):
        for axes, (title, one) in zip(panels, runs.items()):
            axes.clear()
            plots.draw_embedding(axes, '%s, epoch %d' % (title, epoch),
                                 one.features(epoch, labels))
            axes.set(xlim=(-limits[title], limits[title]), ylim=(-limits[title], limits[title]))

    draw(last)
    figure.draw_without_rendering()
    figure.set_layout_engine('none')  # otherwise each frame moves the axes a little
    unfinished = path + '.unfinished.gif'
    film = animation.FuncAnimation(figure, draw, [*epochs, *[last] * 5],  # show the last one longer
                                   init_func=lambda: None)
    film.save(unfinished, animation.PillowWriter(fps=4))
    os.replace(unfinished, path)


def main(arguments=None):
    """Train the grid and write one picture per figure."""
    options = parse(arguments)
    splits = dict(zip(('training', 'test'), data.load(options.dataset, options.data_dir)))
    names = {figure: '%s-%s.png' % (options.dataset, figure) for figure in options.figure}
    if options.animate:
        names['animation'] = options.dataset + '-animation.gif'
    with run.locked(options.output_dir, names.values()):
        draw(options, splits, names)


def draw(options, splits, names):
    """Train what is missing, print the tables and draw the figures, {figure: name of its file}."""
    for figure, of_figure in train_missing(options, names).items():
        print('%s, %s:\n%s\n' % (options.dataset, figure, table(of_figure)))
        path = os.path.join(options.output_dir, names[figure])
        if figure == 'animation':
            animate(of_figure, splits['test'].labels, path)
            continue
        if figure == 'alpha':
            picture = alpha_figure(of_figure)
        else:
            picture = distributions_figure(of_figure, splits if figure == 'distributions' else
                                           {'test': splits['test']})
        checkpoint.write_file(path, plots.png(picture))


if __name__ == '__main__':
    run.script(main, 'the same command continues')
