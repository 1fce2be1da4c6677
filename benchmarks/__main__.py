"""`python -m benchmarks [--quick] [--json FILE] [question ...]`: a table for each question."""
import argparse
import json
import os
import platform

os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys
from center_loss_op._operator import native

import mxnet as mx
import numpy as np

from . import gluon, images, memory, steps, training

QUESTIONS = {'operator': steps, 'gluon': gluon, 'training': training, 'memory': memory,
             'images': images}


def processor():
    """The model name of the processor, where the system tells."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            return next(line.split(':')[1].strip() for line in lines if 'model name' in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__)
    parser.add_argument('questions', nargs='*', metavar='question',
                        help='%s (default: all)' % ', '.join(QUESTIONS))
    parser.add_argument('--quick', action='store_true', help='fewer repetitions: under a minute')
    parser.add_argument('--json', metavar='FILE', help='write the figures there too')
    args = parser.parse_args()
    unknown = set(args.questions) - set(QUESTIONS)
    if unknown:
        parser.error('no such question: %s (there are %s)'
                     % (', '.join(sorted(unknown)), ', '.join(QUESTIONS)))

    figures = {'machine': '%s, %d cores' % (processor(), os.cpu_count()),
               'python': platform.python_version(), 'numpy': np.__version__,
               'mxnet': mx.__version__, 'a step runs in': native.which()}
    print(', '.join('%s %s' % item for item in figures.items()))
    for name in args.questions or QUESTIONS:
        question = QUESTIONS[name]
        print('\n%s' % question.__doc__.strip())
        figures[name] = question.run(args.quick)
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump(figures, file, indent=1)


if __name__ == '__main__':
    main()
