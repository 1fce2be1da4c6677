"""tutorial.ipynb: as it is saved, and run from beginning to end as a reader would."""
import re
from pathlib import Path

import pytest

nbclient = pytest.importorskip('nbclient')
nbformat = pytest.importorskip('nbformat')
pytest.importorskip('ipykernel')

TUTORIAL = Path(__file__).resolve().parents[2] / 'examples' / 'tutorial.ipynb'


def check(notebook):
    """The pictures, the progress and the figures that the text speaks of."""
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    assert not [output for output in outputs if output.output_type == 'error']
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 4
    text = {name: ''.join(output.text for output in outputs if output.output_type == 'stream'
                          and output.name == name) for name in ('stdout', 'stderr')}
    for title in 'softmax alone', r'softmax \+ center loss':
        assert re.search(title + r': 100%.*30/30', text['stderr'])
    accuracies = re.findall(r'scores ([\d.]+), by nearest center ([\d.]+)', text['stdout'])
    (alone, _), (joint, by_center) = [[float(number) for number in row] for row in accuracies]
    assert joint > alone - 0.015 and by_center > 0.96
    rejected = re.findall(r'([\d.]+)% of the unknown rejected, AUC ([\d.]+)', text['stdout'])
    (rejected_alone, auc_alone), (rejected_joint, auc_joint) = [
        [float(number) for number in row] for row in rejected]
    assert rejected_joint > rejected_alone and auc_joint > auc_alone


def test_it_is_saved_with_its_outputs():
    notebook = nbformat.read(str(TUTORIAL), as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    check(notebook)


@pytest.mark.slow
def test_it_runs_from_any_folder(tmp_path):
    notebook = nbformat.read(str(TUTORIAL), as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, kernel_name='python3',
                            resources={'metadata': {'path': str(tmp_path)}}).execute()
    check(notebook)
    assert not list(tmp_path.iterdir())
