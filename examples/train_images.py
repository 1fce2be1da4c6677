"""Train an embedding network on your own images, with center loss.

    python examples/train_images.py DATA --output-dir OUT
    python examples/train_images.py DATA --output-dir OUT --center-weight 0 0.1
    python examples/train_images.py DATA --output-dir OUT --network resnet18_v2
    python examples/train_images.py DATA --output-dir OUT \\
        --network model-symbol.json --params model-0000.params --layer fc1_output

DATA is a folder with one sub-folder of images per class, a .rec file with its .idx as ``python -m
mxnet.tools.im2rec`` writes them (insightface's train.rec also), or an .npz file with `images`,
bytes (n, height, width), and `labels`. A fifth of the classes is held out of the training: after
each epoch, pairs of their images show how well the network tells apart classes that it has never
seen. The best epoch is kept. Because these classes choose the epoch, and λ if several are given,
their rates are a little better than those of other classes will be.

OUT gets, for ``recognize.py`` and for other programs:

- ``embedding-symbol.json`` and ``embedding-0000.params``: the network as plain MXNet files, which
  load without this package. Input `data`: (N, channels, height, width), RGB or grey, 0 to 255.
  Output: the embedding, (N, d). ``embedding.onnx`` is the same for ONNX Runtime;
- ``classes.npz``: `names` of the classes trained on, and their `centers`, (C, d);
- ``recognizer.json``: the size of the images, the distance, and the thresholds below which 1 % and
  0.1 % of the pairs of different held-out classes lie;
- ``metrics.json``, ``history.csv``, ``curves.png``, ``roc.png``, and ``checkpoints``.
"""
import argparse
import csv
import functools
import glob
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
# MXNet leaves every second processor idle unless it is told how many threads to use.
os.environ.setdefault('OMP_NUM_THREADS', str(PROCESSORS))
# A thread that waits leaves its processor to those that read: on a busy machine, they are four
# times as fast.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from center_loss_op.gluon import CenterLoss, CenterTrainer, DecorrelationLoss  # before mxnet

import image_data
import mxnet as mx
import numpy as np
from image_data import DataError
from matplotlib.figure import Figure
from mxnet import autograd, gluon
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision
from scipy.optimize import brentq
from sklearn.metrics import pairwise_distances, roc_curve
from sklearn.metrics.pairwise import paired_distances
from sklearn.model_selection import StratifiedKFold
from tqdm import tqdm

# So many classes held out say little of others.
FEW_CLASSES = 10
# What the networks of the model zoo expect: pixels of ImageNet with mean 0 and deviation 1.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# The most held-out images: all pairs of them are compared after each epoch.
MOST_HELD_OUT = 3000
FALSE_ACCEPTS = 0.01, 0.001
DECORRELATION = 0.1
MOMENTUM = 0.9


def main(arguments=None):
    """Train, choose, export, and say how good it is; returns what is in metrics.json."""
    options = parse(arguments)
    out = options.output_dir
    run = Run(options)
    histories = {}
    for weight in options.center_weight:
        histories[weight] = train(run, weight)
        if run.rank == 0:
            write(os.path.join(out, 'history.csv'), history_csv(histories))
    if run.rank:
        return None

    # Load the best epoch of each network, and measure it again.
    networks, metrics, curves, thresholds = {}, {}, {}, {}
    for weight, history in histories.items():
        best = max(history, key=goodness)
        networks[weight] = parts = run.parts()
        load_parts(epoch_folder(run.folder(weight), best['epoch']), parts, run.contexts)
        metrics[weight] = {'epoch': best['epoch']}
        thresholds[weight] = dict.fromkeys(map(str, FALSE_ACCEPTS))
        if run.held_out:
            embedding = embed_all(parts['embedding'], run.held_out, run.contexts[0])
            measured, curves[weight], thresholds[weight] = verify_held_out(
                embedding, run.held_out_labels, options.distance)
            metrics[weight].update(measured)
    chosen = max(metrics, key=lambda weight: goodness(metrics[weight]))
    embed, _, center_loss = networks[chosen].values()
    export(run, embed, center_loss.centers.data(run.contexts[0]).asnumpy(), thresholds[chosen])

    rows = [row for history in histories.values() for row in history]
    result = {
        'center_weight': chosen, 'distance': options.distance, 'thresholds': thresholds[chosen],
        'held_out': {f'{weight:g}': measured for weight, measured in metrics.items()},
        'speed': {name: float(np.median([row[name] for row in rows]))
                  for name in ('images_per_second', 'share_waiting_for_images',
                               'reading_images_per_second')}}
    if run.pairs:
        images, pairs, same = run.pairs
        embedding = embed_all(embed, run.reader(images, np.arange(len(images))), run.contexts[0])
        result['verify'] = verify_pairs(embedding, pairs, same, options.distance)
    write(os.path.join(out, 'metrics.json'), json.dumps(result, indent=2) + '\n')
    write(os.path.join(out, 'curves.png'), png(curves_figure(histories)))
    if curves:
        write(os.path.join(out, 'roc.png'), png(roc_figure(curves, metrics)))
    report(run, result)
    return result


