"""`python -m benchmarks [--quick] [question ...]`: a table for each question."""
import argparse
import os
import platform

os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys
from center_loss_op._operator import native

import mxnet as mx
import numpy as np

from . import gluon, memory, steps, training

QUESTIONS = {'operator': steps, 'gluon': gluon, 'training': training, 'memory': memory}


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
                        help=f'{", ".join(QUESTIONS)} (default: all)')
    parser.add_argument('--quick', action='store_true', help='fewer repetitions: under a minute')
    args = parser.parse_args()
    unknown = set(args.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f'no such question: {", ".join(sorted(unknown))} (there are '
                     f'{", ".join(QUESTIONS)})')

    print(f'{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy '
          f'{np.__version__}, MXNet {mx.__version__}; a step runs in {native.which()}')
    for name in args.questions or QUESTIONS:
        question = QUESTIONS[name]
        print(f'\n{question.__doc__.strip()}')
        question.run(args.quick)


if __name__ == '__main__':
    main()
