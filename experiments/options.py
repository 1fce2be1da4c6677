"""The command line of train.py."""
import argparse
import math

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import mxnet as mx
from data import DATASETS

LOSSES = ('joint', 'softmax', 'center')

# The defaults for each data set, the same for every loss. Each value has the type that its option
# has: reproduce.py makes the names of folders from them.
RECIPES = {
    'digits': {'epochs': 60, 'batch_size': 64, 'lr': 0.01, 'center_weight': 0.3,
               'center_warmup': 1., 'alpha': 0.5, 'shift': 1},
    'mnist': {'epochs': 20, 'batch_size': 128, 'lr': 0.003, 'center_weight': 20.,
              'center_warmup': 1., 'alpha': 0.5, 'shift': 1},
}
# Options that a resumed run must not change: its numbers would belong to neither run.
FIXED = ('dataset', 'loss', 'center_weight', 'center_warmup', 'alpha', 'embedding_size',
         'batch_size', 'lr', 'shift', 'seed', 'validate')


class OptionError(Exception):
    """An option that does not fit the others, the data or this machine."""


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
    """An argparse.ArgumentParser of all options."""
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
        help="the digits bundled with scikit-learn, or the files of MNIST in --data-dir")
    add('--data-dir', metavar='DIR',
        help='the folder of the four idx files of MNIST, gzipped or not')
    add('--loss', choices=LOSSES, default='joint',
        help='softmax and center loss together, softmax alone, or center loss alone')
    add_of_recipe('--center-weight', type=number, metavar='λ',
                  help='the weight of center loss next to softmax')
    add_of_recipe('--center-warmup', type=share, metavar='SHARE',
                  help='the share of the training during which λ rises from 0; 0: it does not')
    add_of_recipe('--alpha', type=number, metavar='α', help='the rate at which centers move')
    add('--embedding-size', type=whole(1, 1 << 16), default=2, metavar='D',
        help='the number of features of an image; 2 can be drawn as they are')
    add_of_recipe('--epochs', type=whole(1), metavar='N',
                  help='how often to see the training set')
    add_of_recipe('--batch-size', type=whole(1), metavar='N', help='images per step')
    add_of_recipe('--lr', type=number, metavar='RATE', help='the highest learning rate')
    add_of_recipe('--shift', type=whole(0, 64), metavar='PIXELS',
                  help='by how many pixels an image is moved at most; differs each time it is seen')
    add('--seed', type=whole(0), default=0, metavar='N',
        help='the seed of the initial values and the order of the data; the same seed gives the '
        'same numbers')
    add('--validate', action='store_true',
        help='to choose λ and other options: hold out a sixth of the training set and evaluate on '
        'that, not on the test set')
    add('--gpus', type=_devices, default=[], metavar='0,1', help='the GPUs to train on '
        'instead of the CPU')
    add('--cpus', type=whole(1), default=1, metavar='N',
        help='the number of CPU contexts to split a batch over, to try several devices without '
        'GPUs')
    add('--kv-store', default='device', metavar='TYPE',
        help='the store that adds up the gradients and gathers the samples of several devices, or '
        'of several workers (dist_sync, started by examples/launch_local.py; horovod, started by '
        'horovodrun)')
    add('--same-bits', action='store_true',
        help='let a resumed run of three or more workers end with the same bits as one that was '
        'not interrupted; needs --kv-store horovod, and switches its fusion of gradients off, '
        'which takes longer. Up to two workers do so without this option')
    add('--output-dir', default='out', metavar='DIR',
        help='the folder for checkpoints, history.csv, metrics.json and pictures')
    add('--resume', action='store_true',
        help='continue from the last checkpoint in --output-dir, if there is one; without this '
        'option, earlier checkpoints are renamed')
    return result


def parse(arguments=None, description=None):
    """The options as an argparse.Namespace, the recipe's values where nothing is given.

    It also has `contexts`, the devices to train on, and `weights`, the weights of the softmax and
    the center loss at the end of the training. Parsing connects to nothing.
    """
    options = parser(description).parse_args(arguments)
    for name, value in RECIPES[options.dataset].items():
        vars(options).setdefault(name, value)
    options.contexts = ([mx.gpu(gpu) for gpu in options.gpus]
                        or [mx.cpu(cpu) for cpu in range(options.cpus)])
    # With weight 0 center loss has no gradient, but its centers still move, so softmax alone can be
    # measured by the distance to centers as well.
    options.weights = {'joint': (1., options.center_weight), 'softmax': (1., 0.),
                       'center': (0., options.center_weight)}[options.loss]
    return options


def check(options, training_size, number_of_workers=1):
    """Raise OptionError if the devices or the training set do not suffice for the options."""
    present = mx.context.num_gpus()
    missing = [gpu for gpu in options.gpus if gpu >= present]
    if missing:
        raise OptionError('--gpus asks for GPU %s, but MXNet finds %d GPUs here'
                            % (', '.join(map(str, missing)), present))
    shares = len(options.contexts) * number_of_workers
    if options.batch_size % shares:
        raise OptionError('--batch-size must be a multiple of %d, the number of devices of all '
                          'workers, got %d' % (shares, options.batch_size))
    if options.batch_size > training_size:
        raise OptionError('--batch-size must be at most %d, the size of the training set, got %d'
                            % (training_size, options.batch_size))
