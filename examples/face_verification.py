"""Verification of people never seen in training: softmax alone against softmax and center loss.

    python examples/face_verification.py --data-dir DIR --output-dir out/faces

DIR has one sub-folder of images a person. The people are split into those to train on and
those never seen; all pairs of images of the latter are compared.
"""
import argparse
import json
import math
import os

import processors  # before mxnet; pylint: disable=unused-import
from center_loss_op.gluon import CenterLoss  # before mxnet, for Python 3.12
import mxnet as mx
import numpy as np
from matplotlib.figure import Figure
from mxnet import autograd, gluon
from mxnet.gluon import nn
from scipy import stats
from scipy.optimize import brentq
from sklearn.metrics import pairwise_distances, roc_auc_score, roc_curve
from tqdm import tqdm

import data
import faces
import options as cli
import plots
import recipe
import run
from evaluation import aligned

DISTANCES = ('euclidean', 'cosine')
# How the table names the metrics. All are shares of 1.
METRICS = {'eer_euclidean': 'EER %, Euclidean', 'eer_cosine': 'EER %, cosine',
           'auc_euclidean': 'AUC %, Euclidean', 'auc_cosine': 'AUC %, cosine',
           'tar_at_far_1': 'TAR % at 1 % FAR', 'tar_at_far_0.1': 'TAR % at 0.1 % FAR',
           'rank1': 'rank-1 %'}
CONFIDENCE = 0.95
CHANNELS = (16, 32, 64)


class Network(nn.HybridBlock):
    """Images, (N, 1, height, width) → embedding, (N, d), and scores, (N, C)."""

    def __init__(self, classes, embedding_size):
        super().__init__()
        self.features = nn.HybridSequential()
        for channels in CHANNELS:
            self.features.add(nn.Conv2D(channels, kernel_size=3, padding=1, use_bias=False),
                              nn.BatchNorm(), nn.Activation('relu'), nn.MaxPool2D(pool_size=2))
        self.embedding = nn.Dense(embedding_size)
        self.classifier = nn.Dense(classes, use_bias=False)

    def hybrid_forward(self, F, x):  # pylint: disable=arguments-differ
        embedding = self.embedding(self.features(x))
        return embedding, self.classifier(embedding)


