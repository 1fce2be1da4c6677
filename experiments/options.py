"""The command line of the examples."""
import argparse
import math
import os

import center_loss_op  # before mxnet, for newer NumPys; pylint: disable=unused-import
import mxnet as mx
import numpy as np

from data import DATASETS

LOSSES = ('joint', 'softmax', 'center')

# What to do with a data set unless an option says otherwise; the same for every loss. Values are of
# the type that the option makes: reproduce.py names runs after them.
RECIPES = {
    'digits': {'epochs': 60, 'batch_size': 64, 'lr': 0.01, 'center_weight': 0.3,
               'center_warmup': 1., 'alpha': 0.5, 'shift': 1},
    'mnist': {'epochs': 20, 'batch_size': 128, 'lr': 0.003, 'center_weight': 20.,
              'center_warmup': 1., 'alpha': 0.5, 'shift': 1},
}
# What may not change when a run is resumed: the numbers would be those of neither run.
FIXED = ('dataset', 'loss', 'center_weight', 'center_warmup', 'alpha', 'embedding_size',
         'batch_size', 'lr', 'shift', 'seed', 'validate')


class OptionError(Exception):
    """Options that are right by themselves, but not here."""


def whole(minimum, maximum=2 ** 31 - 1):
    """An argparse type: a whole number within these bounds."""
    def whole_number(text):
        value = int(text)
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError('must be from %d to %d, got %s'
                                             % (minimum, maximum, text))
        return value
    return whole_number


def number(text):
    """An argparse type: a finite number >= 0."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError('must be finite and >= 0, got %s' % text)
    return value


def share(text):
    """An argparse type: a number from 0 to 1."""
    value = number(text)
    if value > 1:
        raise argparse.ArgumentTypeError('must be from 0 to 1, got %s' % text)
    return value


def _devices(text):
    return [whole(0)(gpu) for gpu in text.split(',')] if text else []


def parser(description):
    """The options that both training scripts share: an argparse.ArgumentParser."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument

    def add_of_recipe(name, **kwargs):
        key = name.strip('-').replace('-', '_')
        values = ', '.join('%g for %s' % (recipe[key], dataset)
                           for dataset, recipe in RECIPES.items())
        add(name, default=argparse.SUPPRESS, **{**kwargs, 'help': '%s (default: %s)' % (
            kwargs['help'], values)})

    add('--dataset', choices=DATASETS, default='digits',
        help="scikit-learn's bundled digits, or MNIST's files from --data-dir")
    add('--data-dir', metavar='DIR', help="the folder of MNIST's four idx files, gzipped or not")
    add('--loss', choices=LOSSES, default='joint',
        help='softmax and center loss together, softmax alone, or center loss alone')
    add_of_recipe('--center-weight', type=number, metavar='λ',
                  help='the weight of center loss beside softmax')
    add_of_recipe('--center-warmup', type=share, metavar='SHARE',
                  help='over which share of the training λ rises from 0; 0: it does not')
    add_of_recipe('--alpha', type=number, metavar='α', help='the rate at which centers move')
    add('--embedding-size', type=whole(1, 1 << 16), default=2, metavar='D',
        help='features of an image; 2 can be drawn as they are')
    add_of_recipe('--epochs', type=whole(1), metavar='N',
                  help='how often to see the training set')
    add_of_recipe('--batch-size', type=whole(1), metavar='N', help='images a step')
    add_of_recipe('--lr', type=number, metavar='RATE', help='the highest learning rate')
    add_of_recipe('--shift', type=whole(0, 64), metavar='PIXELS',
                  help='how far an image is moved at most, another way every time it is seen')
    add('--seed', type=whole(0), default=0, metavar='N',
        help='of initial values and data order; the same seed gives the same numbers')
    add('--validate', action='store_true',
        help='leave the test set alone: hold a sixth of the training set out and evaluate on that, '
        'to choose λ and the rest')
    add('--gpus', type=_devices, default=[], metavar='0,1', help='GPUs to train on instead of '
        'the CPU')
    add('--cpus', type=whole(1), default=1, metavar='N',
        help='CPU contexts to split a batch over: to try without GPUs what several do')
    add('--kv-store', default='device', metavar='TYPE',
        help='what adds up the gradients and gathers the samples of several devices, or of '
        'several workers (dist_sync, see examples/launch_local.py; horovod, under horovodrun)')
    add('--output-dir', default='out', metavar='DIR',
        help='where checkpoints, history.csv, metrics.json and pictures go')
    add('--resume', action='store_true',
        help='continue from the last checkpoint in --output-dir, if there is one')
    return result


