"""Does center loss make a better recognizer? Enrol, identify and reject classes not trained on.

    python experiments/recognizer.py DATA --output-dir OUT --unseen 0.4
    python experiments/recognizer.py lfw.npz --output-dir OUT --train-options --epochs 60

DATA is a folder with one sub-folder of images per class, of which a share, `--unseen`, is kept out
of the training; or an .npz file with `test_images` and `test_labels`, whose classes are unseen.

For each seed and each weight of center loss, ``examples/train_images.py`` trains a network on the
other classes. Every second unseen class is enrolled from five images, as ``examples/recognize.py``
does it. The table has

- rank-1: the share of the other images of the enrolled classes whose nearest mean is their class;
- strangers accepted: the share of the images of the unseen classes that were not enrolled that are
  nearer to a mean than the distance at which 5 % of the enrolled classes' images are rejected.

OUT/<seed>-<weight> has each network: a training that is finished is not repeated, one that was
interrupted continues. OUT/recognizer.json has the figures.
"""
import argparse
import json
import os
import subprocess
import sys

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'examples')
sys.path.insert(0, EXAMPLES)

import numpy as np
import recognize
from PIL import Image

ENROLLED, REJECTED = 5, 0.05


def main(arguments=None):
    options = parse(arguments)
    rows = {weight: [] for weight in options.center_weights}
    for seed in options.seeds:
        data, unseen = split(options, seed)
        known, strangers = roles(unseen)
        for weight in options.center_weights:
            out = os.path.join(options.output_dir, f'{seed}-{weight:g}')
            train(data, out, seed, weight, options.train_options)
            figures = measure(out, known, strangers)
            rows[weight].append(figures)
            print(f'seed {seed}, λ = {weight:g}: {sentence(figures)}', flush=True)
    print(table(rows))
    with open(os.path.join(options.output_dir, 'recognizer.json'), 'w', encoding='utf-8') as file:
        json.dump({'options': vars(options), 'by weight': rows}, file, indent=1)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', metavar='DATA')
    parser.add_argument('--output-dir', metavar='OUT', required=True)
    parser.add_argument('--unseen', type=float, default=1 / 3, metavar='SHARE',
                        help='of the classes of a folder (default: a third)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--center-weights', type=float, nargs='+', default=[0, 0.1], metavar='λ',
                        help='0 is softmax alone (default: 0 0.1)')
    parser.add_argument('--train-options', nargs=argparse.REMAINDER, default=[],
                        help='all that follows goes to examples/train_images.py')
    return parser.parse_args(arguments)


def split(options, seed):
    """What to train on, and the files of each unseen class: (path, {class: list of paths})."""
    if options.data.endswith('.npz'):
        return part_files(options.data, options.output_dir)
    classes = sorted(entry.name for entry in os.scandir(options.data) if entry.is_dir())
    np.random.RandomState(seed).shuffle(classes)
    count = round(len(classes) * options.unseen)
    unseen, trained = classes[:count], classes[count:]
    folder = os.path.join(options.output_dir, f'{seed}-classes')
    os.makedirs(folder, exist_ok=True)
    for name in trained:
        link = os.path.join(folder, name)
        if not os.path.lexists(link):
            os.symlink(os.path.abspath(os.path.join(options.data, name)), link)
    return folder, {name: recognize.image_files(os.path.join(options.data, name))
                    for name in sorted(unseen)}


def part_files(path, folder):
    """An .npz file of the training images, and the test images as PNG files, {class: paths}.

    With the test images in it, train_images.py would choose the best epoch by them.
    """
    files, train_file = {}, os.path.join(folder, 'train.npz')
    with np.load(path) as arrays:
        if not os.path.exists(train_file):
            os.makedirs(folder, exist_ok=True)
            np.savez(train_file, images=arrays['train_images'], labels=arrays['train_labels'])
        images, labels = arrays['test_images'], arrays['test_labels']
    for number, (image, label) in enumerate(zip(images, labels)):
        name = os.path.join(folder, 'unseen', str(label), f'{number}.png')
        files.setdefault(str(label), []).append(name)
        if not os.path.exists(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)
            Image.fromarray(image).save(name)
    return train_file, files


def roles(unseen):
    """Every second class to enrol, and the others: two dictionaries."""
    enough = [name for name in sorted(unseen) if len(unseen[name]) > ENROLLED]
    known = set(enough[::2])
    return ({name: unseen[name] for name in sorted(known)},
            {name: unseen[name] for name in sorted(unseen) if name not in known})


def train(data, out, seed, weight, train_options):
    if os.path.exists(os.path.join(out, 'recognizer.json')):
        return
    started = os.path.isdir(os.path.join(out, 'checkpoints'))
    subprocess.run([sys.executable, os.path.join(EXAMPLES, 'train_images.py'), data,
                    '--output-dir', out, '--seed', str(seed), '--center-weight', f'{weight:g}',
                    *train_options, *['--resume'] * started], check=True)


def measure(out, known, strangers):
    """Rank-1 and strangers accepted, as shares."""
    network = recognize.Network(out)

    def embed(paths):
        return np.stack([embedding for _, embedding in network.embed(paths)])

    means = np.stack([network.scaled(embed(paths[:ENROLLED]).mean(axis=0))
                      for paths in known.values()])
    queries = [(index, path) for index, paths in enumerate(known.values())
               for path in paths[ENROLLED:]]
    mine = np.stack([network.distances(one, means) for one in embed([path for _, path in queries])])
    theirs = np.stack([network.distances(one, means) for one in embed(
        [path for paths in strangers.values() for path in paths])])
    return figures_of(mine, [index for index, _ in queries], theirs)


def figures_of(mine, classes, theirs):
    """The figures from distances to all means, of the enrolled classes' images and strangers'."""
    threshold = np.quantile(mine.min(axis=1), 1 - REJECTED)
    return {'rank-1': float((mine.argmin(axis=1) == classes).mean()),
            'strangers accepted': float((theirs.min(axis=1) < threshold).mean()),
            'enrolled classes': mine.shape[1], 'images': len(mine),
            'images of strangers': len(theirs)}


def sentence(figures):
    return ', '.join(f'{name} {100 * figures[name]:.1f} %' for name in ('rank-1',
                                                                       'strangers accepted'))


def table(rows):
    """Mean over the seeds, and the lowest and highest, as Markdown."""
    lines = ['| λ | rank-1, % | strangers accepted, % |', '| --- | --- | --- |']
    for weight, figures in rows.items():
        cells = []
        for name in ('rank-1', 'strangers accepted'):
            values = [100 * each[name] for each in figures]
            cells.append(f'{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})')
        lines.append(f'| {weight:g} | {" | ".join(cells)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
