"""A trained network as ONNX: its embedding, and a classifier by nearest center, in one file.

    python experiments/export_onnx.py out/joint
    python experiments/export_onnx.py out/mnist --data-dir DIR --threshold 2

Reads the last checkpoint of either training script. Writes beside it

- ``model.onnx``: images, (batch, 1, height, width), to `embedding`, (batch, d), `label`, (batch,),
  and `distance`, (batch,), that to the nearest center; the batch is free;
- ``centers.npz``: the centers, (C, d), as `centers`.

The losses stay behind. The file is checked with ONNX's checker, and its results on the test
set, from ONNX Runtime, are compared with MXNet's.
"""
import argparse
import json
import math
import os
import tempfile

os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')

from center_loss_op import nearest_center  # before mxnet, for newer NumPys
import mxnet as mx
import mxnet.onnx
import numpy as np
import onnx
import onnxruntime

import checkpoint
import data
import run
from options import number, whole

OUTPUTS = ('embedding', 'label', 'distance')
OPSET = 13
# What both may differ by, relative to the largest embedding.
TOLERANCE = 1e-5


class ExportError(run.TrainingError):
    """A network that cannot be exported, or that does not compute in ONNX what it does here."""


def parse(arguments=None):
    """The options as an argparse.Namespace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('run_dir', metavar='DIR', help='the --output-dir of a training run')
    parser.add_argument('--data-dir', metavar='DIR', help="the folder of MNIST's files, for a "
                        'network trained on it')
    parser.add_argument('--threshold', type=number, default=math.inf,
                        help='label an image -1 at this distance from all centers')
    parser.add_argument('--batch-size', type=whole(1), default=256, metavar='N',
                        help='images at a time in the comparison')
    return parser.parse_args(arguments)


def export(options):
    """Export as the options say.

    Returns
    -------
    dict
        The largest difference to MXNet, relative to the largest value, by output; and the
        `accuracy` on the test set.
    """
    saved = checkpoint.load(options.run_dir, print)
    if saved is None:
        raise ExportError('no checkpoint in %s' % options.run_dir)
    _, test_set = data.load(saved.state['options']['dataset'], options.data_dir)
    symbol, params = classifier(saved, options.threshold)

    model = to_onnx(symbol, params, test_set.images.shape[1:])
    images = [test_set.images[begin:begin + options.batch_size]
              for begin in range(0, len(test_set.images), options.batch_size)]
    outputs = run_onnx(model, images)
    differences = compare(outputs, run_mxnet(symbol, params, images))
    accuracy = float((outputs[OUTPUTS.index('label')] == test_set.labels).mean())
    path = os.path.join(options.run_dir, 'model.onnx')
    checkpoint.write_file(path, model)
    centers, = saved.aux_params.values()
    checkpoint.write_file(os.path.join(options.run_dir, 'centers.npz'),
                          checkpoint.npz(centers=centers.asnumpy()))
    print('%s: %.2f %% of the test set right; largest difference to MXNet %.1e'
          % (path, 100 * accuracy, max(differences.values())))
    return {**differences, 'accuracy': accuracy}


def classifier(saved, threshold):
    """The symbol images → (embedding, label, distance) of a checkpoint, and its parameters."""
    with open(os.path.join(saved.path, 'model-symbol.json'), encoding='utf-8') as file:
        graph = json.load(file)
    for node in graph['nodes']:
        if node['op'] == 'FullyConnected':
            # MXNet's default, which its exporter takes for False where it is not written down.
            node['attrs'].setdefault('flatten', 'True')
    internals = mx.sym.load_json(json.dumps(graph)).get_internals()
    # Module's name of the layer's output, and Gluon's.
    names = {'embedding_output', 'embedding_fwd_output'} & set(internals.list_outputs())
    if len(names) != 1 or len(saved.aux_params) != 1:
        raise ExportError('%s has no layer "embedding" with centers' % saved.path)
    embedding = internals[names.pop()]
    (name, centers), = saved.aux_params.items()
    symbol = mx.sym.Group([embedding, *nearest_center(
        embedding, mx.sym.var(name, shape=centers.shape), threshold)])
    params = {**saved.arg_params, **saved.aux_params}
    return symbol, {name: params[name] for name in symbol.list_arguments() if name != 'data'}


def to_onnx(symbol, params, image_shape):
    """The bytes of an ONNX file of a symbol of image batches, with a free batch size, checked."""
    # MXNet writes operators of this version, but marks them as of the newest.
    onnx.checker.DEFAULT_CONTEXT.opset_imports = {'': OPSET}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'model.onnx')
        mx.onnx.export_model(symbol, params, [(1, *image_shape)], np.float32, path, dynamic=True,
                             dynamic_input_shapes=[('batch', *image_shape)])
        graph = onnx.load(path).graph
    # Parameters are constants; as inputs they could be replaced, and are not folded.
    constants = {value.name for value in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    # The names and shapes that a reader of the file expects.
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    del graph.output[:]
    _, shapes, _ = symbol.infer_shape(data=(1, *image_shape))
    for name, node_output, shape in zip(OUTPUTS, symbol.list_outputs(), shapes):
        inner = node_output[:-len('_output')]
        kind = kinds[inner]
        if inner == name:
            inner = rename(graph, name, name + '_inner')
        graph.node.append(onnx.helper.make_node('Identity', [inner], [name]))
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, ['batch', *shape[1:]]))
    opsets = [onnx.helper.make_opsetid('', OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets,
                                   ir_version=onnx.helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def rename(graph, old, new):
    """Rename a value of an ONNX graph; returns the new name."""
    for node in graph.node:
        for names in node.input, node.output:
            names[:] = [new if name == old else name for name in names]
    return new


def run_onnx(model, batches):
    """What ONNX Runtime makes of batches of images: embedding, label, distance."""
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    return joined(session.run(OUTPUTS, {'data': images}) for images in batches)


def run_mxnet(symbol, params, batches):
    """What MXNet makes of them."""
    return joined([output.asnumpy() for output in symbol.bind(
        mx.cpu(), {**params, 'data': mx.nd.array(images)}, grad_req='null').forward()]
        for images in batches)


def joined(parts):
    """Outputs batch by batch as one array for each output."""
    return [np.concatenate(part) for part in zip(*parts)]


def compare(outputs, expected):
    """The largest differences by output, relative to the largest value."""
    differences = {name: float(abs(output - wanted).max() / max(1, abs(wanted).max()))
                   for name, output, wanted in zip(OUTPUTS, outputs, expected)}
    for name, difference in differences.items():
        if not difference < TOLERANCE:
            raise ExportError('%s differs by %.1e between ONNX Runtime and MXNet, more than %.0e'
                              % (name, difference, TOLERANCE))
    return differences


if __name__ == '__main__':
    run.script(lambda: export(parse()))
