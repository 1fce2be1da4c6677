"""The paper's pictures of center loss, on digits or MNIST: trains a grid of runs and draws it.

    python experiments/reproduce.py --figure distributions --output-dir out/reproduce
    python experiments/reproduce.py --figure lambda --dataset mnist --data-dir DIR
    python experiments/reproduce.py --figure alpha --seeds 0 1 2
    python experiments/reproduce.py --animate

Every run has a folder of its own under the output folder. Finished runs are reused, an
interrupted one continues where it stopped.
"""
import argparse
import contextlib
import io
import json
import math
import os
import zlib
from typing import NamedTuple

import train as train_gluon  # imports the operator before mxnet, for newer NumPys
import mxnet as mx
import numpy as np
from matplotlib import animation
from matplotlib.figure import Figure
from tqdm import tqdm

import checkpoint
import data
import networks
import options as cli
import plots
import run
from evaluation import Evaluation, aligned, evaluate

LAMBDAS = (0.001, 0.01, 0.1, 1)
ALPHAS = (0.01, 0.05, 0.1, 0.5, 1)
FRAMES = 25  # of the animation at most, so that it stays small
SHOWN = ('accuracy', 'nearest_center_accuracy', 'compactness')


class Cell(NamedTuple):
    """A place of the grid: what to train there, with every seed."""
    title: str
    loss: str
    arguments: tuple


def cells(figure, center_weight):
    """The Cells of a figure; `center_weight` is λ where the figure does not vary it.

    None leaves it to the recipe.
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
    """The options as an argparse.Namespace; None where the data set's recipe decides."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument
    add('--figure', nargs='+', choices=('distributions', 'lambda', 'alpha'), default=[],
        help='the losses side by side, on training and test set; several λ side by side; '
        'accuracy and compactness against α')
    add('--animate', action='store_true',
        help='a GIF of the features, epoch by epoch: softmax alone and joint')
    add('--dataset', choices=data.DATASETS, default='digits',
        help="scikit-learn's bundled digits, or MNIST's files from --data-dir")
    add('--data-dir', metavar='DIR', help="the folder of MNIST's four idx files, gzipped or not")
    add('--seeds', type=cli.whole(0), nargs='+', default=[0], metavar='N',
        help='a run for each; numbers are their mean ± standard deviation, features those of '
        'the first')
    add('--center-weight', type=cli.number, metavar='λ', default=argparse.SUPPRESS,
        help="where it does not vary (default: the data set's recipe)")
    add('--epochs', type=cli.whole(1), metavar='N', default=argparse.SUPPRESS,
        help="how often to see the training set (default: the data set's recipe)")
    add('--output-dir', default='out/reproduce', metavar='DIR',
        help='where runs and pictures go')
    options = result.parse_args(arguments)
    for name in 'center_weight', 'epochs':
        vars(options).setdefault(name, None)
    if not options.figure and not options.animate:
        result.error('nothing to draw: give --figure or --animate')
    return options


class Run:
    """A cell trained with a seed; its folder is named after everything that defines it."""

    def __init__(self, options, cell, seed):
        arguments = ['--dataset', options.dataset, '--loss', cell.loss, '--seed', str(seed),
                     *cell.arguments]
        if options.epochs is not None:
            arguments += ['--epochs', str(options.epochs)]
        if options.data_dir is not None:
            arguments += ['--data-dir', options.data_dir]
        self.options = cli.parse(arguments + ['--resume'])
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
        """Train, or go on, keeping the features of every epoch for the animation."""
        def keep(epoch, embedding, centers):
            content = checkpoint.npz(embedding=embedding.astype(np.float32), centers=centers)
            run.make_folder(self._path('features'))
            run.write(self.options, os.path.join('features', '%d.npz' % epoch), content)
            bar.update()

        with contextlib.redirect_stdout(io.StringIO()):  # a table a run would be too many
            train_gluon.train(self.options, each_epoch=keep)

    def metrics(self):
        """metrics.json."""
        with open(self._path('metrics.json'), encoding='utf-8') as file:
            return json.load(file)

    def features(self, epoch, labels):
        """Evaluation of the test set after an epoch, from 1 on, without metrics."""
        with np.load(self._path('features', '%d.npz' % epoch)) as arrays:
            return Evaluation(arrays['embedding'], labels, arrays['centers'], {})

    def evaluations(self, splits):
        """Evaluation of each split, by the network of the last checkpoint."""
        saved = checkpoint.load(self.options.output_dir, print)
        net = networks.Network(data.CLASSES, self.options.embedding_size)
        net.initialize()
        for name, parameter in net.collect_params().items():
            parameter.set_data(saved.arg_params[name])
        centers, = (array.asnumpy() for array in saved.aux_params.values())
        return [evaluate(*train_gluon.predict(net, split.images, 500, mx.cpu()), split.labels,
                         centers) for split in splits]


def train(options, figures):
    """Train what is not there yet of several figures: {figure: {Cell: [Run]}}."""
    grid = {figure: {cell: [Run(options, cell, seed) for seed in options.seeds]
                     for cell in cells(figure, options.center_weight)} for figure in figures}
    # Figures share runs: each folder once.
    runs = {one.options.output_dir: one
            for of_figure in grid.values() for of_cell in of_figure.values() for one in of_cell}
    with tqdm(total=sum(one.epochs for one in runs.values()), unit=' epochs') as bar:
        for one in runs.values():
            bar.set_description(os.path.basename(one.options.output_dir))
            before = bar.n
            if not one.finished():
                one.train(bar)
            bar.update(before + one.epochs - bar.n)  # epochs of an earlier session
    return grid


def spread(runs, metric):
    """Mean ± standard deviation over the runs as text; a value that is missing is left out."""
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
    """A column for each cell, a row for each of the splits {name: data.Split}."""
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
        # Above: whatever place is best, an error bar can be there.
        axes.legend(frameon=False, loc='lower left', bbox_to_anchor=(0, 1), ncol=2)
    return figure


def animate(grid, labels, path):
    """Write a GIF of the test set's features, epoch by epoch, the cells side by side.

    Of a long training only every n-th epoch, and the last.
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
    figure.set_layout_engine('none')  # or every frame moves the axes a little
    unfinished = path + '.unfinished.gif'
    film = animation.FuncAnimation(figure, draw, [*epochs, *[last] * 5],  # rest on the last one
                                   init_func=lambda: None)
    film.save(unfinished, animation.PillowWriter(fps=4))
    os.replace(unfinished, path)


def main(arguments=None):
    """Train the grid and leave a picture for each figure."""
    options = parse(arguments)
    splits = dict(zip(('training', 'test'), data.load(options.dataset, options.data_dir)))
    run.make_folder(options.output_dir)
    grid = train(options, options.figure + ['animation'] * options.animate)
    for figure, of_figure in grid.items():
        print('%s, %s:\n%s\n' % (options.dataset, figure, table(of_figure)))
        path = os.path.join(options.output_dir, '%s-%s' % (options.dataset, figure))
        if figure == 'animation':
            animate(of_figure, splits['test'].labels, path + '.gif')
            continue
        if figure == 'alpha':
            picture = alpha_figure(of_figure)
        else:
            picture = distributions_figure(of_figure, splits if figure == 'distributions' else
                                           {'test': splits['test']})
        checkpoint.write_file(path + '.png', plots.png(picture))


if __name__ == '__main__':
    run.script(main, 'the same command continues')
