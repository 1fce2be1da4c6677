"""The notebook, run from beginning to end as a reader would."""
import os
import time

import pytest

nbclient = pytest.importorskip('nbclient')
nbformat = pytest.importorskip('nbformat')
pytest.importorskip('ipykernel')

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, os.pardir, 'experiments')
TUTORIAL = os.path.join(EXAMPLES, 'tutorial.ipynb')


def test_the_tutorial_tells_its_story():
    notebook = nbformat.read(TUTORIAL, as_version=4)
    started = time.perf_counter()
    nbclient.NotebookClient(notebook, timeout=110, kernel_name='python3',
                            resources={'metadata': {'path': EXAMPLES}}).execute()
    assert time.perf_counter() - started < 120
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    pictures = [output for output in outputs if 'image/png' in output.get('data', {})]
    assert len(pictures) == 4
    text = ''.join(output.text for output in outputs if output.output_type == 'stream'
                   and output.name == 'stdout')
    columns = {line.split()[0]: [float(number) for number in line.split()[1:]]
               for line in text.splitlines() if line.startswith(('compactness', 'nearest_center'))}
    softmax, joint = columns['compactness']
    assert joint < 0.75 * softmax
    softmax, joint = columns['nearest_center_accuracy']
    assert joint > max(softmax, 0.9)


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
