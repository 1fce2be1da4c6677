"""Compare losses on classes that no network was trained on, by the number of classes trained on.

    python examples/recognizer/compare.py DATA --output-dir OUT --classes 20 50 100 0
    python examples/recognizer/compare.py DATA --output-dir OUT --classes 20 --images-per-class 8

DATA and the options that --help does not show are those of train.py. An .npz file with `train_…`
and `test_…` says which classes are for the test. A recipe is `softmax` or `center-λ`, after
`plain-` for an embedding without batch normalization, before `-decorrelation-WEIGHT`.

OUT gets a line in runs.jsonl for each training, and from the lines with the same options table.md,
and gain.png, the gain by the number of classes. The same command continues what was
interrupted; with other sizes, recipes and seeds it adds to it.
"""
import argparse
import functools
import itertools
import json
import math
import os
import re
import shutil
import sys
import time
import warnings

import train  # before mxnet: it sets the number of threads

# isort: split
import checkpoint
import data
import metrics
import networks
import numpy as np
import recipe
from matplotlib.figure import Figure
from tqdm import tqdm

DISTANCES = 'euclidean', 'cosine'
# What is measured: how tables call it, and whether it is a share of errors.
FIGURES = {'eer': ('equal error rate', True), 'tar_at_far_1': ('TAR at 1 % FAR', False),
           'rank1': ('rank-1', False), 'enrolled_rank1': ('enrolled from five', False),
           'strangers_accepted': ('strangers accepted', True)}
RECIPES = ['softmax', 'softmax-decorrelation-0.1',
           *(f'center-{weight}-decorrelation-0.1' for weight in (0.01, 0.03, 0.1)),
           *(f'plain-center-{weight}-decorrelation-0.01' for weight in (0.003, 0.01, 0.03))]
_RECIPE = re.compile(r'(plain-)?(?:softmax|center-(\d+\.?\d*))(?:-decorrelation-(\d+\.?\d*))?')
say = functools.partial(tqdm.write, file=sys.stderr)    # above a progress bar


def parsed(name):
    """(λ and decorrelation, whether the embedding is plain, how tables call it) of a recipe."""
    plain, *weights = _RECIPE.fullmatch(name).groups()
    row = recipe.Row(*(float(weight or 0) for weight in weights))
    return row, bool(plain), row.name + ', plain' * bool(plain)


