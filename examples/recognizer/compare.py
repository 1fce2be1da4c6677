"""Compare losses on classes that no network was trained on, by the number of classes trained on.

    python examples/recognizer/compare.py DATA --output-dir OUT --classes 20 50 100 0

DATA and the options that --help does not show are those of train.py. An .npz file with `train_…`
and `test_…` says which classes are for the test. A recipe is `softmax` or `center-λ`, after
`plain-` for an embedding without batch normalization, before `-decorrelation-WEIGHT`.

OUT gets a line in runs.jsonl for each training, the embeddings of the test pictures in embeddings,
and from the lines with the same options table.md, and gain.png, the gain by the number of classes.
The same command continues what was interrupted; with other sizes, recipes and seeds it adds to it.
"""
import argparse
import functools
import io
import itertools
import json
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
# For --rule: how many classes are held out, and how often they are drawn.
HELD_OUT, DRAWS = (4, 9, 15, 30), 60
RECIPES = ['softmax', 'softmax-decorrelation-0.1',
           *(f'center-{weight}-decorrelation-0.1' for weight in (0.01, 0.03, 0.1)),
           *(f'plain-center-{weight}-decorrelation-0.01' for weight in (0.003, 0.01, 0.03))]
_RECIPE = re.compile(r'(plain-)?(?:softmax|center-(\d+\.?\d*))(?:-decorrelation-(\d+\.?\d*))?')
say = functools.partial(tqdm.write, file=sys.stderr)    # above a progress bar


def parsed(name):
    """The recipe.Row with this name on the command line."""
    plain, *weights = _RECIPE.fullmatch(name).groups()
    return recipe.Row(*(float(weight or 0) for weight in weights), bool(plain))


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
    row, start, name = parsed(cell['recipe']), time.perf_counter(), os.path.basename(folder)
    labels = np.zeros_like(of.labels)
    labels[rows] = np.unique(of.labels[rows], return_inverse=True)[1]
    network = train.train(
        of.images, labels, options.spec._replace(plain=row.plain), *row[:2], epochs=options.epochs,
        batch_size=options.batch_size, lr=options.lr, wd=options.wd, drawings=options.drawings,
        seed=cell['seed'], contexts=networks.devices(options.ctx), rows=rows, folder=folder,
        say=say, title=row.name)
    embeddings = network.embeddings(of.images, of.test)
    checkpoint.write(os.path.join(checkpoint.make_folder(options.output_dir, 'embeddings'),
                                  f'{name}.npy'), lambda file: np.save(file, embeddings))
    return {**cell, 'embeddings': name, 'pictures': len(rows),
            'accuracy': network.history[-1]['accuracy'],
            'seconds': round(time.perf_counter() - start),
            'figures': figures_of(embeddings, of.labels[of.test])}


def figures_of(embeddings, labels):
    """{distance: {figure: [value, and those for draws of the classes]}}."""
    return {distance: {
        name: [float(f'{value:.5g}')
               for value in (one.value, *(one.draws if one.interval() else ()))]
        for name, one in metrics.held_out(embeddings, labels, distance)[0].items()
        if name in metrics.TITLES} for distance in DISTANCES}


def settings_of(options, of):
    """What the runs have in common that can be compared."""
    return {**{name: getattr(options, name) for name in (*train.FIXED, 'rotations', 'validate')},
            'data': of.digest, 'params': networks.digest(options.spec),
            'shape': list(of.images.shape[1:])}


def compare(options):
    """Train what is missing; the table as a text."""
    out, of = options.output_dir, load(options)
    settings = settings_of(options, of)
    path = os.path.join(out, 'runs.jsonl')
    lines = checkpoint.read_file(path).splitlines() if os.path.lexists(path) else []
    runs = [found for found in (checkpoint.json_object(line, path) for line in lines)
            if found.get('settings') == settings]
    if options.rule:
        return rule(out, of, runs, options.distance)
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
    """{(classes, images per class, recipe, distance): {figure: (value, change, gain)}}, Figures of
    means over the seeds of both. A change is a ratio to softmax, or as a gain in points."""
    lines, result = {}, {}
    for one in runs:
        key = one['classes'], one['images_per_class'], one['recipe']
        lines.setdefault(key, {})[one['seed']] = one['figures']
    for ((*size, name), of_one), distance in itertools.product(
            sorted(lines.items(), key=lambda item: item[0][:2]), DISTANCES):
        softmax = lines.get((*size, 'softmax'), {})
        seeds = of_one.keys() & softmax.keys()
        for figure in metrics.TITLES:
            if seeds and all(figure in of_one[seed][distance] for seed in seeds):
                means = (np.mean([of[seed][distance][figure] for seed in seeds], axis=0)
                         for of in (of_one, softmax))
                one, other = (metrics.Figure(mean[0], mean[1:], metrics.FEWEST) for mean in means)
                error = figure in metrics.ERRORS
                gain = one.with_(lambda a, b, sign=-100 if error else 100: sign * (a - b), other)
                ratio = one.with_(lambda a, b: a / np.maximum(b, 1e-3), other)
                result.setdefault((*size, name, distance), {})[figure] = (
                    one, ratio if error else gain, gain)
    return result


