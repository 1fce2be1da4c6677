"""Draw the figures of the paper: what center loss, λ and α do to two features of a digit.

    python examples/paper_figures.py --output-dir out/figures --seeds 0 1 2
    python examples/paper_figures.py --dataset mnist --data-dir DIR --figures distributions

The digits are bundled with scikit-learn; MNIST is four idx files, gzipped or not. Tables are
printed. The same command goes on after an interruption, and uses finished trainings again.
"""
import argparse
import functools
import gzip
import itertools
import os
import sys
import zlib
from typing import NamedTuple

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'recognizer'))

import center_loss_op  # before mxnet, for newer NumPys
from center_loss_op.gluon import CenterLoss

import checkpoint
import metrics
import mxnet as mx
import numpy as np
from matplotlib.figure import Figure
from mxnet import autograd, gluon
from mxnet.gluon import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

CLASSES = 10
LAMBDAS, ALPHAS = (0.001, 0.01, 0.1, 1.), (0., 0.01, 0.1, 0.5, 1.)
SHOWN = 'accuracy', 'nearest center', 'compactness'


class Training(NamedTuple):
    """The weights of softmax and center loss, the rate of the centers, and how to train."""
    softmax: float
    center_weight: float
    alpha: float
    epochs: int
    batch_size: int
    lr: float
    seed: int = 0


RECIPES = {'digits': Training(1., 0.3, 0.5, 60, 64, 0.01),
           'mnist': Training(1., 20., 0.5, 20, 128, 0.003)}


def cells(figure, recipe):
    """{title: Training} of a figure."""
    if figure == 'lambda':
        return {f'λ = {value:g}': recipe._replace(center_weight=value) for value in LAMBDAS}
    if figure == 'alpha':
        return {f'α = {value:g}': recipe._replace(alpha=value) for value in ALPHAS}
    return {'softmax alone': recipe._replace(center_weight=0.),
            'center loss alone': recipe._replace(softmax=0.), 'both': recipe}


class Network(nn.HybridBlock):
    """Images, (N, 1, height, width) → embedding, (N, 2), and scores, (N, 10)."""

    def __init__(self):
        super().__init__()
        self.features = nn.HybridSequential()
        for channels, pool in (16, 2), (32, 2), (64, 1), (64, 2):
            # PReLU is monotonic, and takes longer than the convolution: so it comes last.
            self.features.add(nn.Conv2D(channels, kernel_size=3, padding=1), nn.MaxPool2D(pool),
                              nn.PReLU())
        self.features.add(nn.Dense(512), nn.PReLU())    # a linear map cannot separate ten classes
        self.embedding = nn.Dense(2)
        # Without a bias, the classes lie on a circle around the origin, as in the paper.
        self.scores = nn.Dense(CLASSES, use_bias=False)
        self.scores.weight.lr_mult = 10     # center loss keeps the features small

    def hybrid_forward(self, F, x):
        embedding = self.embedding(self.features(x))
        return embedding, self.scores(embedding)


