"""`make demo`: short here, in full with `-m soak`."""
import json

import pytest

import demo
import options
from pictures import png_size


def rows(text):
    """{metric: (softmax alone, with center loss)} of the table that the demo prints last."""
    table = text[text.rindex('softmax alone  softmax + center loss'):].split('\n\n')[0]
    lines = [line.split() for line in table.splitlines()[1:]]
    return {name: (float(alone), float(joint)) for name, alone, joint in lines}


def test_the_demo_trains_twice_and_shows_both(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(options.RECIPES['digits'], 'epochs', 2)
    demo.main(['--output-dir', str(tmp_path)])
    printed = capsys.readouterr().out
    for column, loss in enumerate(('softmax', 'joint')):
        metrics = json.loads((tmp_path / loss / 'metrics.json').read_text())
        for name, values in rows(printed).items():
            assert values[column] == pytest.approx(metrics[name], rel=1e-3)
    width, height = png_size(tmp_path / 'distributions.png')
    assert width > 1.8 * height
    assert printed.endswith('%s\n' % (tmp_path / 'distributions.png'))


@pytest.mark.soak
def test_center_loss_halves_compactness_and_keeps_the_accuracy(tmp_path, capsys):
    demo.main(['--output-dir', str(tmp_path)])
    table = rows(capsys.readouterr().out)
    alone, joint = table['compactness']
    assert joint <= alone / 2
    alone, joint = table['accuracy']
    assert joint > alone - 0.0074    # the standard error of 98 % of 360 digits
