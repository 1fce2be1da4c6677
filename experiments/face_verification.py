"""Compare softmax alone with softmax and center loss on classes that are not trained on.

    python experiments/face_verification.py --data-dir DIR --output-dir out/faces
    python experiments/face_verification.py --data-dir lfw.npz --center-weights 0.01 0.03
    python experiments/face_verification.py --data-dir omniglot.npz --images drawings

DIR has one sub-folder of images per class (person), of which some are held out as test classes. An
.npz file has `train_images`, `train_labels`, `test_images` and `test_labels`, or only `images` and
`labels`. All pairs of images of the test classes are compared, or those of a list (--pairs). Each
run has a folder of its own in the output folder: finished runs are used again, an interrupted run
continues where it stopped.
"""
import argparse
import json
import math
import os
import signal
import time
import zlib
from typing import NamedTuple

import processors  # noqa: F401 - before mxnet

# isort: split
from center_loss_op.gluon import CenterLoss, DecorrelationLoss  # before mxnet, for newer NumPys

import checkpoint
import data
import faces
import mxnet as mx
import numpy as np
import plots
import recipe
import run
import verification
from evaluation import aligned
from matplotlib.figure import Figure
from mxnet import autograd, gluon
from mxnet.gluon import nn
from options import OptionError, number, share, whole
from tqdm import tqdm

# The defaults for each kind of images: the best options for softmax alone on validation classes of
# LFW and of Omniglot, then the best λ with them.
RECIPES = {
    'photos': {'center_weights': [0.1], 'epochs': 60, 'batch_size': 64, 'augment': 0.6,
               'label_smoothing': 0.},
    'drawings': {'center_weights': [0.1], 'epochs': 24, 'batch_size': 128, 'augment': 1.,
                 'label_smoothing': 0.1},
}
# The best numbers of features on these classes, for center loss and for softmax alone.
EMBEDDING_SIZE, SOFTMAX_EMBEDDING_SIZE = 128, 64
FOLDER_SIZE = 40, 32
MOMENTUM = 0.9
# One image of each class with so many images is held out of training, to be recognized.
KNOWN_FROM = 5
FOLDS = 5  # the parts of the training classes; --validate verifies one of them
FALSE_ACCEPTS = np.logspace(-4, 0, 400)
RESULTS = ['options.json', 'metrics.json', 'roc.png', 'lambda.png']

# The names of the metrics in tables. Their values are from 0 to 1.
_UNSEEN = {'eer': 'equal error rate', 'tar_at_far_1': 'TAR at 1 % FAR',
           'tar_at_far_0.1': 'TAR at 0.1 % FAR', 'auc': 'area under ROC',
           'one_shot': 'one-shot, 20-way at most', 'rank1': 'rank-1',
           'enrol_1': 'enrolled from 1 image', 'enrol_5': 'from 5 images'}
_WAYS = {'softmax': 'softmax', 'center': 'nearest center', 'mean': 'nearest class mean'}
_KNOWN = {'accuracy': 'accuracy', 'reject': 'rejection, AUROC',
          'false_accepts': 'false accepts at 5 % rejected'}
NAMES = {**{'%s_%s' % (metric, distance): '%s, %s' % (name, distance)
            for metric, name in _UNSEEN.items() for distance in verification.DISTANCES},
         **{'%s_%s' % (metric, way): '%s, %s' % (name, by)
            for metric, name in _KNOWN.items() for way, by in _WAYS.items()}}


class Network(nn.HybridBlock):
    """Images, (N, 1, height, width) → embedding, (N, d), and scores, (N, C)."""

    def __init__(self, classes, embedding_size, options):
        super().__init__()
        self.features = nn.HybridSequential()
        for channels in options.channels:
            # The maximum comes first, because it leaves a quarter of the values.
            self.features.add(nn.Conv2D(channels, kernel_size=3, padding=1, use_bias=False),
                              nn.MaxPool2D(pool_size=2), nn.BatchNorm(), nn.Activation('relu'))
        self.embedding = nn.HybridSequential()
        self.embedding.add(nn.Dense(embedding_size))
        if not options.plain:
            self.embedding.add(nn.BatchNorm(scale=False, center=False))
        self.classifier = nn.Dense(classes, use_bias=False)

    def hybrid_forward(self, F, x):
        embedding = self.embedding(self.features(x))
        return embedding, self.classifier(embedding)


