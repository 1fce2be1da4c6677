"""Symbols and checkpoints of the ported implementation, GitHub pangyupo/mxnet_center_loss.

Its operator had three auxiliary states: `<name>_diff_bias` and `<name>_sum_bias`, which were
working memory, and `<name>_center_bias`, the centers. Its graphs hold all three as inputs of
the node, in that order; MXNet cannot know which of them the operator of this package has left.
"""
import json
from typing import Dict, Tuple

import mxnet as mx

from ._mxnet.graph import OP_TYPE
from ._mxnet.parameter_file import check_arrays

__all__ = ['load_checkpoint', 'load_symbol']

NDArrays = Dict[str, mx.nd.NDArray]

_PORTED_INPUTS = ('data', 'label', 'diff_bias', 'center_bias', 'sum_bias')
# What holds a node's attributes has had three names, from release to release of MXNet.
_ATTRIBUTES = ('param', 'attr', 'attrs')


def _list_of(kind, value):
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_graph(graph):
    """Whether everything that is read or changed here is as MXNet writes it."""
    return (isinstance(graph, dict) and _list_of(int, graph.get('arg_nodes'))
            and _list_of(dict, graph.get('nodes'))
            and all(_list_of(list, node.get('inputs'))
                    and all(entry and _list_of(int, entry) for entry in node['inputs'])
                    and all(isinstance(node.get(key, {}), dict) for key in _ATTRIBUTES)
                    for node in graph['nodes']))


def _is_ported(node):
    return (any(node.get(key, {}).get('op_type') == OP_TYPE for key in _ATTRIBUTES)
            and len(node['inputs']) == len(_PORTED_INPUTS))


def load_symbol(fname: str) -> mx.sym.Symbol:
    """Load a symbol of the ported implementation; any other, as `mx.sym.load` does.

    Parameters
    ----------
    fname : str
        The JSON file, for example ``'<prefix>-symbol.json'``.

    Returns
    -------
    Symbol
        Its center loss nodes have the centers as their one auxiliary state.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or holds no symbol that MXNet can build.
    """
    with open(fname, encoding='utf-8') as file:
        try:
            graph = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError('%s is not JSON that can be read: %s' % (fname, error)) from None
    if not _is_graph(graph):
        raise ValueError('%s is JSON, but no symbol: its nodes, their inputs and attributes, or '
                         'its arg_nodes are missing or of another type' % fname)
    dropped = set()
    for node in graph['nodes']:
        if _is_ported(node):
            inputs = dict(zip(_PORTED_INPUTS, node['inputs']))
            dropped |= {inputs.pop(role)[0] for role in ('diff_bias', 'sum_bias')}
            node['inputs'] = list(inputs.values())
    # A variable that no node reads is no part of the symbol that MXNet builds.
    graph['arg_nodes'] = [index for index in graph['arg_nodes'] if index not in dropped]
    try:
        return mx.sym.load_json(json.dumps(graph))
    except (mx.MXNetError, RecursionError) as error:
        lines = [line.strip() for line in str(error).splitlines()
                 if not line.startswith(('Traceback', '  File'))]  # of MXNet's own code
        raise ValueError('%s is no symbol that MXNet can build: %s'
                         % (fname, ' '.join(lines))) from None


def load_checkpoint(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Load a checkpoint of the ported implementation, or any other.

    Takes and returns what `mx.model.load_checkpoint` does, so what comes back fits
    Module and FeedForward, to go on training or to save:

    >>> symbol, arg_params, aux_params = legacy.load_checkpoint('center_loss', 20)
    >>> module = mx.mod.Module(symbol)
    >>> module.fit(train, arg_params=arg_params, aux_params=aux_params, begin_epoch=20,
    ...            num_epoch=22, eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    >>> model = mx.model.FeedForward(symbol, arg_params=arg_params, aux_params=aux_params,
    ...                              begin_epoch=20, num_epoch=22)
    >>> mx.model.save_checkpoint('new_prefix', 20, symbol, arg_params, aux_params)

    Parameters
    ----------
    prefix : str
        Prefix of the files ``<prefix>-symbol.json`` and ``<prefix>-<epoch>.params``.
    epoch : int

    Returns
    -------
    symbol : Symbol
    arg_params, aux_params : dict of str to NDArray
        The centers keep their name; auxiliary states that the symbol no longer has (the
        working memory of the ported operator) are left out.

    Raises
    ------
    OSError, ValueError
        A file cannot be read, is not what its name says, or lacks an auxiliary state. Arrays
        must be dense.
    MXNetError
        The arrays were saved with NumPy's shapes, outside of which MXNet does not load them.
    """
    symbol = load_symbol('%s-symbol.json' % prefix)
    path = '%s-%04d.params' % (prefix, epoch)
    for name in check_arrays(path):
        if not name.startswith(('arg:', 'aux:')):
            raise ValueError('%s is no checkpoint: the name of its array %r begins with neither '
                             'arg: nor aux:' % (path, name))
    arg_params, aux_params = mx.model.load_params(prefix, epoch)
    states = symbol.list_auxiliary_states()
    missing = [name for name in states if name not in aux_params]
    if missing:
        raise ValueError('%s lacks %s, which the symbol has as auxiliary states'
                         % (path, ', '.join(missing)))
    return symbol, arg_params, {name: aux_params[name] for name in states}
