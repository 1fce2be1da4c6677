"""The command line of train.py."""
import argparse
import os

import networks
import recipe
from checkpoint import FEATURES, SIDES, one_line
from data import number


def held_out(text):
    """The type of an option: a share of the classes, or the names in a file."""
    if text.replace('.', '', 1).isdigit():
        return number(0, 0.9)(text)
    with one_line(f'read {text}'), open(text, encoding='utf-8', errors='replace') as file:
        return [line.strip('\n') for line in file if line.strip()]


def parse(arguments=None, text='Train a recognizer.'):
    """The options as an argparse.Namespace."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    add = parser.add_argument
    add('data', metavar='DATA', help='a folder with one sub-folder of pictures per class, a .rec '
        'file, or an .npz file')
    add('--output-dir', metavar='OUT', required=True, help='where everything is written')
    add('--network', default='small', help='"small" (default), for small pictures; the name of a '
        'network in mx.gluon.model_zoo.vision; or the -symbol.json file of your own, to fine-tune')
    add('--params', metavar='FILE', help='the parameters of that network, to start from')
    add('--layer', metavar='NAME', help='the output of your own network to use as features '
        '(default: its last output)')
    add('--freeze', nargs='+', default=[], metavar='PATTERN', help='the parameters that stay as '
        'they are, such as "conv0*" "stage1*", or "*" for all but the new layers')
    add('--mean', type=float, nargs='+', help="what your own network's input has subtracted, by "
        'channel, from pixels of 0 to 255 (default: nothing)')
    add('--std', type=float, nargs='+', help='and what it is divided by then (default: 1)')
    add('--size', type=number(*SIDES, int), nargs=2, metavar=('H', 'W'), help='height and width of '
        'the input (default: for "small" the shape of most pictures, with a shorter side of at '
        'most 48; 224 224 for the model zoo; 112 112 for your own)')
    add('--embedding-size', type=number(*FEATURES, int), metavar='D', help='the size of an '
        'embedding (default: 128; for a network of your own, that of its layer)')
    add('--drawings', action='store_true', help='the pictures are drawings, such as letters: do '
        'not mirror or light them in other ways')
    add('--center-weight', type=number(0, 1e9), nargs='+', metavar='λ', help='the weight of center '
        'loss; 0 is softmax alone. Several are trained and compared on what is held out (default: '
        f'0 0.1; up to {recipe.MANY} classes to train on, 0 and the recipe for few classes; with '
        f'fewer than {recipe.FEWEST_FOR_CENTER_LOSS}, 0)')
    add('--held-out', type=held_out, default=0.2, metavar='SHARE', help='which share of the '
        'classes to hold out of the training, 0.9 at most (default: 0.2), and no more than '
        f'{recipe.MOST_HELD_OUT} pictures; 0: none; or a file with their names, one per line')
    add('--distance', choices=('cosine', 'euclidean'), default='cosine',
        help='how embeddings are compared (default: %(default)s)')
    add('--epochs', type=number(1, 1e9, int), default=40, metavar='N', help='default: 40')
    add('--batch-size', type=number(2, 1e9, int), default=64, metavar='N',
        help='of all devices and workers together (default: 64)')
    add('--lr', type=number(0, 1e9), help='the highest learning rate (default: 0.1; with --params '
        '0.01)')
    add('--wd', type=number(0, 1e9), help='the weight decay (default: 0.003; for other networks '
        'than "small" 0.0005)')
    add('--seed', type=number(0, 2e9, int), default=0, metavar='N', help='of initial values, '
        'order, variation, and of what is held out (default: 0)')
    add('--ctx', nargs='+', default=['cpu(0)'], metavar='DEVICE', help='such as gpu(0) gpu(1) '
        '(default: cpu(0))')
    add('--kv-store', default='device', help='dist_sync or horovod: several machines or processes '
        'train one network; see docs/scaling.md')
    add('--resume', action='store_true', help='continue the training in OUT after its last epoch')
    add('--pictures', action='store_true', help='show pictures in report.html')
    options = parser.parse_args(arguments)
    if options.lr is None:
        options.lr = 0.01 if options.params else 0.1
    if options.wd is None:
        options.wd = 0.003 if options.network == 'small' else 0.0005
    options.spec = networks.Spec(**{name: tuple(value) if isinstance(value, list) else value
                                    for name, value in vars(options).items()
                                    if name in networks.Spec._fields})
    several = len(set(options.center_weight or ())) > 1
    data = os.path.join(os.path.realpath(options.data), '')
    for wrong, message in (
            (os.path.realpath(options.output_dir).startswith(data),
             '--output-dir must not be in DATA, where its pictures would be a class'),
            (options.spec.own and not options.params,
             f'--network {options.network} needs its --params'),
            (options.network == 'small' and options.params,
             '--params are of a --network in the model zoo, or of your own'),
            (options.freeze and not options.params, '--freeze keeps --params: there are none'),
            (several and not options.held_out, 'several values of --center-weight are compared on '
             'what is held out: --held-out must not be 0'),
            (several and options.kv_store != 'device',
             f'--kv-store {options.kv_store} takes one --center-weight')):
        if wrong:
            parser.error(message)
    return options
