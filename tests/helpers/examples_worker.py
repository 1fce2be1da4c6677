"""Run a training example on a worker, and keep what it would not write there.

    python examples_worker.py <script of the examples> <folder> <its arguments>

The features of the test set, which all weights have a part in, and the centers go to
`<folder>/<rank>.npz`.
"""
import os
import sys

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments')
sys.path.insert(0, EXAMPLES)


def main():
    name, folder, *arguments = sys.argv[1:]
    script = __import__(os.path.splitext(name)[0])
    import numpy as np
    import options as cli
    import run

    def train():
        options = cli.parse(arguments)
        trained = script.train(options)
        np.savez(os.path.join(folder, '%d.npz' % options.workers.rank),
                 embedding=trained.embedding, centers=trained.centers)
    run.script(train)


if __name__ == '__main__':
    main()