def rule(out, of, runs, distance):
    """How often recipe.choose takes center loss, and whether it should, as a text: draws of test
    classes stand for the held-out classes of a training, and all of them show what is right."""
    labels, trained, chosen = of.labels[of.test], {}, {}
    sizes = [size for size in HELD_OUT if size < len(np.unique(labels))]
    for one in (one for one in runs if 'embeddings' in one):
        path = os.path.join(out, 'embeddings', f'{one["embeddings"]}.npy')
        key = one['classes'], one['images_per_class'], one['seed']
        trained.setdefault(key, {})[one['recipe']] = np.load(
            io.BytesIO(checkpoint.read_file(path)), allow_pickle=False)
    for (*key, seed), embeddings in trained.items():
        random = np.random.RandomState(seed)
        for size in np.repeat(sizes, DRAWS):
            mine = np.isin(labels, random.permutation(np.unique(labels))[:size])
            figures = {parsed(name): metrics.held_out(of_all[mine], labels[mine], distance)[0]
                       for name, of_all in embeddings.items()}
            for name in filter(lambda name: parsed(name).center_weight, embeddings):
                rows = [recipe.SOFTMAX, parsed(name)]
                chosen.setdefault((*key, name), []).append(
                    recipe.choose(figures, rows, key[0]) == rows[1])
    table, found = [], summary(runs)
    for key, draws in sorted(chosen.items()):
        eer, rank1 = (found[(*key, distance)][figure][1] for figure in ('eer', 'rank1'))
        (low, high), (_, most) = (of.interval() or [of.value] * 2 for of in (eer, rank1))
        verdict = 'harms' if low > 1 or most < 0 else 'helps' if high < 1 else ''
        shares = 100 * np.reshape(draws, (-1, len(sizes), DRAWS)).mean(axis=(0, 2))
        table.append([*key[:2], parsed(key[2]).name, f'{eer.value:.2f}', f'{rank1.value:+.1f}',
                      verdict, *(f'{share:.0f}' for share in shares)])
    return markdown(['classes', 'pictures each', f'loss, {distance}', 'equal error rate, ×',
                     'rank-1, points', 'center loss', *(
                         f'chosen with {size} held out, %' for size in sizes)], table)


def markdown(header, rows):
    """A table."""
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in (
        header, ['---'] * len(header), *rows))


def write_results(out, runs, classes):
    """Write gain.png and table.md, and return the table."""
    found, rows = summary(runs), []
    checkpoint.write(os.path.join(out, 'gain.png'),
                     lambda file: picture(found).savefig(file, format='png', dpi=100))
    for (number, each, name, distance), figures in found.items():
        row = [f'{number:,} classes' + f', {each} pictures each' * bool(each), parsed(name).name,
               distance]
        for figure in metrics.TITLES:
            one, change, gain = figures.get(figure, [None] * 3)
            row.append('' if not one else one.text() if name == 'softmax' else
                       f'{100 * one.value:.1f} ' + (
                           change.text('{:+.1f}', 1) if change is gain else
                           f'× {change.text("{:.2f}", 1)}').replace('-', '−'))
        rows.append(row)
    text = (f'%, {classes} test classes; × is the ratio to softmax, + and − are points; in '
            'brackets 95 % intervals over the test classes.\n\n'
            + markdown(['trained on', 'loss', 'distance', *metrics.TITLES.values()], rows))
    checkpoint.write(os.path.join(out, 'table.md'), text + '\n')
    return text


def picture(found):
    """The gain over softmax by the number of classes: a line per figure."""
    names = list(dict.fromkeys(key[2] for key in found if key[2] != 'softmax')) or ['softmax']
    numbers, sizes = (sorted({key[place] for key in found}) for place in (0, 1))
    chart = Figure(figsize=(4.5 * len(names), 8), layout='constrained')
    panels = chart.subplots(2, len(names), squeeze=False, sharey=True)
    for axes, (distance, name) in zip(panels.flat, itertools.product(DISTANCES, names)):
        for (style, each), (number, figure) in itertools.product(
                zip(itertools.cycle(('-', '--', ':')), sizes), enumerate(metrics.TITLES)):
            gains = {classes: of[figure][2] for (classes, *rest), of in found.items()
                     if rest == [each, name, distance] and figure in of}
            if gains:
                axes.plot(list(gains), [gain.value for gain in gains.values()], style, marker='.',
                          color=f'C{number}', label=metrics.TITLES[figure]
                          + f', {each or "all"} pictures each' * (len(sizes) > 1))
                limits = [gain.interval() or [gain.value] * 2 for gain in gains.values()]
                axes.fill_between(list(gains), *zip(*limits), alpha=0.1, color=f'C{number}')
        axes.axhline(0, color='grey', linewidth=1)
        axes.set(title=f'{parsed(name).name}\n{distance}', xscale='log',
                 xlabel='classes trained on', ylabel='gain over softmax, points')
        axes.minorticks_off()
        axes.set_xticks(numbers, numbers)
    chart.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=2,
                 frameon=False, fontsize='small')
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
    add('--rule', action='store_true', help='train nothing, but show how often the rule of '
        'train.py takes what harms, and misses what helps, from the runs that are there')
    own, others = parser.parse_known_args(arguments)
    options = argparse.Namespace(**{**vars(train.parse(others)), **vars(own)})
    if options.center_weight or options.resume or options.kv_store != 'device':
        parser.error('--center-weight, --resume and --kv-store are for train.py')
    if (not all(map(_RECIPE.fullmatch, options.recipes))
            or min(*options.seeds, options.images_per_class, 0) < 0):
        parser.error(f'--recipes must be such as {RECIPES[-1]}, and numbers 0 or more')
    with checkpoint.lock(options.output_dir):
        print(compare(options))


if __name__ == '__main__':
    warnings.filterwarnings('ignore')       # of what MXNet cannot infer
    try:
        main()
    except (data.DataError, OSError) as error:
        sys.exit(f'compare.py: error: {data.printable(error)}')
    except KeyboardInterrupt:
        sys.exit('interrupted: the same command continues')
