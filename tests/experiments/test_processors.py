"""The examples use every processor they are given, unless the user says how many."""
import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / 'experiments'
PRINT = '''
import os, sys
sys.path.insert(0, sys.argv[1])
import processors
print(os.environ['OMP_NUM_THREADS'])
'''
PRESENT = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


@pytest.mark.parametrize('env, expected', [
    ({}, PRESENT),
    ({'OMP_NUM_THREADS': '7'}, 7),
    ({'DMLC_PS_ROOT_URI': '127.0.0.1', 'DMLC_NUM_WORKER': '2'}, max(1, PRESENT // 2)),
    ({'DMLC_PS_ROOT_URI': '127.0.0.1', 'DMLC_NUM_WORKER': '999'}, 1),
    ({'DMLC_PS_ROOT_URI': '10.0.0.1', 'DMLC_NUM_WORKER': '2'}, PRESENT),
], ids=['all', 'told', 'two workers', 'more workers than processors', 'workers elsewhere'])
def test_processors(env, expected, child, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    done = child(PRINT, EXAMPLES, **env)
    assert done.stdout.strip() == str(expected), done.stderr
