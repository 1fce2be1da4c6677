"""A trained network as an ONNX file, compared with MXNet.

    python examples/export_onnx.py net-symbol.json net-0000.params --input-shape 1,8,8
    python examples/export_onnx.py net-symbol.json net-0000.params --input-shape 1,8,8 \\
        --centers centers.params --threshold 2.5

It reads what Gluon's `HybridBlock.export` or Module's `save_checkpoint` wrote, and writes
net.onnx, which takes batches of any size. ONNX Runtime and MXNet then compute the same random
inputs; if their outputs differ, there is an error and no file.

With `--centers`, the file also classifies: the outputs `label` and `distance` are those of
`nearest_center`. The network must return the embedding, and nothing else. The centers are read from
a file of `center_loss.save_parameters`, or from the parameters that `Module.fit` saved.

The graph must not contain center loss, which ONNX does not know: train_symbol.py shows how to cut
it at the embedding. In Gluon the loss is not part of the network: `net.export('net')` is enough.
"""
import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile

os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')    # no line per executor on the terminal

from center_loss_op import nearest_center  # before mxnet, for newer NumPys

import mxnet as mx
import mxnet.onnx
import numpy as np
import onnx
import onnxruntime

OPSET = 13          # the version of ONNX's operators that MXNet's exporter writes
TOLERANCE = 1e-4    # relative to the largest value of an output
# Defaults of MXNet's that its exporter does not know: it takes an attribute that is not written
# down for False, or for another number.
DEFAULTS = {'FullyConnected': {'flatten': 'True'}, 'LRN': {'knorm': '2'}}


class ExportError(Exception):
    """The network cannot be exported, or the file does not compute what MXNet does."""


def export(symbol, params, input_shapes, path):
    """Write a network as an ONNX file with a free batch size, and check it against MXNet.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        The network, as `mx.sym.load` returns it.
    params : dict of str to NDArray
        Parameters and auxiliary states, as `mx.nd.load` returns them; a prefix 'arg:' or 'aux:' of
        a name does not matter.
    input_shapes : list of tuple of int
        The shape of one sample, without the batch, for each input in the order of
        `symbol.list_inputs()`. Labels need none.
    path : str
        The file to write. The inputs are float32 and have the graph's names; an output is called
        as its node.

    Returns
    -------
    float
        The largest difference to MXNet of any output, relative to its largest value.

    Raises
    ------
    ExportError
        The difference is more than 1e-4, or the shapes do not fit the inputs. No file is written.
    """
    known = set(symbol.list_inputs())
    params = {name.split(':')[-1]: value for name, value in params.items()}
    params = {name: value for name, value in params.items() if name in known}
    # A SoftmaxOutput that was left in the graph ignores its label here.
    inputs = [name for name in symbol.list_inputs()
              if name not in params and not name.endswith('label')]
    if len(inputs) != len(input_shapes):
        raise ExportError(f'the graph has {len(inputs)} inputs without parameters, '
                          f'{", ".join(inputs)}, but {len(input_shapes)} shapes were given')
    shapes = dict(zip(inputs, map(tuple, input_shapes)))
    model = convert(symbol, params, shapes)
    difference = max(compare(model, symbol, params, shapes, batch) for batch in (1, 5))
    if not difference <= TOLERANCE:     # NaN as well
        raise ExportError(f'ONNX Runtime and MXNet differ by {difference:.1e}, more than '
                          f'{TOLERANCE:.0e}')
    with open(path, 'wb') as file:
        file.write(model)
    return difference