def parser():
    """The command line: an argparse.ArgumentParser."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument

    def add_of_recipe(name, **kwargs):
        key = name.strip('-').replace('-', '_')
        values = ', '.join('%s for %s' % (of_kind[key], kind) for kind, of_kind in RECIPES.items())
        add(name, default=argparse.SUPPRESS,
            **{**kwargs, 'help': '%s (default: %s)' % (kwargs['help'], values)})

    add('--data-dir', metavar='DIR', required=True,
        help='a folder with one sub-folder of images per class, or an .npz file of bytes, (n, '
        'height, width), and whole numbers, (n,): train_images, train_labels, test_images and '
        'test_labels, or images and labels')
    add('--images', choices=RECIPES, default='photos', help='the kind of images. Photos are lit '
        'differently, mirrored and partly covered while they are trained on; drawings, such as '
        'letters, are not')
    add('--pairs', metavar='FILE', help='pairs of images to verify instead of all, as in LFW\'s '
        'pairs.txt, with lines "class 1 2" (its first and second image) and "class 1 other 2"; the '
        'classes it names are the test classes')
    add('--unseen', type=whole(2), metavar='N', default=argparse.SUPPRESS, help='the '
        'number of test classes, if the data do not say it (default: a fifth)')
    add('--split-seed', type=whole(0), default=0, metavar='N',
        help='the seed that chooses the test classes and the images that are held out')
    add_of_recipe('--center-weights', type=number, nargs='*', metavar='λ', help='the weights '
                  'of center loss next to softmax; 0, softmax alone, is always added')
    add('--center-warmup', type=share, default=1., metavar='SHARE',
        help='the share of the training during which λ rises from 0; 0: it does not')
    add('--alpha', type=number, default=0.5, metavar='α',
        help='the rate at which centers move')
    add('--decorrelation', type=number, default=0.1, metavar='WEIGHT', help='the weight of '
        'DecorrelationLoss next to center loss, which makes the features less redundant')
    add('--embedding-size', type=whole(1), default=argparse.SUPPRESS, metavar='D',
        help='the number of features of an image (default: %d)' % EMBEDDING_SIZE)
    add('--softmax-embedding-size', type=whole(1), default=argparse.SUPPRESS, metavar='D',
        help='the same for softmax alone (default: --embedding-size if that is given, else %d)'
        % SOFTMAX_EMBEDDING_SIZE)
    add('--channels', type=whole(1), nargs='+', default=[32, 64, 128], metavar='N',
        help='the channels of each convolution, which halves height and width')
    add('--plain', action='store_true', help='no batch normalization of the embedding')
    add('--image-size', type=whole(16, 512), nargs=2, metavar=('H', 'W'),
        default=argparse.SUPPRESS, help='the height and width to scale images to (default: '
        '%d %d for a folder; images of an .npz file are not scaled)' % FOLDER_SIZE)
    add_of_recipe('--epochs', type=whole(1), metavar='N',
                  help='how often to see the classes to train on')
    add_of_recipe('--batch-size', type=whole(2), metavar='N', help='images per step')
    add('--optimizer', choices=('sgd', 'adam'), default='sgd',
        help='sgd has a momentum of %g' % MOMENTUM)
    add('--lr', type=number, default=0.1, metavar='RATE', help='the highest learning rate')
    add('--wd', type=number, default=0.003, metavar='RATE', help='the weight decay')
    add_of_recipe('--label-smoothing', type=share, metavar='SHARE', help='the share of '
                  'each label that is spread over all classes')
    add_of_recipe('--augment', type=share, metavar='STRENGTH', help='how much images are '
                  'changed each time they are seen; 1 suits a training set of few people')
    add('--seeds', type=whole(0), nargs='+', default=[0, 1, 2], metavar='N',
        help='the seeds of the initial values and the order of the data; one run per seed')
    add('--validate', type=whole(0, FOLDS - 1), nargs='?', const=0, metavar='PART',
        help='to choose λ and other options: verify a fifth of the training classes, part 0 to 4, '
        'and not the test classes')
    add('--draws', type=whole(2, 100000), default=1000, metavar='N',
        help='how often classes and seeds are drawn for the intervals (bootstrap)')
    add('--output-dir', default='out/faces', metavar='DIR',
        help='the folder for metrics.json, options.json, roc.png, lambda.png and runs; with '
        '--validate and --pairs the names begin with validation- and pairs-')
    return result


def parse(arguments=None):
    """The options as an argparse.Namespace, with the defaults of the kind of images."""
    result = parser()
    options = result.parse_args(arguments)
    given = vars(options)
    given.setdefault('softmax_embedding_size',
                     given.get('embedding_size', SOFTMAX_EMBEDDING_SIZE))
    for name, value in {**RECIPES[options.images], 'embedding_size': EMBEDDING_SIZE,
                        'unseen': None, 'image_size': None}.items():
        given.setdefault(name, value)
    if options.pairs is not None and options.validate is not None:
        result.error('--validate compares all pairs of its classes: leave --pairs out')
    return options


class Sets(NamedTuple):
    """Faces to train on; other images of the same classes; images of the test classes; the pairs
    to compare of those."""
    training: faces.Faces
    known: faces.Faces
    unseen: faces.Faces
    pairs: verification.Pairs


def sets(options):
    """The Sets of the options."""
    if os.path.isdir(options.data_dir) or not os.path.exists(options.data_dir):
        loaded = [faces.load(options.data_dir, options.image_size or FOLDER_SIZE, run.say)]
    else:
        loaded = faces.load_npz(options.data_dir, options.image_size, run.say)
    people, *test = loaded
    if test and options.unseen is not None:
        run.say('%s divides the classes itself, so --unseen has no effect'
                % options.data_dir)
    pairs = None
    if options.pairs is not None:
        named = faces.load_pairs(options.pairs, (test[0] if test else people).names)
        classes = {name for pair in named for name, _ in pair}
        if test:
            unseen, seen = _named(test[0], classes)[0], people
        else:
            unseen, seen = _named(people, classes)
        pairs = _pairs(options.pairs, named, unseen)
    elif test:
        seen, unseen = people, test[0]
    else:
        count = options.unseen or len(people.names) // FOLDS
        _check_classes(options, len(people.names), count, '--unseen')
        seen, unseen = faces.split(people, count, options.split_seed)
    if options.validate is not None:
        _check_classes(options, len(seen.names), len(seen.names) // FOLDS, '--validate')
        order = np.random.RandomState(options.split_seed).permutation(len(seen.names))
        verified = np.arange(len(order)) % FOLDS == options.validate
        seen, unseen = (faces.of_classes(seen, order[part]) for part in (~verified, verified))
    _check_classes(options, len(seen.names) + len(unseen.names), len(unseen.names), 'the split')
    training, known = faces.hold_out(seen, KNOWN_FROM, options.split_seed)
    if options.batch_size > len(training.labels):
        raise OptionError('--batch-size must be at most %d, the images to train on, got %d'
                              % (len(training.labels), options.batch_size))
    # With maps of one pixel, MXNet's batch normalization of the embedding crashes:
    # docs/reliability.md.
    if unseen.images.shape[1:] != training.images.shape[1:]:
        raise OptionError('images to train on have %d x %d pixels, test images %d x %d: give '
                              '--image-size' % (training.images.shape[:1:-1]
                                                + unseen.images.shape[:1:-1]))
    if min(unseen.images.shape[2:]) < 2 ** (len(options.channels) + 1):
        raise OptionError('images of %d x %d pixels are too small: give --image-size'
                              % unseen.images.shape[:1:-1])
    return Sets(training, known, unseen,
                verification.all_pairs(unseen.labels) if pairs is None else pairs)


def _check_classes(options, present, unseen, why):
    if min(unseen, present - unseen) < 2:
        raise data.DataError('%s has %d classes with 2 images or more: %d to train on and %d '
                             'unseen (%s), but each needs 2'
                             % (options.data_dir, present, present - unseen, unseen, why))


def _named(people, names):
    """The Faces of the classes with these names, and those of the others."""
    chosen = np.array([name in names for name in people.names])
    return [faces.of_classes(people, np.flatnonzero(part)) for part in (chosen, ~chosen)]


def _pairs(path, named, unseen):
    """The Pairs of a list. Pairs with a missing image are left out, with a message."""
    rows = {(unseen.names[label], number): row
            for row, (label, number) in enumerate(zip(unseen.labels, unseen.numbers))}
    found = [pair for pair in named if all(image in rows for image in pair)]
    if len(found) < len(named):
        image = next(image for pair in named for image in pair if image not in rows)
        run.say('left out %d pairs of %s, the first of them for image %d of %s, which is not there'
                % (len(named) - len(found), path, image[1], image[0]))
    genuine = np.array([first[0] == second[0] for first, second in found], bool)
    if genuine.all() or not genuine.any():
        raise data.DataError('%s needs pairs of one class and pairs of two, it has %d and %d'
                             % (path, genuine.sum(), (~genuine).sum()))
    first, second = np.array([[rows[image] for image in pair] for pair in found]).T
    return verification.Pairs(first, second, genuine)


class Features(NamedTuple):
    """The features of the Sets, the centers and class means, and the seconds of training."""
    known: verification.Known
    unknown: verification.Known
    embedding: np.ndarray
    centers: np.ndarray
    means: np.ndarray
    seconds: float


class Run:
    """A training with one λ and one seed. The name of its folder depends on all options and images
    that define its features."""

    _DEFINING = ('images', 'center_warmup', 'alpha', 'channels', 'plain', 'epochs', 'batch_size',
                 'optimizer', 'lr', 'wd', 'label_smoothing', 'augment')

    def __init__(self, options, data_sets, center_weight, seed):
        self.options, self.sets = options, data_sets
        self.center_weight, self.seed = center_weight, seed
        self.embedding_size, self.decorrelation = (
            (options.embedding_size, options.decorrelation) if center_weight
            else (options.softmax_embedding_size, 0.))
        checksum = zlib.crc32(json.dumps([self.embedding_size, self.decorrelation, *(
            getattr(options, name) for name in self._DEFINING)]).encode())
        for part in data_sets[:3]:
            for array in part.images, part.labels:
                checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
        self.folder = os.path.join(options.output_dir, 'runs', 'lambda_%g-seed_%d-%08x' % (
            center_weight, seed, checksum))
        self.steps = len(data_sets.training.labels) // options.batch_size

    def features(self, bar):
        """The Features, from a file if an earlier run has saved them."""
        saved = self._load('features.npz', [
            *(kind + name for kind in ('known_', 'unknown_')
              for name in verification.Known._fields), *Features._fields[2:]])
        if saved is None:
            result = self._evaluate(*self._train(bar))
            flat = {**{'known_' + name: value for name, value in result.known._asdict().items()},
                    **{'unknown_' + name: value
                       for name, value in result.unknown._asdict().items()},
                    **{name: getattr(result, name) for name in Features._fields[2:]}}
            checkpoint.write_file(self._path('features.npz'), checkpoint.npz(**flat))
            os.remove(self._path('epoch.npz'))
            return result
        bar.update(self.options.epochs * self.steps)
        known, unknown = (verification.Known(*(saved[kind + name]
                                               for name in verification.Known._fields))
                          for kind in ('known_', 'unknown_'))
        return Features(known, unknown, *(saved[name] for name in Features._fields[2:]))

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _load(self, name, keys):
        """The arrays of a file that this class has written, with at least these keys, or None."""
        if not os.path.exists(self._path(name)):
            return None
        try:
            arrays = data.read_npz(self._path(name))
        except data.DataError as error:
            raise checkpoint.CheckpointError('%s; delete it to train again' % error) from None
        for key in keys:
            if key not in arrays:
                raise checkpoint.CheckpointError('%s has no array %s; delete it to train again'
                                                 % (self._path(name), key))
        return arrays

    def _train(self, bar):
        """(network, centers, seconds). With λ = 0, softmax alone, the centers still move."""
        options, training = self.options, self.sets.training
        run.make_folder(self.folder)
        classes = len(training.names)
        mx.random.seed(self.seed)
        net = Network(classes, self.embedding_size, options)
        net.initialize(mx.init.Xavier())
        net(mx.nd.array(training.images[:1]))  # shapes, so that parameters can be set
        softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)
        center_loss = CenterLoss(classes, self.embedding_size, alpha=options.alpha)
        center_loss.initialize()
        decorrelation_loss = DecorrelationLoss(self.decorrelation)
        for block in net, softmax_loss, center_loss, decorrelation_loss:
            block.hybridize()
        parameters = [*net.collect_params().values(), center_loss.centers]
        saved = self._load('epoch.npz', ['epoch', 'seconds'])
        first, seconds = 0, 0.
        if saved:
            first, seconds = int(saved['epoch']), float(saved['seconds'])
            run.say('%s, seed %d: continuing with epoch %d of %d' % (
                title(self.center_weight), self.seed, first + 1, options.epochs)
                    if first < options.epochs else '%s, seed %d: all epochs are done'
                    % (title(self.center_weight), self.seed))
        optimizer = mx.optimizer.create(
            options.optimizer, wd=options.wd, begin_num_update=first * self.steps,
            **({'momentum': MOMENTUM} if options.optimizer == 'sgd' else {}))
        # A list, because Trainer sorts a dictionary by names: 'net9' comes behind 'net10', and the
        # numbers depend on what this process has trained before.
        trainer = gluon.Trainer(list(net.collect_params().values()), optimizer)
        if saved:
            _restore(parameters, trainer, saved, self._path('epoch.npz'))
        updates = options.epochs * self.steps
        schedule = recipe.schedule(options.lr, updates)
        bar.update(first * self.steps)
        for epoch in range(first, options.epochs):
            start = time.perf_counter()
            random = np.random.RandomState((self.seed, epoch))
            order = random.permutation(len(training.labels))
            total = 0.
            for step in range(self.steps):
                rows = order[step * options.batch_size:(step + 1) * options.batch_size]
                x = mx.nd.array(faces.augment(training.images[rows], random, options.augment,
                                              options.images == 'drawings'))
                y = mx.nd.array(training.labels[rows])
                wanted = ((1 - options.label_smoothing) * mx.nd.one_hot(y, classes)
                          + options.label_smoothing / classes)
                update = epoch * self.steps + step + 1
                warmup = options.center_warmup * updates
                weight = self.center_weight * (min(1., update / warmup) if warmup else 1.)
                with autograd.record():
                    embedding, scores = net(x)
                    loss = softmax_loss(scores, wanted) + weight * center_loss(embedding, y)
                    if self.decorrelation:
                        loss = loss + decorrelation_loss(embedding)
                loss.backward()
                trainer.set_learning_rate(schedule(update))
                trainer.step(options.batch_size)
                total += float(loss.mean().asscalar())
                bar.update()
            if not math.isfinite(total):
                raise run.TrainingError('the loss is %s in epoch %d with λ = %g: try a smaller '
                                        '--lr' % (total, epoch + 1, self.center_weight))
            bar.set_postfix(loss='%.3f' % (total / self.steps))
            seconds += time.perf_counter() - start
            checkpoint.write_file(self._path('epoch.npz'), checkpoint.npz(
                epoch=epoch + 1, seconds=seconds, **_state(parameters, trainer)))
        return net, center_loss.centers.data().asnumpy(), seconds

    def _evaluate(self, net, centers, seconds):
        training, known, unseen, _ = self.sets
        embedding = _predict(net, training.images)[0].astype(np.float64)
        sums = np.zeros(centers.shape)
        np.add.at(sums, training.labels, embedding)
        means = sums / np.bincount(training.labels)[:, None]
        unknown = verification.Known(*_predict(net, unseen.images))
        # As in the paper: the features of an image and of its mirror image, concatenated.
        views = [unknown.embedding]
        if self.options.images == 'photos':
            views.append(_predict(net, unseen.images[..., ::-1])[0])
        return Features(verification.Known(*_predict(net, known.images)), unknown,
                        np.hstack(views), centers, means, seconds)


def _state(parameters, trainer):
    """The arrays of a training between two epochs."""
    arrays = {'parameter_%d' % number: parameter.data().asnumpy()
              for number, parameter in enumerate(parameters)}
    states = checkpoint.optimizer_states(_updater(trainer), _trained(trainer))
    return {**arrays, **{'optimizer_' + name: array.asnumpy() for name, array in states.items()}}


def _restore(parameters, trainer, arrays, path):
    """Set network, centers and optimizer to the arrays that `_state` returned; `path` has them."""
    arrays = {name: mx.nd.array(array) for name, array in arrays.items()}
    checkpoint.restore_parameters({'parameter_%d' % number: parameter
                                   for number, parameter in enumerate(parameters)}, arrays, path)
    checkpoint.restore_optimizer(
        _updater(trainer), _trained(trainer),
        {name[len('optimizer_'):]: array for name, array in arrays.items()
         if name.startswith('optimizer_')}, path)


def _updater(trainer):
    updater, = trainer._updaters
    return updater


def _trained(trainer):
    """The numbers of the parameters that have an optimizer state, also as names."""
    return {number: str(number)
            for number, parameter in enumerate(trainer._params)
            if parameter.grad_req != 'null'}


def _predict(net, images, rows=256):
    """(embeddings, classes of the largest probability, that probability) of images."""
    if not len(images):
        return [part[:0] for part in _predict(net, np.zeros((1, *images.shape[1:])))]
    parts = []
    for start in range(0, len(images), rows):
        embedding, scores = net(mx.nd.array(images[start:start + rows]))
        probability = mx.nd.softmax(scores).asnumpy()
        parts.append((embedding.asnumpy(), probability.argmax(axis=1), probability.max(axis=1)))
    return [np.concatenate(part) for part in zip(*parts)]


def measure(features, data_sets, drawn, known_drawn):
    """All metrics of these sets, {name: Measured}, and the ROC curves.

    Parameters
    ----------
    features : Features
    data_sets : Sets
    drawn, known_drawn : numpy.ndarray
        From `verification.draw_classes`, for the test classes and for the training classes.
    """
    unseen = data_sets.unseen
    metrics, curves = verification.verify(features.embedding, unseen.labels, data_sets.pairs,
                                          drawn)
    metrics.update(verification.identify(features.embedding, unseen.labels, drawn))
    if len(data_sets.known.labels):
        metrics.update(verification.recognize(
            features.known, data_sets.known.labels, features.unknown, unseen.labels,
            features.centers, features.means, known_drawn, drawn))
    return metrics, {distance: np.interp(FALSE_ACCEPTS, *curve)
                     for distance, curve in curves.items()}


def without_interval(data_sets):
    """The names of the metrics that are over too few classes for an interval."""
    unseen, known = len(data_sets.unseen.names), len(np.unique(data_sets.known.labels))
    return {name for name in NAMES
            if unseen < verification.FEWEST and not name.startswith('accuracy')
            or known < verification.FEWEST and name.startswith(tuple(_KNOWN))}


def title(weight):
    """The name of a λ in tables and pictures."""
    return 'λ = %g' % weight if weight else 'softmax alone'


def table(results):
    """Means and intervals of every metric in percent, and next to them what λ changes.

    The change of an error rate is its ratio to that of softmax alone, unless that is 0 in a draw;
    the change of a share of successes is the difference in points.
    """
    def text(form, entry, name, scale=1):
        mean, interval = entry[name], entry['interval' if name == 'mean' else name + '_interval']
        if interval is None:
            return form % (scale * mean)
        return '%s [%s, %s]' % tuple(form % (scale * value) for value in (mean, *interval))

    bounded = any(entry['interval'] for entry in results['0']['metrics'].values())
    lines = [['%, in brackets the 95 % interval' if bounded else '%']]
    for weight in results:
        lines[0] += [title(float(weight))] + ['against softmax alone'] * (float(weight) != 0)
    for name in NAMES:
        if name not in results['0']['metrics']:
            continue
        line = [NAMES[name]]
        for weight, result in results.items():
            entry = result['metrics'][name]
            line.append(text('%.2f', entry, 'mean', 100))
            if not float(weight):
                continue
            if name.startswith(('eer', 'false_accepts')) and entry['ratio'] is not None:
                line.append('x ' + text('%.2f', entry, 'ratio'))
            else:
                line.append(text('%+.2f', entry, 'difference', 100) + ' points')
        lines.append(line)
    return aligned(lines)


def roc_figure(curves, results):
    """The ROC curves for each distance, as means over the seeds.

    Parameters
    ----------
    curves : {λ: [{distance: true accept rates}]}
    results : {λ: {'metrics': …}}

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(12, 5), layout='constrained')
    for axes, distance in zip(figure.subplots(1, 2, sharey=True), verification.DISTANCES):
        for weight, of_seeds in curves.items():
            axes.plot(FALSE_ACCEPTS, np.mean([tars[distance] for tars in of_seeds], axis=0),
                      label='%s: EER %.1f %%' % (title(float(weight)), 100 * results[weight][
                          'metrics']['eer_' + distance]['mean']))
        axes.plot(FALSE_ACCEPTS, 1 - FALSE_ACCEPTS, color='grey', linewidth=0.8, linestyle=':')
        axes.set(xscale='log', xlabel='false accept rate', title=distance + ' distance',
                 xlim=(1e-4, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.2)
        axes.legend(frameon=False, loc='lower right')
    figure.axes[0].set_ylabel('true accept rate')
    return figure


def weights_figure(results):
    """Equal error rates against λ, with their intervals.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(6.4, 4.4), layout='constrained')
    axes = figure.subplots()
    places = np.arange(len(results))
    for shift, distance in zip((-0.04, 0.04), verification.DISTANCES):
        entries = [result['metrics']['eer_' + distance] for result in results.values()]
        means = np.array([entry['mean'] for entry in entries])
        reach = None
        if entries[0]['interval']:
            reach = 100 * np.abs(np.array([entry['interval'] for entry in entries]).T - means)
        axes.errorbar(places + shift, 100 * means, reach, marker='o', capsize=3,
                      label=distance + ' distance')
    axes.set_xticks(places)
    axes.set_xticklabels([title(float(weight)) for weight in results])
    axes.set(ylabel='equal error rate, %', ylim=(0, None))
    axes.grid(alpha=0.2)
    axes.legend(frameon=False)
    return figure


def main(arguments=None):
    """Do what the options say: metrics.json, options.json and pictures, and a table on stdout."""
    options = parse(arguments)
    data_sets = sets(options)
    # These results must not replace those of the test.
    kind = ('validation-' if options.validate is not None else
            'pairs-' if options.pairs is not None else '')
    names = [kind + name for name in RESULTS]
    with run.locked(options.output_dir, names):
        compare(options, data_sets, names)


def compare(options, data_sets, names):
    """Train and verify for every λ and seed; write the results to files with these names."""
    weights = sorted({0., *options.center_weights})
    drawn, known_drawn = (
        verification.draw_classes(len(part.names), options.draws, number)
        for number, part in enumerate((data_sets.unseen, data_sets.training)))
    run.say('%d images of %d classes to train on, %d more of them to recognize; %d of %d unseen '
            'classes, %d pairs' % (
                len(data_sets.training.labels), len(data_sets.training.names),
                len(data_sets.known.labels), len(data_sets.unseen.labels),
                len(data_sets.unseen.names), len(data_sets.pairs.genuine)))
    run.say('softmax alone has %d features; center loss %d, with decorrelation of %g' % (
        options.softmax_embedding_size, options.embedding_size, options.decorrelation))
    impostors = (~data_sets.pairs.genuine).sum()
    if impostors < 1000:
        run.say('only %d pairs of two classes: a TAR at 0.1 %% FAR is that at none or one of them'
                % impostors)
    without = without_interval(data_sets)
    if without:
        known = len(np.unique(data_sets.known.labels))
        run.say('no intervals for metrics over fewer than %d classes: there are %d unseen classes%s'
                % (verification.FEWEST, len(data_sets.unseen.names),
                   known and ' and %d to recognize' % known or ''))
    steps = len(data_sets.training.labels) // options.batch_size
    results, curves, base, seconds = {}, {}, None, []
    with tqdm(total=len(weights) * len(options.seeds) * options.epochs * steps,
              unit=' batches', mininterval=0.5) as bar:
        for weight in weights:
            runs, of_weight = {}, []
            for seed in options.seeds:
                bar.set_description('%s, seed %d' % (title(weight), seed))
                try:
                    features = Run(options, data_sets, weight, seed).features(bar)
                except KeyboardInterrupt:
                    run.leave(signal.SIGINT, options.output_dir)
                seconds.append(float(features.seconds))
                bar.set_description('%s, seed %d: measuring' % (title(weight), seed))
                runs[seed], curve = measure(features, data_sets, drawn, known_drawn)
                of_weight.append(curve)
            base = runs if base is None else base
            curves['%g' % weight] = of_weight
            results['%g' % weight] = {
                'metrics': verification.combine(runs, base if weight else None,
                                                    without=without),
                'seeds': {str(seed): {name: metric.value for name, metric in metrics.items()}
                          for seed, metrics in runs.items()}}
    run.say('training took %.0f s per run, the longest %.0f s' % (np.mean(seconds), max(seconds)))
    contents = [json.dumps(vars(options), indent=2) + '\n', json.dumps(results, indent=2) + '\n',
                plots.png(roc_figure(curves, results)), plots.png(weights_figure(results))]
    for name, content in zip(names, contents):
        run.write(options, name, content)
    print(table(results))


if __name__ == '__main__':
    run.script(main, 'the same command continues after the last whole epoch')
