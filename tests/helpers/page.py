"""Run pages as a reader does: `python page.py README.md docs/using.md`.

All blocks run in one process, with the names of the blocks before them. A block of ```text directly
below a block of Python is what it prints: a number with a point may differ by a twentieth, and …
stands for anything. A block that trains has to move centers.
"""
import ast
import contextlib
import importlib.util
import io
import re
import sys

BLOCK = re.compile(r'^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?', re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r'\d+\.\d+')
HAVE_HOROVOD = importlib.util.find_spec('horovod') is not None


def blocks(path):
    """The blocks of Python of a page: (code, what it prints or '')."""
    with open(path, encoding='utf-8') as file:
        return BLOCK.findall(file.read())


def run(path, names):
    for number, (code, printed) in enumerate(blocks(path), 1):
        if 'center_loss_op.horovod' in code and not HAVE_HOROVOD:
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, f'{path}, block {number}', 'exec'), names)
        sys.modules['mxnet'].nd.waitall()
        if printed and not is_like(printed, output.getvalue()):
            sys.exit(f'{path}, block {number} prints\n{output.getvalue()}\nand not\n{printed}')
        if any(word in code for word in ('.backward(', '.fit(', '.update(')):
            for name, centers in centers_in(code, names):
                if not centers.asnumpy().any():
                    sys.exit(f'{path}, block {number} does not move the centers of {name}')


def is_like(want, got):
    pattern = NUMBER.sub(r'([\\d.]+)', re.escape(want.strip()).replace(r'\.', '.'))
    match = re.fullmatch(pattern.replace('…', '.*'), got.strip())
    return match and all(abs(float(one) - float(other)) <= 0.05 * float(one)
                         for one, other in zip(NUMBER.findall(want), match.groups()))


def centers_in(code, names):
    """The names of losses and trained Modules that stand in a block, with their centers."""
    for name in {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}:
        value = names.get(name)
        if hasattr(value, 'centers') and not isinstance(value, type):
            yield name, value.centers.data(value.centers.list_ctx()[0])
        elif getattr(value, 'params_initialized', False):
            yield from ((name, array) for key, array in value.get_params()[1].items()
                        if key.endswith('center_bias'))


def main(paths):
    # A page may be read alone: what it imports first has to be possible first.
    first = [one for one in ast.parse(blocks(paths[-1])[0][0]).body
             if isinstance(one, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(first, []), paths[-1], 'exec'), {})
    importlib.import_module('numpy').random.seed(0)
    names = {}
    for path in paths:
        run(path, names)
    print(f'{len(blocks(paths[-1]))} blocks')


if __name__ == '__main__':
    main(sys.argv[1:])
