"""Symbols and checkpoints of the ported implementation, GitHub pangyupo/mxnet_center_loss.

Its operator had three auxiliary states: `<name>_diff_bias` and `<name>_sum_bias`, which were
working memory, and `<name>_center_bias`, the centers. Its graphs hold all three as inputs of
the node, in that order; MXNet cannot know which of them the operator of this package has left.
"""
import json
from typing import Dict, Tuple

import mxnet as mx

from .operator import OP_TYPE

__all__ = ['load_checkpoint', 'load_symbol']

NDArrays = Dict[str, mx.nd.NDArray]

_PORTED_INPUTS = ('data', 'label', 'diff_bias', 'center_bias', 'sum_bias')


def _is_ported(node):
    # What holds a node's attributes has had three names, from release to release of MXNet.
    return (any(node.get(key, {}).get('op_type') == OP_TYPE for key in ('param', 'attr', 'attrs'))
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
        The file cannot be read, or is not JSON.
    """
    with open(fname, encoding='utf-8') as file:
        graph = json.load(file)
    dropped = set()
    for node in graph['nodes']:
        if _is_ported(node):
            inputs = dict(zip(_PORTED_INPUTS, node['inputs']))
            dropped |= {inputs.pop(role)[0] for role in ('diff_bias', 'sum_bias')}
            node['inputs'] = list(inputs.values())
    # A variable that no node reads is no part of the symbol that MXNet builds.
    graph['arg_nodes'] = [index for index in graph['arg_nodes'] if index not in dropped]
    return mx.sym.load_json(json.dumps(graph))


def load_checkpoint(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Load a checkpoint of the ported implementation, or any other.

    Takes and returns what `mx.model.load_checkpoint` does, so what comes back fits
    Module and FeedForward, to go on training or to save:

    >>> symbol, arg_params, aux_params = legacy.load_checkpoint('center_loss', 20)
    >>> module = mx.mod.Module(symbol)
    >>> module.fit(train, arg_params=arg_params, aux_params=aux_params, begin_epoch=20, ...)
    >>> model = mx.model.FeedForward(symbol, arg_params=arg_params, aux_params=aux_params,
    ...                              begin_epoch=20, ...)
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
    OSError, ValueError, MXNetError
        A file cannot be read, or is not what its name says.
    """
    symbol = load_symbol('%s-symbol.json' % prefix)
    arg_params, aux_params = mx.model.load_params(prefix, epoch)
    states = symbol.list_auxiliary_states()
    return symbol, arg_params, {name: aux_params[name] for name in states if name in aux_params}