def parse(arguments=None):
    """The options as an argparse.Namespace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('data', metavar='DATA', help='a folder with one sub-folder of images per class, a .rec '
        'file with its .idx, or an .npz file')
    add('--output-dir', metavar='OUT', required=True, help='where everything is written')
    add('--network', default='small', help='"small" (default), for small images; the name of a '
        'network in mx.gluon.model_zoo.vision; or the -symbol.json file of your own, to fine-tune')
    add('--params', metavar='FILE', help='the parameters of that network, to start from')
    add('--layer', metavar='NAME', help='the output of your own network to use as features '
        '(default: its last output)')
    add('--mean', type=float, nargs='+', help="what your own network's input has subtracted, by "
        'channel, from pixels of 0 to 255 (default: nothing)')
    add('--std', type=float, nargs='+', help='and what it is divided by then (default: 1)')
    add('--size', type=int, nargs=2, metavar=('H', 'W'), help='height and width of the input '
        '(default: for "small" the shape of most images, with a shorter side of at most 48; 224 '
        '224 for the model zoo; 112 112 for your own)')
    add('--embedding-size', type=int, metavar='D', help='the size of an embedding (default: 128; '
        'for a network of your own, that of its layer)')
    add('--drawings', action='store_true', help='the images are drawings, such as letters: do not '
        'mirror or light them in other ways')
    add('--center-weight', type=float, nargs='+', default=[0.1], metavar='λ', help='the weight of '
        'center loss, which rises from 0 during the training (default: 0.1); 0 is softmax alone. '
        'Several: train each, and keep what is best for the held-out classes')
    add('--held-out', type=float, default=0.2, metavar='SHARE', help='which share of the classes '
        f'to hold out of the training (default: 0.2), at most {MOST_HELD_OUT} images; 0: none')
    add('--distance', choices=('cosine', 'euclidean'), default='cosine',
        help='how embeddings are compared (default: %(default)s)')
    add('--verify', nargs='+', metavar='FILE', help="also verify the pairs of LFW's pairs.txt, "
        'whose images are in the folder that follows (default: in DATA, and then their classes are '
        "not trained on), or of insightface's .bin")
    add('--epochs', type=int, default=40, help='default: 40')
    add('--patience', type=int, metavar='N', help='stop when N epochs have not been better')
    add('--batch-size', type=int, default=64, help='of all devices and machines together '
        '(default: 64)')
    add('--lr', type=float, help='the highest learning rate (default: 0.1; with --params 0.01)')
    add('--wd', type=float, help='the weight decay (default: 0.003; for other networks than '
        '"small" 0.0005)')
    add('--seed', type=int, default=0, help='of initial values, order and variation '
        '(default: 0)')
    add('--readers', type=int, default=PROCESSORS, help='processes that read images '
        '(default: %(default)s, the number of processors)')
    add('--ctx', nargs='+', default=['cpu(0)'], metavar='DEVICE', help='such as '
        'gpu(0) gpu(1) (default: cpu(0))')
    add('--kv-store', default='device', help='dist_sync or horovod: several machines or processes '
        'train one network; see docs/scaling.md')
    add('--resume', action='store_true', help='continue after the last epoch in OUT, which must '
        "be your own: MXNet unpickles the optimizer's state")
    options = parser.parse_args(arguments)
    options.own = options.network.endswith('.json')
    small = options.network == 'small'
    if options.lr is None:
        options.lr = 0.01 if options.params else 0.1
    if options.wd is None:
        options.wd = 0.003 if small else 0.0005
    if options.embedding_size is None and not options.own:
        options.embedding_size = 128
    for name, low, high in (('epochs', 1, 1e9), ('batch_size', 2, 1e9), ('held_out', 0, 0.9),
                            ('lr', 0, 1e9), ('wd', 0, 1e9), ('readers', 0, 1e9), ('seed', 0, 2e9),
                            ('patience', 1, 1e9), ('embedding_size', 1, 65536)):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            name = name.replace('_', '-')
            parser.error(f'--{name} must be from {low:g} to {high:g}, got {value}')
    if not all(0 <= weight < math.inf for weight in options.center_weight):
        parser.error('--center-weight must be finite and >= 0')
    if options.size and min(options.size) < 8:
        parser.error('--size must be 8 or more')
    if not all(re.fullmatch(r'[cg]pu\(\d+\)', device) for device in options.ctx):
        parser.error('--ctx must be devices such as cpu(0) or gpu(1)')
    if os.path.realpath(options.output_dir).startswith(os.path.realpath(options.data) + os.sep):
        parser.error('--output-dir must not be in DATA, where its pictures would be a class')
    if options.own and not options.params:
        parser.error(f'--network {options.network} needs its --params')
    if small and options.params:
        parser.error('--params are of a --network in the model zoo, or of your own')
    if len(options.center_weight) > 1 and not options.held_out:
        parser.error('several values of --center-weight are compared on classes held out: '
                     '--held-out must not be 0')
    if options.kv_store != 'device' and (len(options.center_weight) > 1 or options.patience):
        parser.error(f'--kv-store {options.kv_store} takes one --center-weight and no --patience')
    options.center_weight = sorted(set(options.center_weight))
    return options


def open_store(name):
    """(store, number of this worker, number of workers)."""
    if name == 'device':
        return name, 0, 1
    if name == 'horovod':
        try:
            from center_loss_op.horovod import Horovod
        except ImportError as error:
            raise DataError(f'--kv-store horovod: {error}') from None
        store = Horovod()
    elif name == 'dist_sync' and 'DMLC_ROLE' in os.environ:
        store = mx.kv.create(name)
    else:
        raise DataError(f'--kv-store must be device, horovod, or dist_sync under a launcher that '
                        f'starts a scheduler and servers; got {name}')
    return store, store.rank, store.num_workers


# -- data: which classes are trained on and which are held out


class Run:
    """What the trainings of several λ share: data, options, devices."""

    def __init__(self, options):
        self.options = options
        self.store, self.rank, self.workers = open_store(options.kv_store)
        self.contexts = [getattr(mx, device[:3])(int(device[4:-1])) for device in options.ctx]
        if any(context.device_type == 'gpu' and context.device_id >= mx.context.num_gpus()
               for context in self.contexts):
            raise DataError(f'--ctx {" ".join(options.ctx)}: MXNet finds {mx.context.num_gpus()} '
                            'GPUs here')
        if self.rank == 0:
            checkpoints = os.path.join(options.output_dir, 'checkpoints')
            if glob.glob(os.path.join(checkpoints, '*', 'epoch-*')) and not options.resume:
                raise DataError(f'{checkpoints} are of an earlier run: continue it with --resume, '
                                'or take another --output-dir')
        images = image_data.load(options.data)
        if self.rank == 0:
            os.makedirs(checkpoints, exist_ok=True)
        images, found = image_data.check(images, options.readers, self.say)
        self.shape = input_shape(options, found)
        self.pairs, left_out = None, set()
        if options.verify:
            path, folder = [*options.verify, options.data][:2]
            self.pairs = image_data.load_pairs(path, folder, options.readers, self.say)
            if folder is options.data and not path.endswith('.bin'):
                left_out = {self.pairs[0].names[label] for label in self.pairs[0].labels}
        self.classes, held_out = split(images, options.held_out, left_out)
        self.held_out_classes = len(held_out)
        self.names = [images.names[label] for label in self.classes]
        rows = np.flatnonzero(np.isin(images.labels, self.classes))
        held_out_rows = np.flatnonzero(np.isin(images.labels, held_out))
        if len(held_out_rows) > MOST_HELD_OUT:
            held_out_rows = np.sort(np.random.RandomState(0).permutation(held_out_rows)[
                :MOST_HELD_OUT])
        self.held_out_labels = images.labels[held_out_rows]
        devices = len(self.contexts) * self.workers
        self.batch_size = min(options.batch_size, len(rows)) // devices * devices
        if self.batch_size < 2 * devices:
            raise DataError(f'--batch-size must be {2 * devices} or more: two images per device')
        self.fixed = {name: value for name, value in vars(options).items() if name not in (
            'data', 'output_dir', 'resume', 'verify', 'readers', 'patience', 'center_weight',
            'ctx', 'size')}
        self.fixed.update(input=list(self.shape), images=len(rows), classes=len(self.classes))
        self.say(f'{len(rows)} images of {len(self.classes)} classes to train on, '
                 f'{len(held_out_rows)} of {len(held_out)} classes held out; '
                 f'{"grey" if self.shape[0] == 1 else "colour"}, {self.shape[1]} x {self.shape[2]}')

        # Start the processes that read now: a process that has used a GPU cannot be forked.
        self.order = image_data.Batches(rows, self.batch_size, options.seed, self.rank,
                                        self.workers)
        self.training = gluon.data.DataLoader(
            image_data.Training(images, self.classes, self.shape), batch_sampler=self.order,
            batchify_fn=image_data.Vary(options.drawings), num_workers=options.readers)
        self.held_out = self.reader(images, held_out_rows) if len(held_out) else None

    def reader(self, images, rows):
        """A DataLoader of images as they are."""
        return gluon.data.DataLoader(image_data.Plain(images, rows, self.shape), 64,
                                     batchify_fn=np.stack, num_workers=self.options.readers)

    def say(self, line):
        """A line for the user, apart from the results."""
        if self.rank == 0:
            print(line, file=sys.stderr, flush=True)

    def folder(self, weight):
        """Where the checkpoints of a λ are."""
        return os.path.join(self.options.output_dir, 'checkpoints', f'lambda-{weight:g}')

    def parts(self):
        """{name: block}: the embedding network, the classifier, the center loss."""
        mx.random.seed(self.options.seed)
        embed, classifier = build(self.options, self.shape, len(self.classes), self.contexts)
        features = classifier.weight.shape[1]
        center_loss = CenterLoss(len(self.classes), features)
        center_loss.initialize(ctx=self.contexts)
        parts = {'embedding': embed, 'classifier': classifier, 'centers': center_loss}
        for block in parts.values():
            block.hybridize()
        return parts


def split(images, share, left_out):
    """The labels to train on and the labels held out.

    Parameters
    ----------
    images : image_data.Images
    share : float
        Of the classes; more if 1 % of the pairs of their images would be less than one pair.
    left_out : set of str
        Names of classes that are in neither.
    """
    counts = np.bincount(images.labels, minlength=len(images.names))
    usable = np.array([label for label in np.flatnonzero(counts)
                       if images.names[label] not in left_out])
    if images.own_held_out is not None and share:
        held_out = np.intersect1d(usable, images.own_held_out)
    else:
        order = np.random.RandomState(0).permutation(usable)    # the same for every --seed
        most = np.searchsorted(np.cumsum(counts[order]), MOST_HELD_OUT)
        number = min(max(2, min(round(share * len(order)), most)), len(order) - 2) if share else 0
        while share and number < len(order) // 2 and _different(counts[order[:number]]) < 100:
            number += 1
        held_out = order[:max(number, 0)]
    train = np.setdiff1d(usable, held_out)
    if len(train) < 2 or share and len(held_out) < 2:
        raise DataError(f'there are {len(usable)} classes with two images or more, but two are '
                        'needed to train on' + (' and two to hold out' if share else ''))
    return train, np.sort(held_out)


def _different(counts):
    """How many pairs of images of different classes there are."""
    return (counts.sum() ** 2 - (counts ** 2).sum()) // 2


def input_shape(options, found):
    """(channels, height, width) of the network's input.

    Parameters
    ----------
    found : (int, int, int)
        From `image_data.check`.
    """
    channels, height, width = found
    if options.own:
        symbol, _, params = read_network(options.network, options.params, options.layer)
        # The first convolution says how many channels there are.
        channels = next((params[name].shape[1] for name in symbol.list_arguments()
                         if name in params and params[name].ndim == 4), 3)
        height, width = 112, 112
    elif options.network != 'small':
        channels, height, width = 3, 224, 224
    else:
        scale = min(1, 48 / min(height, width))
        height, width = (max(8, 8 * round(side * scale / 8)) for side in (height, width))
        height, width = min(height, 2 * width), min(width, 2 * height)  # a panorama is cropped
    return (channels, *(options.size or (height, width)))


# -- network: images to embeddings; from these, a linear classifier makes scores


class Normalize(nn.HybridBlock):
    """(pixels − mean) / std, by channel."""

    def __init__(self, mean, std):
        super().__init__()
        with self.name_scope():
            self.mean = self.params.get_constant('mean', np.reshape(mean, (1, -1, 1, 1)))
            self.std = self.params.get_constant('std', np.reshape(std, (1, -1, 1, 1)))

    def hybrid_forward(self, F, x, mean, std):
        return F.broadcast_div(F.broadcast_sub(x, mean), std)


def build(options, shape, classes, contexts):
    """(embedding network, classifier), initialized."""
    prefix = 'embedding_'
    if options.own:     # it may have been made by this program
        _, _, params = read_network(options.network, options.params, options.layer)
        while any(name.startswith(prefix) for name in params):
            prefix = f'new_{prefix}'
    embed = nn.HybridSequential(prefix=prefix)
    with embed.name_scope():
        body, mean, std = read_body(options, shape, contexts)
        if mean or std:
            embed.add(Normalize(mean or [0], std or [1]))
        embed.add(body, nn.Dense(options.embedding_size, use_bias=False) if options.embedding_size
                  else nn.Flatten())
        # Without scale and shift, center loss cannot shrink the embedding instead of gathering it.
        embed.add(nn.BatchNorm(scale=False, center=False))
    classifier = nn.Dense(classes, use_bias=False, prefix='classifier_')
    new = [*embed[-2:], classifier]
    for block in new if options.params else [embed, classifier]:
        block.initialize(mx.init.Xavier(), ctx=contexts)
    if options.params:      # what is new learns faster than what is there
        for block in new:
            block.collect_params().setattr('lr_mult', 10)
        if mean or std:
            embed[0].initialize(ctx=contexts)
    try:
        check_maps(embed(mx.sym.var('data')), shape)
        classifier(embed(mx.nd.zeros((1, *shape), ctx=contexts[0]))).wait_to_read()
    except (mx.MXNetError, ValueError, AssertionError) as error:
        raise DataError(f'{options.network} does not take images of {shape[1]} x {shape[2]}: give '
                        f'its --size ({first_line(error)})') from None
    return embed, classifier


def check_maps(symbol, shape):
    """Refuse what crashes MXNet: its BatchNorm of the embedding, (N, d), reads beyond its memory if
    a convolution has d channels, too, and maps of one pixel."""
    layers = symbol.get_internals()
    *_, embedding = sizes = layers.infer_shape(data=(1, *shape))[1]
    for name, size in zip(layers.list_outputs(), sizes):
        if size == (*embedding, 1, 1) and 'conv' in name:
            raise ValueError(f'{name} has maps of one pixel, which MXNet cannot train with an '
                             f'embedding of {embedding[1]}: another --embedding-size would do, too')


def read_body(options, shape, contexts):
    """(images to features, mean and deviation of its pixels); has parameters with --params."""
    if options.network == 'small':
        body = nn.HybridSequential()
        # Each image gets mean 0 and deviation 1: brightness and contrast depend on the light.
        body.add(nn.InstanceNorm(epsilon=1, center=False, scale=False))
        for number, channels in enumerate((32, 64, 128)):
            if min(shape[1:]) >> number >= 4:
                # Normalizing after the pooling is a quarter of the work.
                body.add(nn.Conv2D(channels, kernel_size=3, padding=1, use_bias=False),
                         nn.MaxPool2D(pool_size=2), nn.BatchNorm(), nn.Activation('relu'))
        return body, options.mean, options.std
    if options.own:
        symbol, name, _ = read_network(options.network, options.params, options.layer)
        body = gluon.SymbolBlock(symbol, mx.sym.var(name))
        body.collect_params().load(options.params, ctx=contexts, ignore_extra=True, cast_dtype=True,
                                   dtype_source='saved')
        return body, options.mean, options.std
    try:
        net = vision.get_model(options.network)
    except ValueError as error:     # its message has a line per network
        raise DataError('--network must be "small", the -symbol.json file of a network, or in the '
                        f'model zoo: {" ".join(str(error).split())}') from None
    if options.params:
        try:
            net.load_parameters(options.params, ctx=contexts, ignore_extra=True)
        except (OSError, AssertionError, ValueError, mx.MXNetError) as error:
            raise DataError(f'cannot read {options.params} into {options.network}: '
                            f'{first_line(error)}') from None
    return net.features, options.mean or IMAGENET_MEAN, options.std or IMAGENET_STD


@functools.lru_cache(maxsize=None)
def read_network(network, params_file, layer):
    """(symbol up to the layer, name of its input, {name: array}) of the user's network."""
    try:
        graph = json.loads(mx.sym.load(network).tojson())
        for node in graph['nodes']:
            if node['op'] == 'FullyConnected':      # MXNet's default, which its ONNX exporter needs
                node.setdefault('attrs', {}).setdefault('flatten', 'True')
        symbol = mx.sym.load_json(json.dumps(graph, ensure_ascii=False))
        params = {name.split(':', 1)[-1]: array
                  for name, array in mx.nd.load(params_file).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, mx.MXNetError) as error:
        raise DataError(f'cannot read {network} with {params_file}: '
                        f'{first_line(error)}') from None
    internals = symbol.get_internals()
    outputs = internals.list_outputs()
    wanted = layer or symbol.list_outputs()[0]
    wanted = wanted if wanted in outputs else f'{wanted}_output'
    if wanted not in outputs:
        raise DataError(f'{network} has no --layer {layer}; its last ones are '
                        + ', '.join(name for name in outputs if name.endswith('_output'))[-200:])
    cut = internals[wanted]
    inputs = [name for name in cut.list_inputs() if name not in params]
    if len(inputs) != 1:
        raise DataError(f'{network} up to {wanted} needs one input beside {params_file}, '
                        f'but these are not in it: {", ".join(inputs) or "none"}')
    return cut, inputs[0], params


