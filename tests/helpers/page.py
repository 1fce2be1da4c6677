"""Run the Python blocks of a page from top to bottom, as a reader does: `python page.py PAGE`.

The imports at the top of the first block run before anything is imported. Then the names that pages
take for granted (data, a network, a fitted module) are made for each block that does not have them
yet. A block of ```text
directly below a block of Python is what it prints; … stands for anything.
"""
import ast
import contextlib
import fnmatch
import io
import itertools
import os
import re
import sys

BLOCK = re.compile(r'^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?', re.DOTALL | re.MULTILINE)
CLASSES, BATCH, SIZE = 10, 8, 5


def blocks(path):
    """The blocks of Python of a page: (code, what it prints or '')."""
    with open(path, encoding='utf-8') as file:
        return BLOCK.findall(file.read())


def is_of_a_graph(text):
    return any(sign in text for sign in ('mx.sym', 'mx.mod', "CenterTrainer('", 'legacy',
                                         'module.'))


def around(code):
    """The names that pages take for granted, for one block."""
    import center_loss_op

    import mxnet as mx
    import numpy as np
    from mxnet import autograd, gluon
    from page_names import Net, Train

    names = dict(mx=mx, np=np, gluon=gluon, autograd=autograd, train=Train(), classes=CLASSES)
    if is_of_a_graph(code):
        label = mx.sym.var('softmax_label')
        embedding = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=2, name='embedding')
        scores = mx.sym.FullyConnected(embedding, num_hidden=CLASSES, name='scores')
        softmax = mx.sym.SoftmaxOutput(scores, label, name='softmax')
        center = center_loss_op.symbol.center_loss(embedding, label, CLASSES, name='center_loss')
        fitted = mx.mod.Module(mx.sym.Group([softmax, center]))
        fitted.fit(Train(), num_epoch=1,
                   eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
        return dict(names, label=label, embedding=embedding, scores=scores, softmax=softmax,
                    gt_label=label, center=center, module=fitted)
    net = Net()
    net.initialize()
    x, y = next(iter(Train()))
    embedding, scores = net(x)
    loss = center_loss_op.gluon.CenterLoss(CLASSES)
    loss.initialize()
    loss.update(embedding, y)
    return dict(names, net=net, x=x, y=y, embedding=embedding, scores=scores, center_loss=loss,
                softmax_loss=gluon.loss.SoftmaxCrossEntropyLoss(),
                trainer=gluon.Trainer(net.collect_params(), 'sgd'))


def imports(code):
    """The imports with which a block begins."""
    tree = ast.parse(code)
    first = itertools.takewhile(
        lambda one: isinstance(one, (ast.Import, ast.ImportFrom)), tree.body)
    return ast.Module(list(first), [])


def check_printed(path, number, want, got):
    wanted, lines = want.strip().splitlines(), got.strip().splitlines()
    pattern = '\n'.join(line.replace('[', '[[]').replace('…', '*') for line in wanted)
    if not fnmatch.fnmatchcase('\n'.join(lines), pattern):
        sys.exit(f'{path}, block {number} prints\n{got}\nand not\n{want}')


def main(path):
    made = {}
    for number, (code, printed) in enumerate(blocks(path), 1):
        if 'center_loss_op.horovod' in code and not os.environ.get('HAVE_HOROVOD'):
            continue
        if number == 1:
            exec(compile(imports(code), f'{path}, block 1', 'exec'), {})
        given = around(code)
        names = {**given, **made}
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, f'{path}, block {number}', 'exec'), names)
        sys.modules['mxnet'].nd.waitall()
        if printed:
            check_printed(path, number, printed, output.getvalue())
        made.update((name, value) for name, value in names.items()
                    if name != '__builtins__' and value is not given.get(name))
    print(f'{len(blocks(path))} blocks')


if __name__ == '__main__':
    main(sys.argv[1])