def convert(symbol, params, shapes):
    """The content of an ONNX file of a network, by MXNet's exporter and with its faults mended."""
    graph = json.loads(symbol.tojson())
    params = dict(params)
    for node in graph['nodes']:
        attributes = node.setdefault('attrs', {})
        for name, value in DEFAULTS.get(node['op'], {}).items():
            attributes.setdefault(name, value)
        if node['op'] == 'SoftmaxOutput':   # the same without a label, which the exporter needs
            node.update(op='softmax', inputs=node['inputs'][:1], attrs={})
        if node['op'] == 'BatchNorm' and attributes.get('fix_gamma', 'True') in ('True', '1'):
            # MXNet computes with 1, whatever is stored; the exporter writes what is stored.
            gamma = graph['nodes'][node['inputs'][1][0]]['name']
            params[gamma] = mx.nd.ones_like(params[gamma])
    # MXNet's reader does not know JSON's escapes of letters that are not ASCII.
    symbol = mx.sym.load_json(json.dumps(graph, ensure_ascii=False))

    # The exporter writes operators of version 13, but has them checked as those of the newest.
    context = onnx.checker.DEFAULT_CONTEXT
    before, context.opset_imports = context.opset_imports, {'': OPSET}
    try:
        # MXNet's exporter prints names of operators.
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            path = os.path.join(folder, 'model.onnx')
            mx.onnx.export_model(symbol, params, [(1, *shape) for shape in shapes.values()],
                                 np.float32, path, dynamic=True, dynamic_input_shapes=[
                                     ('batch', *shape) for shape in shapes.values()])
            graph = onnx.load(path).graph
    finally:
        context.opset_imports = before

    constants = {value.name: value for value in graph.initializer}
    replace(graph.input, [value for value in graph.input if value.name not in constants])
    two, three = ({name: (batch, *shape) for name, shape in shapes.items()} for batch in (2, 3))
    # One slope per channel: MXNet aligns them with the second axis, ONNX with the last.
    layers = symbol.get_internals()
    ranks = dict(zip(layers.list_outputs(), map(len, layers.infer_shape(**two)[1])))
    for node in graph.node:
        if node.op_type == 'PRelu' and len(constants[node.input[1]].dims) == 1:
            constants[node.input[1]].dims.extend([1] * (ranks[node.name + '_output'] - 2))
    # The exporter leaves the sizes of the outputs open; only those that follow the batch are.
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    outputs = []
    for name, *sizes in zip(symbol.list_outputs(), symbol.infer_shape(**two)[1],
                            symbol.infer_shape(**three)[1]):
        name = re.sub(r'_output(\d*)$', r'\1', name)
        outputs.append(onnx.helper.make_tensor_value_info(name, kinds[name], [
            size if size == other else 'batch' if (size, other) == (2, 3) else None
            for size, other in zip(*sizes)]))
    replace(graph.output, outputs)

    opsets = [onnx.helper.make_opsetid('', OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets,
                                   ir_version=onnx.helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def replace(field, values):
    """Replace all values of a repeated field."""
    del field[:]
    field.extend(values)


def compare(model, symbol, params, shapes, batch):
    """The largest difference of any output between ONNX Runtime and MXNet, for random inputs."""
    random = np.random.RandomState(0)
    feed = {name: random.randn(batch, *shape).astype('float32') for name, shape in shapes.items()}
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    executor = symbol.simple_bind(mx.cpu(), grad_req='null',
                                  **{name: value.shape for name, value in feed.items()})
    executor.copy_params_from(params, params, allow_extra_params=True)
    expected = executor.forward(**{name: mx.nd.array(value) for name, value in feed.items()})
    difference = 0
    for output, wanted in zip(session.run(None, feed), expected):
        wanted = wanted.asnumpy()
        if output.shape != wanted.shape:
            raise ExportError(f'ONNX Runtime returns shape {output.shape}, MXNet {wanted.shape}')
        largest = abs(wanted).max() or 1
        difference = np.maximum(difference, abs(output - wanted).max() / largest)   # keeps NaN
    return difference


def classifier(symbol, params, centers, threshold=math.inf):
    """A network that returns an embedding, with the nearest center: (symbol, params).

    The outputs are the embedding, `label` and `distance`. The label is -1 where no center lies
    nearer than the threshold.
    """
    label, distance = nearest_center(symbol, mx.sym.var('centers', shape=centers.shape), threshold)
    return (mx.sym.Group([symbol, mx.sym.identity(label, name='label'),
                          mx.sym.identity(distance, name='distance')]),
            {**params, 'centers': centers})


def input_shape(text):
    """An argparse type: '3,112,112' as a tuple."""
    return tuple(int(size) for size in text.split(','))


def main():
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no …
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('symbol', metavar='SYMBOL', help='…-symbol.json')
    parser.add_argument('params', metavar='PARAMS', help='…-0000.params')
    parser.add_argument('--input-shape', metavar='C,H,W', type=input_shape, action='append',
                        required=True, help='of one sample, without the batch; once per input')
    parser.add_argument('--centers', metavar='FILE', help='add the nearest of the centers in '
                        'a file of `save_parameters` or of a Module')
    parser.add_argument('--threshold', type=float, default=math.inf, metavar='DISTANCE',
                        help='with --centers: from this distance on, the label is -1')
    parser.add_argument('--output', metavar='FILE', help='default: SYMBOL with .onnx at its end')
    options = parser.parse_args()
    symbol, params = mx.sym.load(options.symbol), mx.nd.load(options.params)
    if options.centers:
        centers, = (value for name, value in mx.nd.load(options.centers).items()
                    if name.endswith('center_bias'))
        symbol, params = classifier(symbol, params, centers, options.threshold)
    path = options.output or re.sub(r'(-symbol)?\.json$', '', options.symbol) + '.onnx'
    difference = export(symbol, params, options.input_shape, path)
    print(f'wrote {path}; largest difference to MXNet {difference:.1e}')


if __name__ == '__main__':
    main()
