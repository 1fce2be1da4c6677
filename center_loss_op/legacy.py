"""Symbols and checkpoints of the ported implementation, GitHub pangyupo/mxnet_center_loss.

Its operator has three auxiliary states: `<name>_center_bias`, the centers, and `<name>_diff_bias`
and `<name>_sum_bias`, which are working memory. Its graphs list all three as inputs of the node,
but the operator of this package has only the centers.
"""
import json
from typing import Dict, Tuple

import mxnet as mx

from ._mxnet.graph import OP_TYPE, symbol_of

__all__ = ['load_checkpoint', 'load_symbol']

NDArrays = Dict[str, mx.nd.NDArray]

_PORTED_INPUTS = ('data', 'label', 'diff_bias', 'center_bias', 'sum_bias')
# The key of a node's attributes, in different releases of MXNet.
_ATTRIBUTES = ('param', 'attr', 'attrs')


def load_symbol(fname: str) -> mx.sym.Symbol:
    """Load a symbol of the ported implementation, or any other that `mx.sym.load` takes.

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
    OSError
        The file cannot be read.
    MXNetError
        MXNet can build no symbol from it.
    """
    with open(fname, encoding='utf-8') as file:
        try:
            graph = json.load(file, strict=False)   # MXNet does not escape control characters
            ported = [node for node in graph['nodes'] if _is_ported(node)]
        except (AttributeError, KeyError, TypeError, ValueError):   # the file holds no graph
            ported = []
    if not ported:
        return mx.sym.load(fname)
    dropped = set()
    for node in ported:
        inputs = dict(zip(_PORTED_INPUTS, node['inputs']))
        dropped |= {inputs.pop(role)[0] for role in ('diff_bias', 'sum_bias')}
        node['inputs'] = list(inputs.values())
    # MXNet's symbol has no variable that no node reads.
    graph['arg_nodes'] = [index for index in graph['arg_nodes'] if index not in dropped]
    return symbol_of(graph)


def _is_ported(node):
    return (any(node.get(key, {}).get('op_type') == OP_TYPE for key in _ATTRIBUTES)
            and len(node['inputs']) == len(_PORTED_INPUTS))


def load_checkpoint(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Load a checkpoint of the ported implementation, or any other.

    Takes and returns what `mx.model.load_checkpoint` does. You can pass the result to Module or
    FeedForward, go on training, and save it.

    Parameters
    ----------
    prefix : str
        Prefix of the files ``<prefix>-symbol.json`` and ``<prefix>-<epoch>.params``.
    epoch : int

    Returns
    -------
    symbol : Symbol
    arg_params, aux_params : dict of str to NDArray
        The centers keep their name. The working memory of the ported operator is left out.

    Raises
    ------
    OSError, MXNetError
        A file cannot be read, or MXNet cannot load it.

    Examples
    --------
    >>> symbol, arg_params, aux_params = legacy.load_checkpoint('center_loss', 20)
    >>> module = mx.mod.Module(symbol)
    >>> module.fit(train, arg_params=arg_params, aux_params=aux_params, begin_epoch=20,
    ...            num_epoch=22, eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    """
    symbol = load_symbol(f'{prefix}-symbol.json')
    arg_params, aux_params = mx.model.load_params(prefix, epoch)
    states = symbol.list_auxiliary_states()
    return symbol, arg_params, {name: aux_params[name] for name in states if name in aux_params}