def first_line(error):
    """The first line of an exception's text that says something."""
    lines = [line for line in str(error).splitlines() if line.strip() and 'Stack trace' not in line
             and 'Traceback' not in line]
    return (lines or [type(error).__name__])[-1 if isinstance(error, mx.MXNetError) else 0].strip()


# -- training


def train(run, weight):
    """Train with a center loss of this weight; leaves checkpoints, and returns the history."""
    options, contexts = run.options, run.contexts
    steps = len(run.order)
    updates = options.epochs * steps
    parts = run.parts()
    embed, classifier, center_loss = parts.values()
    softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    decorrelation_loss = DecorrelationLoss(DECORRELATION if weight else 0)
    for block in softmax_loss, decorrelation_loss:
        block.hybridize()
    # A list, because Trainer sorts a dictionary by names, and these depend on earlier networks.
    parameters = [*embed.collect_params().values(), *classifier.collect_params().values()]
    trainer = gluon.Trainer(parameters, 'sgd', {'momentum': MOMENTUM, 'wd': options.wd},
                            kvstore=run.store, update_on_kvstore=False)
    # Several devices or workers: all their copies of the centers move as one.
    several = len(contexts) * run.workers > 1
    center_trainer = CenterTrainer(center_loss, run.store) if several else None
    # From a small rate up, then down to 0 along a cosine.
    schedule = mx.lr_scheduler.CosineScheduler(updates, options.lr, warmup_begin_lr=options.lr / 50,
                                               warmup_steps=min(50, updates // 2))

    path, state = last_state(run.folder(weight))
    history = state.get('history', [])
    if path:
        before = {name: (state['options'].get(name), value) for name, value in run.fixed.items()
                  if state['options'].get(name) != value}
        for name, (old, new) in before.items():
            raise DataError(f'{path} was written with {name} = {old}, not {new}: resume with the '
                            'same, or take another --output-dir')
        load_parts(path, parts, contexts)
        run.say(f'{title(weight)}: continuing after epoch {len(history)}')
        trainer.load_states(os.path.join(path, 'trainer.states'))

    bar = tqdm(total=updates, initial=len(history) * steps, unit=' batches', desc=title(weight),
               disable=run.rank != 0, mininterval=0.1 if sys.stderr.isatty() else 10)
    while len(history) < options.epochs and not stopped(history, options.patience):
        epoch = run.order.epoch = len(history) + 1
        sums, waiting, reading, start = np.zeros(4), 0., 0., time.perf_counter()
        batches = iter(run.training)
        for update in range((epoch - 1) * steps + 1, epoch * steps + 1):
            asked = time.perf_counter()
            images, labels, seconds = next(batches)
            waiting += time.perf_counter() - asked
            reading += seconds
            # λ rises: classes have to lie apart before they are gathered.
            rising = weight * update / updates
            losses, shown = [], []
            with autograd.record():
                for x, y in zip(*(gluon.utils.split_and_load(array, contexts, even_split=False)
                                  for array in (images, labels))):
                    embedding = embed(x)
                    scores = classifier(embedding)
                    softmax, center = softmax_loss(scores, y), center_loss(embedding, y)
                    decorrelation = decorrelation_loss(embedding)
                    losses.append(softmax + rising * center + decorrelation)
                    shown.append((softmax, center, decorrelation, scores.argmax(axis=1) == y))
            autograd.backward(losses)
            trainer.set_learning_rate(schedule(update))
            trainer.step(run.batch_size)
            if center_trainer:
                center_trainer.step()
            sums += [sum(float(part.sum().asscalar()) for part in kind) for kind in zip(*shown)]
            done = (update - (epoch - 1) * steps) * len(labels)
            shown = {'softmax': f'{sums[0] / done:.3f}', 'center': f'{sums[1] / done:.2f}'}
            if history and 'eer' in history[-1]:
                shown['eer'] = f'{100 * history[-1]["eer"]:.1f} %'
            bar.set_postfix(shown, refresh=False)
            bar.update()
        seconds = time.perf_counter() - start
        if not np.isfinite(sums).all():
            raise DataError(f'the loss is no number any more in epoch {epoch}, {title(weight)}: '
                            'try a smaller --lr')
        if run.rank:
            history.append({'epoch': epoch})
            continue
        seen = steps * run.batch_size
        row = {'center_weight': weight, 'epoch': epoch, 'learning_rate': trainer.learning_rate,
               **dict(zip(('softmax_loss', 'center_loss', 'decorrelation_loss', 'accuracy'),
                          sums / done)),
               'images_per_second': seen / seconds, 'share_waiting_for_images': waiting / seconds,
               'reading_images_per_second': seen / run.workers * (
                   options.readers / reading if options.readers else 1 / waiting)}
        if run.held_out:
            row.update(verify_held_out(embed_all(embed, run.held_out, contexts[0]),
                                       run.held_out_labels, options.distance)[0])
        history.append(row)
        save_checkpoint(run.folder(weight), epoch, parts, trainer,
                        {'options': run.fixed, 'history': history},
                        keep=max(history, key=goodness)['epoch'])
    bar.close()
    return history


def title(weight):
    """How a λ is called."""
    return f'λ = {weight:g}' if weight else 'softmax alone'


def stopped(history, patience):
    """Whether the last epochs, `patience` in number, were no better than one before."""
    if not patience or len(history) <= patience:
        return False
    return len(history) - max(history, key=goodness)['epoch'] >= patience


# -- verification: are pairs of images of the same class nearer than others?


def verify(distances, same):
    """({metric: value}, (false accept rates, true accept rates)) of pairs of images."""
    far, tar, _ = roc_curve(same, -distances)
    metrics = {'eer': brentq(lambda rate: 1 - rate - np.interp(rate, far, tar), 0, 1)}
    for rate in FALSE_ACCEPTS:
        metrics[f'tar_at_far_{100 * rate:g}'] = float(np.interp(rate, far, tar))
    return metrics, (far, tar)


def threshold(impostors, rate):
    """The largest distance below which at most this share of the pairs of others lies, or None."""
    count = int(rate * len(impostors))
    return float(np.sort(impostors)[count]) if count else None


def verify_held_out(embedding, labels, distance):
    """Metrics, curve and thresholds of all pairs of the held-out images."""
    between = pairwise_distances(embedding.astype(np.float64), metric=distance)
    first, second = np.triu_indices(len(labels), k=1)
    distances, same = between[first, second], labels[first] == labels[second]
    metrics, curve = verify(distances, same)
    np.fill_diagonal(between, np.inf)
    metrics['rank1'] = float((labels[between.argmin(axis=1)] == labels).mean())
    return metrics, curve, {str(rate): threshold(distances[~same], rate) for rate in FALSE_ACCEPTS}


def verify_pairs(embedding, pairs, same, distance):
    """As people report on LFW: accuracy at the best threshold of nine folds on the tenth."""
    distances = paired_distances(*(embedding[part].astype(np.float64) for part in pairs.T),
                                 metric=distance)
    accuracies = []
    for fit, test in StratifiedKFold(10).split(distances, same):
        order = np.argsort(distances[fit])
        right = np.cumsum(np.where(same[fit][order], 1, -1))
        best = distances[fit][order][right.argmax()]
        accuracies.append(((distances[test] <= best) == same[test]).mean())
    return {'accuracy': float(np.mean(accuracies)), 'accuracy_std': float(np.std(accuracies)),
            'pairs': len(same), **verify(distances, same)[0]}


def embed_all(embed, loader, context):
    """The embeddings of all images of a loader."""
    return np.concatenate([embed(mx.nd.array(images, ctx=context)).asnumpy() for images in loader])


def goodness(row):
    """Epochs and networks are ordered by this: the largest is the best."""
    return (-row['eer'], row['tar_at_far_1'], row['rank1']) if 'eer' in row else row['epoch']


# -- files, which are written completely or not at all


def write(path, content):
    """Write a file under another name, and rename it once it is on the disk."""
    unfinished = f'{path}.unfinished'
    with open(unfinished, 'wb') as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def save_checkpoint(folder, epoch, parts, trainer, state, keep):
    """Write the folder `epoch-…` and remove those of other epochs but `keep`."""
    unfinished = os.path.join(folder, 'unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    os.makedirs(unfinished)
    for name, block in parts.items():
        block.save_parameters(os.path.join(unfinished, f'{name}.params'))
    trainer.save_states(os.path.join(unfinished, 'trainer.states'))
    write(os.path.join(unfinished, 'state.json'), json.dumps(state))
    for path in [*glob.glob(os.path.join(unfinished, '*')), unfinished]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    os.rename(unfinished, epoch_folder(folder, epoch))
    for path in glob.glob(os.path.join(folder, 'epoch-*')):
        if path not in (epoch_folder(folder, epoch), epoch_folder(folder, keep)):
            shutil.rmtree(path)


def epoch_folder(folder, epoch):
    """The path of an epoch's checkpoint."""
    return os.path.join(folder, f'epoch-{epoch:04d}')


def load_parts(path, parts, contexts):
    """Give blocks the parameters of a checkpoint."""
    try:
        for name, block in parts.items():
            block.load_parameters(os.path.join(path, f'{name}.params'), ctx=contexts)
    except (OSError, ValueError, AssertionError, mx.MXNetError) as error:
        raise DataError(f'cannot read {path}: {first_line(error)}; remove it to continue from an '
                        'earlier one') from None


def last_state(folder):
    """(folder of the last epoch, its state) or (None, {})."""
    folders = sorted(glob.glob(os.path.join(folder, 'epoch-*')), key=lambda path: (len(path), path))
    if not folders:
        return None, {}
    path = os.path.join(folders[-1], 'state.json')
    try:
        with open(path, encoding='utf-8') as file:
            return folders[-1], json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f'cannot read {path}: {error}') from None


# -- results


def export(run, embed, centers, thresholds):
    """Write the network as MXNet and as ONNX files, and what recognize.py needs beside it."""
    out = run.options.output_dir
    embedding = embed(mx.nd.zeros((1, *run.shape), ctx=run.contexts[0]))    # infers its shapes
    with tempfile.TemporaryDirectory() as folder:
        embed.export(os.path.join(folder, 'embedding'))
        for name in 'embedding-symbol.json', 'embedding-0000.params':
            with open(os.path.join(folder, name), 'rb') as file:
                content = file.read()
            write(os.path.join(out, name), content)
    digest = hashlib.sha256(content).hexdigest()[:16]   # of the parameters
    classes = io.BytesIO()
    np.savez(classes, names=np.array(run.names), centers=centers)
    write(os.path.join(out, 'classes.npz'), classes.getvalue())
    write(os.path.join(out, 'recognizer.json'), json.dumps({
        'input': run.shape, 'resize': 'shorter side, center crop',
        'embedding_size': embedding.shape[1], 'distance': run.options.distance,
        'thresholds': thresholds, 'network': digest}, indent=2) + '\n')
    try:
        from export_onnx import export as to_onnx

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'embedding.onnx')
            to_onnx(mx.sym.load(os.path.join(out, 'embedding-symbol.json')),
                    mx.nd.load(os.path.join(out, 'embedding-0000.params')), [run.shape], path)
            with open(path, 'rb') as file:
                write(os.path.join(out, 'embedding.onnx'), file.read())
    except ImportError as error:
        run.say(f"no embedding.onnx ({error}): pip install 'center_loss_op[onnx]'")
    except Exception as error:
        # MXNet's exporter does not know every operator, and fails in many ways.
        run.say(f'no embedding.onnx: {first_line(error)}')


def curves_figure(histories):
    """Losses, and the equal error rate of the held-out classes, by epoch."""
    figure = Figure(figsize=(12, 4), layout='constrained')
    names = {'softmax_loss': 'softmax loss', 'center_loss': 'center loss',
             'eer': 'equal error rate of classes held out, %'}
    for axes, (column, label) in zip(figure.subplots(1, 3), names.items()):
        for weight, history in histories.items():
            if column in history[0]:
                factor = 100 if column == 'eer' else 1
                axes.plot([row['epoch'] for row in history],
                          [factor * row[column] for row in history], label=title(weight))
                if column == 'eer':
                    best = max(history, key=goodness)
                    axes.plot(best['epoch'], 100 * best['eer'], 'o',
                              color=axes.lines[-1].get_color())
        axes.set(title=label, xlabel='epoch', ylim=(0, None))
        axes.grid(alpha=0.2)
        if axes.lines:
            axes.legend(frameon=False)
    return figure


def roc_figure(curves, metrics):
    """ROC curves of the pairs of held-out images."""
    figure = Figure(figsize=(6, 5), layout='constrained')
    axes = figure.subplots()
    for weight, (far, tar) in curves.items():
        axes.plot(far, tar, label=f'{title(weight)}: equal error rate '
                  f'{100 * metrics[weight]["eer"]:.1f} %')
    equal = np.logspace(-4, 0)
    axes.plot(equal, 1 - equal, color='grey', linewidth=0.8, linestyle=':', label='equal errors')
    axes.set(xscale='log', xlabel='false accept rate', ylabel='true accept rate', xlim=(1e-4, 1),
             ylim=(0, 1.02), title='pairs of images of classes held out of the training')
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, loc='upper left')
    return figure