def parse(arguments=None, description=None):
    """The options as an argparse.Namespace, the recipe's values where nothing is given.

    Beside the options it has `contexts`, the devices to train on; `weights`, those of the
    softmax and the center loss in the end; and `workers`, a `Workers`.
    """
    options = parser(description).parse_args(arguments)
    for name, value in RECIPES[options.dataset].items():
        vars(options).setdefault(name, value)
    options.contexts = ([mx.gpu(gpu) for gpu in options.gpus]
                        or [mx.cpu(cpu) for cpu in range(options.cpus)])
    options.workers = Workers(options.kv_store)
    # With weight 0 a loss has no gradient, but center loss still moves its centers: softmax
    # alone can be measured by the same centers.
    options.weights = {'joint': (1., options.center_weight), 'softmax': (1., 0.),
                       'center': (0., options.center_weight)}[options.loss]
    return options


class Workers:
    """The processes that train together: usually this one alone. Number 0 is the one that shows
    progress, writes, and heeds signals.

    Attributes
    ----------
    store : KVStore or str
        For the trainers.
    rank, number : int
        Which of how many this one is.
    """

    def __init__(self, kv_store):
        self.store, self.rank, self.number = kv_store, 0, 1
        if kv_store == 'horovod':
            try:
                from center_loss_op.horovod import Horovod  # who does not use it need not have it
            except ImportError as error:
                raise OptionError('--kv-store horovod: %s' % error) from None
            # Packed as they come, as is its wont, the gradients of three workers are added up in
            # another order in every run: a resumed one would not end with the same bits.
            os.environ.setdefault('HOROVOD_FUSION_THRESHOLD', '0')
            self.store = Horovod()
            if self.store.num_workers == 1 and 'HOROVOD_SIZE' not in os.environ:
                raise OptionError('--kv-store horovod needs workers: start it with '
                                  'horovodrun -np 2 python ...')
        elif 'dist' in kv_store:
            if 'async' in kv_store:
                raise OptionError('--kv-store %s: its workers do not step together, so they cannot '
                                  'have one set of centers; use dist_sync' % kv_store)
            if 'DMLC_ROLE' not in os.environ:
                raise OptionError('--kv-store %s needs a scheduler and servers: start it with '
                                  'examples/launch_local.py -n 2 python ...' % kv_store)
            self.store = mx.kv.create(kv_store)
        elif kv_store not in ('local', 'device'):
            raise OptionError('--kv-store must be local, device, dist_sync or horovod, got %s'
                              % kv_store)
        if self.store is not kv_store:
            self.rank, self.number = self.store.rank, self.store.num_workers

    def part(self, batch):
        """This worker's rows of each array of a global batch."""
        return [np.array_split(array, self.number)[self.rank] for array in batch]


def check(options, training_size):
    """Raise OptionError where the devices or the training set are less than is asked for."""
    present = mx.context.num_gpus()
    missing = [gpu for gpu in options.gpus if gpu >= present]
    if missing:
        raise OptionError('--gpus asks for GPU %s, but MXNet finds %d GPUs here'
                            % (', '.join(map(str, missing)), present))
    shares = len(options.contexts) * options.workers.number
    if options.batch_size % shares:
        raise OptionError('--batch-size must be a multiple of %d, the number of devices of all '
                          'workers, got %d' % (shares, options.batch_size))
    if options.batch_size > training_size:
        raise OptionError('--batch-size must be at most %d, the size of the training set, got %d'
                            % (training_size, options.batch_size))
