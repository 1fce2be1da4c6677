"""Center losses in a symbol graph: which nodes they are, and graphs that are changed as JSON."""
import collections
import json
import re

import mxnet as mx

__all__ = ['OP_TYPE', 'center_losses', 'content_of', 'symbol_of', 'without_keys']

OP_TYPE = 'centerloss'

# A center loss node: its name, the name of its centers, its arguments as text.
Node = collections.namedtuple('Node', 'name centers attributes')


def center_losses(symbol):
    """The nodes of center loss in a graph: a list of Node."""
    if not symbol.list_auxiliary_states():  # spares a large graph its JSON
        return []
    nodes = content_of(symbol)['nodes']
    found = []
    for node in nodes:
        attributes = dict(node.get('attrs', {}))
        if node['op'] == 'Custom' and attributes.pop('op_type') == OP_TYPE:
            centers = nodes[node['inputs'][-1][0]]['name']
            found.append(Node(node['name'], centers, attributes))
    return found


def without_keys(symbol, centers=None):
    """A graph whose center losses have no `key`, as if no CenterTrainer moved the centers.

    Parameters
    ----------
    symbol : Symbol
    centers : set of str, optional
        Only the losses with these centers.

    Returns
    -------
    Symbol
        `symbol` itself if there is no key.
    """
    keyed = {loss.name for loss in center_losses(symbol)
             if loss.attributes.get('key') and (centers is None or loss.centers in centers)}
    if not keyed:
        return symbol
    graph = content_of(symbol)
    for node in graph['nodes']:
        if node['op'] == 'Custom' and node['name'] in keyed:
            del node['attrs']['key']
    return symbol_of(graph)


def content_of(symbol):
    """The graph of a symbol, as its JSON says it: a dict."""
    # MXNet does not escape control characters.
    return json.loads(symbol.tojson(remove_amp_cast=False), strict=False)


def symbol_of(graph):
    """The symbol of a graph, the content of its JSON.

    MXNet reads few escapes: n, r, t, quote and backslash.
    """
    def plain(escape):
        return escape[0] if escape[1] in 'nrt"\\' else json.loads(f'"{escape[0]}"')
    return mx.sym.load_json(re.sub(r'\\(u....|.)', plain, json.dumps(graph, ensure_ascii=False)))