def png(figure):
    """A figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=100)
    return content.getvalue()


def history_csv(histories):
    """All epochs of all λ as text."""
    text = io.StringIO()
    rows = [row for history in histories.values() for row in history]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def report(run, result):
    """Print the results as people read them."""
    if run.held_out:
        print(f'{run.options.distance} distance, classes held out    equal error rate    '
              'TAR at 1 % FAR    rank-1    epoch')
        for weight, of_weight in result['held_out'].items():
            mark = '*' if float(weight) == result['center_weight'] else ' '
            print(f'{mark} {title(float(weight)):<34} {100 * of_weight["eer"]:14.2f} % '
                  f'{100 * of_weight["tar_at_far_1"]:15.1f} % {100 * of_weight["rank1"]:7.1f} % '
                  f'{of_weight["epoch"]:8d}')
        for rate, value in result['thresholds'].items():
            print(f'threshold for a false accept rate of {100 * float(rate):g} %: '
                  + (f'{value:.4f}' if value is not None else 'none, too few classes are held out'))
        if run.held_out_classes < FEW_CLASSES:
            print(f'only {run.held_out_classes} classes are held out, so other classes can have '
                  'quite other rates: check the threshold on images of your own')
    if 'verify' in result:
        of_pairs = result['verify']
        print(f'{of_pairs["pairs"]} pairs of {run.options.verify[0]}: accuracy '
              f'{100 * of_pairs["accuracy"]:.2f} ± {100 * of_pairs["accuracy_std"]:.2f} %, '
              f'TAR {100 * of_pairs["tar_at_far_1"]:.1f} % at 1 % FAR and '
              f'{100 * of_pairs["tar_at_far_0.1"]:.1f} % at 0.1 % FAR')
    speed = result['speed']
    print(f'{speed["images_per_second"]:.0f} images per second, waiting for images '
          f'{100 * speed["share_waiting_for_images"]:.0f} % of the time; reading and varying them '
          f'alone: {speed["reading_images_per_second"]:.0f} per second')
    print(f'wrote {run.options.output_dir}')


if __name__ == '__main__':
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f'train_images.py: error: {error}')
    except KeyboardInterrupt:
        print('interrupted: --resume continues after the last whole epoch', file=sys.stderr)
        sys.exit(130)
