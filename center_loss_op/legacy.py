"""Symbols and checkpoints of the ported implementation, GitHub pangyupo/mxnet_center_loss.

Its operator has three auxiliary states: `<name>_diff_bias` and `<name>_sum_bias`, which are
working memory, and `<name>_center_bias`, the centers. Its graphs list all three as inputs of the
node. MXNet cannot know that the operator of this package has
only the centers.
"""
from typing import Dict, Tuple

import mxnet as mx

from ._mxnet.graph import OP_TYPE
from ._mxnet.parameter_file import check_arrays
from ._mxnet.symbol_file import attributes_of, check_graph, read_graph, written

__all__ = ['load_checkpoint', 'load_symbol']

NDArrays = Dict[str, mx.nd.NDArray]

_PORTED_INPUTS = ('data', 'label', 'diff_bias', 'center_bias', 'sum_bias')


def _is_ported(node):
    return (attributes_of(node).get('op_type') == OP_TYPE
            and len(node['inputs']) == len(_PORTED_INPUTS))


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
    OSError, ValueError
        The file cannot be read, or MXNet can build no symbol from it.
    """
    graph = read_graph(fname)
    dropped = set()
    for node in graph['nodes']:
        if _is_ported(node):
            inputs = dict(zip(_PORTED_INPUTS, node['inputs']))
            dropped |= {inputs.pop(role)[0] for role in ('diff_bias', 'sum_bias')}
            node['inputs'] = list(inputs.values())
    # MXNet's symbol has no variable that no node reads.
    graph['arg_nodes'] = [index for index in graph['arg_nodes'] if index not in dropped]
    check_graph(fname, graph)
    try:
        return mx.sym.load_json(written(graph))
    except (mx.MXNetError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(
            f'{fname} is no symbol that MXNet can build: {_in_one_line(error)}') from None


def _in_one_line(error):
    """The text of an MXNetError, without the lines that name places in MXNet's own code."""
    return ' '.join(line.strip() for line in str(error).splitlines()
                    if not line.startswith(('Traceback', '  File')))


def load_checkpoint(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Load a checkpoint of the ported implementation, or any other.

    Takes and returns what `mx.model.load_checkpoint` does. You can pass the result to Module or
    FeedForward, go on training, and save it:

    >>> from center_loss_op import legacy
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
        The centers keep their name. The working memory of the ported operator is left out.

    Raises
    ------
    OSError, ValueError
        A file cannot be read, is damaged, lacks an auxiliary state, or has arrays that are not
        dense. Or the arrays were saved after `npx.set_np()`: MXNet loads them only after
        `npx.set_np()`.
    """
    symbol = load_symbol('%s-symbol.json' % prefix)
    path = '%s-%04d.params' % (prefix, epoch)
    for name in check_arrays(path):
        if not name.startswith(('arg:', 'aux:')):
            raise ValueError('%s is no checkpoint: the name of its array %r begins with neither '
                             'arg: nor aux:' % (path, name))
    try:
        arg_params, aux_params = mx.model.load_params(prefix, epoch)
    except mx.MXNetError as error:
        raise ValueError(f'{path} cannot be loaded by MXNet: {_in_one_line(error)}') from None
    states = symbol.list_auxiliary_states()
    missing = [name for name in states if name not in aux_params]
    if missing:
        raise ValueError('%s lacks %s, which the symbol has as auxiliary states'
                         % (path, ', '.join(missing)))
    return symbol, arg_params, {name: aux_params[name] for name in states}