def load(options):
    """The pictures: `images`, `labels`, rows to `train` on and to `test`, and a `digest`."""
    pictures = data.load(options.data, lambda *of: networks.input_shape(options.spec, *of),
                         options.output_dir)
    images, labels, classes = pictures.images, pictures.labels, len(pictures.names)
    rows, test, kind = recipe.hold_out(pictures, options.held_out, options.seed,
                                       networks.trained_classes(options.spec))
    if kind != 'classes' or not len(test):
        raise data.DataError(f'no classes are held out: {recipe.FEW_CLASSES} or more are needed')
    if options.validate:
        others = np.random.RandomState(options.seed).permutation(np.unique(labels[rows]))
        names = [pictures.names[label] for label in others[:max(2, len(others) // 5)]]
        validation = recipe.hold_out(pictures, names, options.seed, set())
        rows, test = np.intersect1d(rows, validation.train), validation.test
    if options.rotations:
        if images.shape[1] != images.shape[2]:
            raise data.DataError('--rotations needs pictures as high as wide: give --size')
        more = [(np.rot90(images[rows], turns, axes=(1, 2)), labels[rows] + turns * classes)
                for turns in (1, 2, 3)]
        rows = np.append(rows, np.arange(len(images), len(images) + 3 * len(rows)))
        images, labels = (np.concatenate(parts) for parts in zip((images, labels), *more))
    digest = checkpoint.digest(json.dumps([pictures.digests, pictures.labels.tolist()]).encode())
    return argparse.Namespace(images=images, labels=labels, train=rows, test=test, digest=digest)


def draw(of, number, each, seed):
    """The rows of some classes, those for a smaller number among them, and of `each` of their
    pictures; 0: all."""
    random, labels = np.random.RandomState(seed), of.labels[of.train]
    classes = random.permutation(np.flatnonzero(np.bincount(labels) >= max(each, 1)))
    if not 2 <= (number or 2) <= len(classes):
        raise data.DataError(f'--classes must be 0 (all) or from 2 to {len(classes)}, which have '
                             f'{max(each, 1)} pictures or more to train on, got {number}')
    return np.concatenate([random.permutation(of.train[labels == label])[:each or None]
                           for label in classes[:number or None]])


def run(of, cell, rows, options, folder):
    """Train a cell of the comparison, and measure it: a line of runs.jsonl."""
    (row, plain, title), start = parsed(cell['recipe']), time.perf_counter()
    labels = np.zeros_like(of.labels)
    labels[rows] = np.unique(of.labels[rows], return_inverse=True)[1]
    network = train.train(
        of.images, labels, options.spec._replace(plain=plain), *row, epochs=options.epochs,
        batch_size=options.batch_size, lr=options.lr, wd=options.wd, drawings=options.drawings,
        seed=cell['seed'], contexts=networks.devices(options.ctx), rows=rows, folder=folder,
        say=say, title=title)
    embeddings, figures = network.embeddings(of.images, of.test), {}
    for distance in DISTANCES:      # the value of each, and those for draws of the test classes
        found, _ = metrics.held_out(embeddings, of.labels[of.test], distance)
        figures[distance] = {name: [float(f'{value:.5g}') for value in (one.value, *one.draws)]
                             for name, one in found.items() if name in FIGURES}
    return {**cell, 'pictures': len(rows), 'accuracy': network.history[-1]['accuracy'],
            'seconds': round(time.perf_counter() - start), 'figures': figures}


def compare(options):
    """Train what is missing; the table as a text."""
    out, of = options.output_dir, load(options)
    settings = {name: getattr(options, name) for name in (*train.FIXED, 'rotations', 'validate')}
    settings.update(data=of.digest, params=networks.digest(options.spec))
    path = os.path.join(out, 'runs.jsonl')
    lines = checkpoint.read_file(path).splitlines() if os.path.lexists(path) else []
    runs = [found for found in (checkpoint.json_object(line, path) for line in lines)
            if found.get('settings') == settings]
    missing = []
    for seed, number in itertools.product(options.seeds, options.classes):
        rows = draw(of, number, options.images_per_class, seed)
        for name in dict.fromkeys(['softmax', *options.recipes]):
            cell = {'settings': settings, 'classes': len(np.unique(of.labels[rows])), 'seed': seed,
                    'images_per_class': options.images_per_class, 'recipe': name}
            if not any(cell.items() <= found.items() for found in runs):
                missing.append((cell, rows))
    classes = len(np.unique(of.labels[of.test]))
    say(f'{len(missing)} trainings to do, measured on {len(of.test)} pictures of {classes} classes')
    for number, (cell, rows) in enumerate(missing, 1):
        name = checkpoint.digest(json.dumps(cell, sort_keys=True).encode())[:16]
        folder = checkpoint.make_folder(out, 'unfinished', name)
        runs.append(run(of, cell, rows, options, folder))
        lines.append(json.dumps(runs[-1]).encode())
        checkpoint.write(path, b'\n'.join(lines) + b'\n')
        shutil.rmtree(folder)
        write_results(out, runs, classes)
        say(f'{number} of {len(missing)}: {cell["classes"]} classes, seed {cell["seed"]}, '
            f'{cell["recipe"]}: {runs[-1]["seconds"]} s')
    return write_results(out, runs, classes)


def summary(runs):
    """{(classes, images per class, recipe, distance): {figure: (value, change, gain)}}, each with
    its interval: means over the seeds of both. A change is a ratio to softmax, or is in points."""
    lines, result = {}, {}
    for one in runs:
        key = one['classes'], one['images_per_class'], one['recipe']
        lines.setdefault(key, {})[one['seed']] = one['figures']
    for ((*size, name), of_one), distance in itertools.product(
            sorted(lines.items(), key=lambda item: item[0][:2]), DISTANCES):
        softmax = lines.get((*size, 'softmax'), {})
        seeds = of_one.keys() & softmax.keys()
        for figure, (_, error) in FIGURES.items():
            if seeds and all(figure in of_one[seed][distance] for seed in seeds):
                one, other = (np.mean([of[seed][distance][figure] for seed in seeds], axis=0)
                              for of in (of_one, softmax))
                gain = 100 * (other - one if error else one - other)
                change = one / np.maximum(other, 1e-3) if error else gain
                result.setdefault((*size, name, distance), {})[figure] = tuple(
                    part for of in (one, change, gain)
                    for part in (of[0], metrics.interval(of[1:]) or ()))
    return result


def write_results(out, runs, classes):
    """Write gain.png and table.md, and return the table."""
    found = summary(runs)
    checkpoint.write(os.path.join(out, 'gain.png'),
                     lambda file: picture(found).savefig(file, format='png', dpi=100))
    titles = 'trained on', 'loss', 'distance', *(title for title, _ in FIGURES.values())
    lines = [f'%, {classes} test classes; × is the ratio to softmax, + and − are points; in '
             'brackets 95 % intervals over the test classes.\n',
             f'| {" | ".join(titles)} |', '| --- ' * len(titles) + '|']
    for (number, each, name, distance), figures in found.items():
        cells = [f'{number:,} classes' + f', {each} pictures each' * bool(each),
                 parsed(name)[2], distance]
        for figure, (_, error) in FIGURES.items():
            value, limits, change, of_change, *_ = figures.get(figure, [math.nan, (), 1, ()])
            text, form, limits = f'{100 * value:.1f}', '{:.1f}', [100 * limit for limit in limits]
            if name != 'softmax':
                form, limits = '{:.2f}' if error else '{:+.1f}', of_change
                text += ' ' + '× ' * error + form.format(change)
            text += f' [{", ".join(map(form.format, limits))}]' * bool(limits)
            cells.append(text.replace('-', '−'))
        lines.append(f'| {" | ".join(cells)} |')
    checkpoint.write(os.path.join(out, 'table.md'), '\n'.join(lines) + '\n')
    return '\n'.join(lines)


def picture(found):
    """The gain over softmax by the number of classes: a line per figure."""
    names = list(dict.fromkeys(key[2] for key in found if key[2] != 'softmax')) or ['softmax']
    chart = Figure(figsize=(4.5 * len(names), 8), layout='constrained')
    panels = chart.subplots(2, len(names), squeeze=False, sharey=True)
    for axes, (distance, name) in zip(panels.flat, itertools.product(DISTANCES, names)):
        for each, figure in itertools.product(sorted({key[1] for key in found}), FIGURES):
            points = [(number, of[figure][4], *of[figure][5])
                      for (number, *rest), of in found.items()
                      if rest == [each, name, distance] and figure in of]
            if points:
                numbers, gains, *limits = zip(*points)
                axes.plot(numbers, gains, marker='.',
                          label=FIGURES[figure][0] + f', {each} pictures each' * bool(each))
                axes.fill_between(numbers, *(limits or (gains, gains)), alpha=0.1,
                                  color=axes.lines[-1].get_color())
        axes.axhline(0, color='grey', linewidth=1)
        axes.set(title=f'{parsed(name)[2]}\n{distance}', xscale='log',
                 xlabel='classes trained on', ylabel='gain over softmax, points')
        axes.minorticks_off()
        axes.set_xticks(numbers := sorted({key[0] for key in found}), numbers)
        axes.grid(alpha=0.2)
    panels[0, 0].legend(frameon=False, fontsize='small')
    return chart


def main(arguments=None):
    """Compare, and print the table."""
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add('--classes', type=int, nargs='+', default=[0], metavar='N', help='to train on; 0: all')
    add('--images-per-class', type=int, default=0, metavar='N', help='of classes that have them')
    add('--rotations', action='store_true', help='turned pictures are three times more classes')
    add('--recipes', nargs='+', default=RECIPES, help=f'default: {" ".join(RECIPES)}')
    add('--seeds', type=int, nargs='+', default=[0, 1], metavar='N', help='of trainings (default: '
        '0 1); --seed is that of what is held out')
    add('--validate', action='store_true', help='measure on a fifth of the classes to train on: '
        'what is chosen there is measured once on the test classes')
    own, others = parser.parse_known_args(arguments)
    options = argparse.Namespace(**{**vars(train.parse(others)), **vars(own)})
    if options.center_weight or options.resume or options.kv_store != 'device':
        parser.error('--center-weight, --resume and --kv-store are for train.py')
    if (not all(map(_RECIPE.fullmatch, options.recipes))
            or min(*options.seeds, options.images_per_class, 0) < 0):
        parser.error(f'--recipes must be such as {RECIPES[-1]}, and numbers 0 or more')
    with checkpoint.lock(options.output_dir, 'compare'):
        print(compare(options))


if __name__ == '__main__':
    warnings.filterwarnings('ignore')       # of what MXNet cannot infer
    try:
        main()
    except (data.DataError, checkpoint.CheckpointError, OSError) as error:
        sys.exit(f'compare.py: error: {data.printable(error)}')
    except KeyboardInterrupt:
        sys.exit('interrupted: the same command continues')