def parser():
    """The command line: an argparse.ArgumentParser."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument
    add('--data-dir', metavar='DIR', required=True, help='one sub-folder of images a person')
    add('--unseen', type=cli.whole(2), default=10, metavar='N',
        help='people to verify; all others are to train on')
    add('--split-seed', type=cli.whole(0), default=0, metavar='N', help='who is unseen')
    add('--center-weights', type=cli.number, nargs='+', default=[0.001, 0.01, 0.1], metavar='λ',
        help='the weights of center loss beside softmax; 0, softmax alone, is always among them')
    add('--alpha', type=cli.number, default=0.5, metavar='α',
        help='the rate at which centers move')
    add('--embedding-size', type=cli.whole(1), default=64, metavar='D',
        help='features of an image')
    add('--image-size', type=cli.whole(16, 512), nargs=2, default=[40, 32], metavar=('H', 'W'),
        help='height and width that images are scaled to')
    add('--epochs', type=cli.whole(1), default=60, metavar='N',
        help='how often to see the people to train on')
    add('--batch-size', type=cli.whole(2), default=30, metavar='N', help='images a step')
    add('--lr', type=cli.number, default=0.001, metavar='RATE', help='the highest learning rate')
    add('--wd', type=cli.number, default=1e-4, metavar='RATE', help='the weight decay')
    add('--seeds', type=cli.whole(0), nargs='+', default=[0, 1, 2, 3, 4], metavar='N',
        help='of initial values and data order; a run for each')
    add('--validate', action='store_true', help='leave the unseen people alone and verify a third '
        'of the others instead, another third with every seed: to choose λ and the rest')
    add('--output-dir', default='out/faces', metavar='DIR',
        help='where metrics.json and roc.png go')
    return result


def parts(options):
    """(Faces to train on, Faces to verify) by seed, for all seeds of the options."""
    people = faces.load(options.data_dir, options.image_size, run.say)
    needed = options.unseen + (6 if options.validate else 2)
    if len(people.names) < needed:
        raise data.DataError('%s has %d people with 2 images or more, --unseen %d needs %d'
                             % (options.data_dir, len(people.names), options.unseen, needed))
    seen, unseen = faces.split(people, options.unseen, options.split_seed)
    if not options.validate:
        result = {seed: (seen, unseen) for seed in options.seeds}
    else:
        result = {seed: faces.split(seen, len(seen.names) // 3, seed) for seed in options.seeds}
    fewest = min(len(seen.labels) for seen, _ in result.values())
    if options.batch_size > fewest:
        raise cli.OptionError('--batch-size must be at most %d, the images to train on, got %d'
                              % (fewest, options.batch_size))
    return result


def train(options, seen, center_weight, seed, bar):
    """A network trained on the Faces `seen`; center_weight 0 is softmax alone."""
    classes = len(seen.names)
    steps = len(seen.labels) // options.batch_size
    mx.random.seed(seed)
    net = Network(classes, options.embedding_size)
    net.initialize(mx.init.Xavier())
    softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    center_loss = CenterLoss(classes, options.embedding_size, alpha=options.alpha,
                             weight=center_weight)
    center_loss.initialize()
    for block in net, softmax_loss, center_loss:
        block.hybridize()
    schedule = recipe.schedule(options.lr, options.epochs * steps)
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'wd': options.wd})
    updates = 0
    for epoch in range(options.epochs):
        random = np.random.RandomState((seed, epoch))
        again = data.Split(faces.augment(seen.images, random), seen.labels.astype(np.float32))
        total = 0.
        for images, labels in data.batches(again, options.batch_size, seed, epoch):
            x, y = mx.nd.array(images), mx.nd.array(labels)
            with autograd.record():
                embedding, scores = net(x)
                loss = softmax_loss(scores, y)
                if center_weight:
                    loss = loss + center_loss(embedding, y)
            loss.backward()
            updates += 1
            trainer.set_learning_rate(schedule(updates))
            trainer.step(options.batch_size)
            total += float(loss.mean().asscalar())
            bar.update()
        if not math.isfinite(total):
            raise run.TrainingError('the loss is %s in epoch %d with λ = %g: try a smaller --lr'
                                    % (total, epoch + 1, center_weight))
        bar.set_postfix(loss='%.3f' % (total / steps))
    return net


def embed(net, images):
    """The embeddings of images and of their mirror images, side by side, as in the paper."""
    return np.hstack([net(mx.nd.array(view))[0].asnumpy() for view in (images, images[..., ::-1])])


def _equal_error_rate(fpr, tpr):
    return brentq(lambda rate: 1 - rate - np.interp(rate, fpr, tpr), 0, 1)


def verify(embedding, labels):
    """Every metric of METRICS, and the ROC curves: ({name: value}, {distance: (fpr, tpr)}).

    All pairs of images are compared: a pair is genuine when both show the same person, and
    accepted when its distance is small. Every image is identified by its nearest other one.

    - eer: where false accepts and false rejects are equally frequent
    - auc: area under the ROC curve
    - tar_at_far_1, tar_at_far_0.1: share of genuine pairs accepted at the distance that accepts
      1 % and 0.1 % of the others; Euclidean
    - rank1: share of images whose nearest other one shows the same person; Euclidean

    Parameters
    ----------
    embedding : numpy.ndarray, (N, d)
    labels : numpy.ndarray, (N,)
    """
    first, second = np.triu_indices(len(labels), k=1)
    genuine = labels[first] == labels[second]
    metrics, curves = {}, {}
    for distance in DISTANCES:
        between = pairwise_distances(embedding.astype(np.float64), metric=distance)
        closeness = -between[first, second]
        fpr, tpr, _ = roc_curve(genuine, closeness)
        curves[distance] = fpr, tpr
        metrics['eer_' + distance] = _equal_error_rate(fpr, tpr)
        metrics['auc_' + distance] = float(roc_auc_score(genuine, closeness))
        if distance == 'euclidean':
            for percent in 1, 0.1:
                metrics['tar_at_far_%g' % percent] = float(tpr[fpr <= percent / 100].max())
            np.fill_diagonal(between, np.inf)
            metrics['rank1'] = float((labels[between.argmin(axis=1)] == labels).mean())
    return {name: metrics[name] for name in METRICS}, curves


def summary(runs):
    """Mean and confidence interval over the seeds, as in metrics.json.

    Parameters
    ----------
    runs : {seed: {name: value}}

    Returns
    -------
    dict
        Each metric's mean by its name; `interval`: its 95 % confidence interval by Student's t,
        None for a single seed; `seeds`: every value.
    """
    result, intervals = {}, {}
    for name in METRICS:
        values = [metrics[name] for metrics in runs.values()]
        mean, error = float(np.mean(values)), stats.sem(values) if len(values) > 1 else None
        result[name] = mean
        if error is None:
            intervals[name] = None
        else:  # SciPy has no interval of width 0
            reach = float(error * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
            intervals[name] = [mean - reach, mean + reach]
    return {**result, 'interval': intervals,
            'seeds': {str(seed): metrics for seed, metrics in runs.items()}}


def table(results):
    """Mean ± half of the confidence interval of every metric, in percent, a line for each λ."""
    lines = [['λ', *METRICS.values()]]
    for weight, result in results.items():
        cells = []
        for name in METRICS:
            interval = result['interval'][name]
            reach = '' if interval is None else ' ± %.1f' % (50 * (interval[1] - interval[0]))
            cells.append('%.1f%s' % (100 * result[name], reach))
        lines.append([weight + (' (softmax alone)' if weight == '0' else ''), *cells])
    return aligned(lines)


def roc_figure(curves, results):
    """The ROC curves, mean over the seeds, for each distance.

    Parameters
    ----------
    curves : {λ: [{distance: (fpr, tpr)}]}
    results : {λ: summary}

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(12, 5), layout='constrained')
    far = np.logspace(-4, 0, 400)
    for axes, distance in zip(figure.subplots(1, 2, sharey=True), DISTANCES):
        for weight, of_seeds in curves.items():
            tar = np.mean([np.interp(far, *of_seed[distance]) for of_seed in of_seeds], axis=0)
            axes.plot(far, tar, label='%s: EER %.1f %%' % (
                'softmax alone' if weight == '0' else 'λ = ' + weight,
                100 * results[weight]['eer_' + distance]))
        axes.plot(far, 1 - far, color='grey', linewidth=0.8, linestyle=':')
        axes.set(xscale='log', xlabel='false accept rate', title=distance + ' distance',
                 xlim=(1e-4, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.2)
        axes.legend(frameon=False, loc='lower right')
    figure.axes[0].set_ylabel('true accept rate')
    return figure


def main(arguments=None):
    """Train and verify for every λ and seed; leave metrics.json and roc.png."""
    options = parser().parse_args(arguments)
    by_seed = parts(options)
    run.make_folder(options.output_dir)
    weights = sorted({0., *options.center_weights})
    steps = sum(len(seen.labels) // options.batch_size for seen, _ in by_seed.values())
    results, curves = {}, {}
    with tqdm(total=len(weights) * options.epochs * steps, unit=' batches') as bar:
        for weight in weights:
            metrics, curves['%g' % weight] = {}, []
            for seed, (seen, unseen) in by_seed.items():
                bar.set_description('λ = %g, seed %d' % (weight, seed))
                net = train(options, seen, weight, seed, bar)
                metrics[seed], curve = verify(embed(net, unseen.images), unseen.labels)
                curves['%g' % weight].append(curve)
            results['%g' % weight] = summary(metrics)
    run.write(options, 'metrics.json', json.dumps(results, indent=2) + '\n')
    run.write(options, 'roc.png', plots.png(roc_figure(curves, results)))
    print(table(results))


if __name__ == '__main__':
    run.script(main)
