"""What center loss does, in two runs on digits: softmax alone, then softmax and center loss.

    python experiments/demo.py --output-dir out/demo
"""
import argparse
import os

import processors  # before mxnet; pylint: disable=unused-import
import checkpoint
import evaluation
import options as cli
import plots
import run
import train as train_gluon

TITLES = {'softmax': 'softmax alone', 'joint': 'softmax + center loss'}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output-dir', default='out/demo', metavar='DIR',
                        help='where the picture and the two runs go (default: %(default)s)')
    folder = parser.parse_args(arguments).output_dir
    results = {}
    for loss, title in TITLES.items():
        # The same recipe for both; only the loss differs.
        results[title] = train_gluon.train(cli.parse(
            ['--loss', loss, '--output-dir', os.path.join(folder, loss)]))
    picture = os.path.join(folder, 'distributions.png')
    checkpoint.write_file(picture, plots.png(plots.embedding_figure(results)))
    print('\n%s\n\n%s' % (
        evaluation.table({title: result.metrics for title, result in results.items()}), picture))


if __name__ == '__main__':
    run.script(main, 'the same command starts anew')