def train(training, sets, folder, bar):
    """Train, or continue: (embedding, scores) of both sets, and the centers."""
    images, labels = sets['training']
    updates = training.epochs * (steps := len(labels) // training.batch_size)
    mx.random.seed(training.seed)
    net, center_loss = Network(), CenterLoss(CLASSES, 2, alpha=training.alpha)
    softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    net.initialize(mx.init.Xavier())
    center_loss.initialize()
    net(mx.nd.array(images[:1]))        # gives the parameters their shapes
    parameters = list(net.collect_params().values())
    done, arrays, _ = checkpoint.load_state(folder, tqdm.write) or (0, {}, None)
    # The gradient of center loss grows with the features, the steps of Adam do not.
    trainer = gluon.Trainer(parameters, mx.optimizer.Adam(begin_num_update=done * steps))
    for name, array in arrays.items():
        number, kind = name.split('-')
        if kind == 'value':
            [*parameters, center_loss.centers][int(number)].set_data(mx.nd.array(array))
        else:
            trainer._updaters[0].states[int(number)] = tuple(map(mx.nd.array, array))
            trainer._updaters[0].states_synced[int(number)] = True
    for block in net, softmax_loss, center_loss:
        block.hybridize()
    schedule = mx.lr_scheduler.CosineScheduler(
        updates, training.lr, warmup_begin_lr=training.lr / 50, warmup_steps=min(50, updates // 2))
    bar.update(done)
    for epoch in range(done, training.epochs):
        batches = moved(images, training.batch_size, np.random.RandomState((training.seed, epoch)))
        for update, (rows, x) in enumerate(batches, epoch * steps + 1):
            # λ rises: the classes have to lie apart before each of them is gathered.
            center_loss.weight = training.center_weight * update / updates
            y = mx.nd.array(labels[rows])
            with autograd.record():
                embedding, scores = net(mx.nd.array(x))
                loss = training.softmax * softmax_loss(scores, y) + center_loss(embedding, y)
            loss.backward()
            trainer.set_learning_rate(schedule(update))
            trainer.step(len(rows))
        arrays = {f'{number}-value': parameter.data().asnumpy()
                  for number, parameter in enumerate([*parameters, center_loss.centers])}
        arrays.update((f'{number}-adam', np.stack([part.asnumpy() for part in state]))
                      for number, state in trainer._updaters[0].states.items())
        checkpoint.save_state(folder, epoch + 1, arrays, {})
        bar.update()
    outputs = [[mx.nd.concat(*parts, dim=0).asnumpy() for parts in zip(*(
        net(mx.nd.array(of[start:start + 500])) for start in range(0, len(of), 500)))]
        for of, _ in sets.values()]
    return (*outputs, center_loss.centers.data().asnumpy())


def moved(images, batch_size, random):
    """Yield (rows, images) of each batch of an epoch; an image is moved by one pixel at most."""
    order, (height, width) = random.permutation(len(images)), images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        rows = order[start:start + batch_size]
        yield rows, np.stack([padded[row, :, top:top + height, left:left + width] for row, top, left
                              in zip(rows, *random.randint(3, size=(2, batch_size)))])


def result(training, sets, out, bar):
    """{name: array} of a Training: `centers`, the embedding of the `training` and the `test` set,
    and `figures`, those SHOWN of the test set; from a file if there is one."""
    folder = checkpoint.make_folder(out, 'trainings', '-'.join(map(str, training)))
    path = os.path.join(folder, 'result.npz')
    if os.path.exists(path):
        bar.update(training.epochs)
        return checkpoint.read_npz(checkpoint.read_file(path), path=path)
    (first, _), (embedding, scores), centers = train(training, sets, folder, bar)
    labels = sets['test'][1]
    nearest, _ = center_loss_op.nearest_center(mx.nd.array(embedding), mx.nd.array(centers))
    means = np.array([embedding[labels == label].mean(axis=0) for label in range(CLASSES)])
    spread = np.sqrt(((embedding - means[labels]) ** 2).sum(axis=1).mean())
    apart = metrics.distances(means, means, 'euclidean')[np.triu_indices(CLASSES, 1)].min()
    figures = np.array([100 * (scores.argmax(axis=1) == labels).mean(),
                        100 * (nearest.asnumpy() == labels).mean(), spread / apart])
    arrays = {'training': first, 'test': embedding, 'centers': centers, 'figures': figures}
    checkpoint.write(path, checkpoint.npz(**arrays))
    return arrays


def load(dataset, folder):
    """{'training': (images (N, 1, height, width) from 0 to 1, labels), 'test': the same}."""
    if dataset == 'digits':
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype('float32').reshape(-1, 1, 8, 8)
        parts = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
        return {'training': (parts[0], parts[2]), 'test': (parts[1], parts[3])}
    return {name: (read_idx(folder, f'{part}-images-idx3-ubyte')[:, None] / np.float32(255),
                   read_idx(folder, f'{part}-labels-idx1-ubyte').astype(int))
            for name, part in (('training', 'train'), ('test', 't10k'))}


def read_idx(folder, name):
    """The bytes of an idx file, or of name.gz."""
    path = os.path.join(folder, name)
    path = path if os.path.exists(path) else f'{path}.gz'
    try:
        with gzip.open(path) if path.endswith('.gz') else open(path, 'rb') as file:
            header = np.frombuffer(file.read(16 if 'images' in name else 8), '>u4')
            return np.frombuffer(file.read(), np.uint8).reshape(header[1:])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise checkpoint.DataError(f'cannot read {path}: {error}') from None


def draw(path, found, sets, names):
    """Write a picture as figure 2 of the paper has: a column per title, a row per set."""
    picture = Figure(figsize=(3.6 * len(found), 3.6 * len(names)), layout='constrained')
    panels = picture.subplots(len(names), len(found), squeeze=False)
    for axes, (name, title) in zip(panels.flat, itertools.product(names, found)):
        arrays, labels = found[title][0], sets[name][1]
        for label, center in enumerate(arrays['centers']):
            colour, mine = f'C{label}', arrays[name][labels == label]
            axes.scatter(*mine.T, s=6, alpha=0.6, linewidths=0, color=colour)
            axes.plot(*center, marker='o', markersize=11, color='white', markeredgecolor=colour)
            axes.annotate(str(label), center, ha='center', va='center', fontsize=8)
        axes.set_title(f'{title}, {name} set')
        axes.set_aspect('equal', adjustable='datalim')
        axes.grid(alpha=0.2)
    checkpoint.write(path, functools.partial(picture.savefig, format='png', dpi=100))


def main(arguments=None):
    """Train what is missing, print a table per figure and draw it."""
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add, figures = parser.add_argument, ('distributions', 'lambda', 'alpha')
    add('--dataset', choices=RECIPES, default='digits', help='the data')
    add('--data-dir', default='.', metavar='DIR', help='the folder of the files of MNIST')
    add('--figures', nargs='+', choices=figures, default=figures,
        help='distributions: the losses; lambda, alpha: both losses with several λ or α')
    add('--seeds', type=int, nargs='+', default=[0], metavar='N', help='pictures show the first')
    add('--epochs', type=int, default=0, metavar='N', help='0: 60 for digits, 20 for MNIST')
    add('--output-dir', default='out/figures', metavar='OUT', help='for pictures and trainings')
    options = parser.parse_args(arguments)
    out, recipe = options.output_dir, RECIPES[options.dataset]
    recipe = recipe._replace(epochs=options.epochs or recipe.epochs)
    sets = load(options.dataset, options.data_dir)
    grid = {figure: cells(figure, recipe) for figure in options.figures}
    total = len(options.seeds) * recipe.epochs * sum(map(len, grid.values()))
    with checkpoint.lock(out), tqdm(total=total, unit=' epochs') as bar:
        for figure, of_title in grid.items():
            found = {title: [result(training._replace(seed=seed), sets, out, bar)
                             for seed in options.seeds] for title, training in of_title.items()}
            path, names = os.path.join(out, options.dataset), ['test']
            if figure == 'distributions':
                for name, title in zip(('softmax', 'center', 'joint'), found):
                    draw(f'{path}-{name}.png', {title: found[title]}, sets, names)
                names = list(sets)
            draw(f'{path}-{figure}.png', found, sets, names)
            tqdm.write(f'\n| {options.dataset} | {" | ".join(SHOWN)} |\n' + '| --- ' * 4 + '|')
            for title, several in found.items():
                values = np.array([one['figures'] for one in several])
                tqdm.write(f'| {title} | ' + ' | '.join(
                    f'{mean:.2f}' + f' ± {deviation:.2f}' * (len(values) > 1) for mean, deviation
                    in zip(values.mean(0), values.std(0, ddof=min(1, len(values) - 1)))) + ' |')


if __name__ == '__main__':
    try:
        main()
    except checkpoint.DataError as error:
        sys.exit(f'paper_figures.py: error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted: the same command continues')
