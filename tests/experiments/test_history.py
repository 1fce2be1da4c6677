"""The history of a training: what a checkpoint of it must have."""
import json

import pytest
from history import COLUMNS, History, value_of

MISSING = object()
ROW = dict.fromkeys(COLUMNS, 1.)


def state():
    """What a training run keeps of its history, read from a file."""
    return json.loads(json.dumps({'rows': [ROW], 'batch': 3, 'seconds': 0.5,
                                  'totals': [[0.25, 5]] * 3}))


def test_a_state_that_a_run_saves_can_be_used():
    History.check(state())


@pytest.mark.parametrize('keys, value, complaint', [
    (('batch',), MISSING, 'there is no "batch"'), (('batch',), 1.5, 'there is no "batch"'),
    (('batch',), True, 'there is no "batch"'), (('batch',), -1, 'the next batch is number -1'),
    (('seconds',), MISSING, 'there is no "seconds"'), (('seconds',), 'x', 'there is no "seconds"'),
    (('rows',), MISSING, 'there is no "rows"'), (('rows',), {}, 'there is no "rows"'),
    (('rows',), [ROW, None], 'there is no "epoch"'),
    (('rows', 0, 'loss'), MISSING, 'there is no "loss"'),
    (('rows', 0, 'loss'), None, 'there is no "loss"'),
    (('rows', 0, 'other'), 1, 'there are epochs with more than the columns'),
    (('totals',), MISSING, 'there is no "totals"'),
    (('totals',), [[1., 2]] * 2, '"totals" must be three pairs of a sum and a count'),
    (('totals',), [[1., 2], [1., 2], 3], '"totals" must be three pairs'),
    (('totals',), [[1., 2], [1., 2], [3]], '"totals" must be three pairs'),
    (('totals',), [[1., 2], [1., 2], [3, 'x']], '"totals" must be three pairs'),
])
def test_a_damaged_state_is_named(keys, value, complaint):
    content = state()
    *inner, last = keys
    part = content
    for key in inner:
        part = part[key]
    if value is MISSING:
        del part[last]
    else:
        part[last] = value
    with pytest.raises(ValueError) as error:
        History.check(content)
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize('holder', [[], None, {}, {'options': []}, {'options': None}])
def test_a_value_of_another_type_is_as_good_as_none(holder):
    with pytest.raises(ValueError, match='there is no "options", or one of another type'):
        value_of(holder, 'options', dict)
