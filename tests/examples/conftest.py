"""How the tests run an example: as a user does, from another folder."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
MISSING = [name for name in ('sklearn', 'matplotlib', 'tqdm', 'PIL')
           if importlib.util.find_spec(name) is None]


def pytest_pycollect_makemodule(module_path, parent):
    """Without what examples import, a file of their tests is one skip."""
    return Skipped.from_parent(parent, path=module_path) if MISSING else None


class Skipped(pytest.Module):
    def collect(self):
        pytest.skip(f'not installed: {", ".join(MISSING)}', allow_module_level=True)


@pytest.fixture
def example(tmp_path):
    """Run a script with arguments, behind the command `launch`: its CompletedProcess."""
    def run(script, *arguments, status=0, launch=()):
        command = [*launch, sys.executable, EXAMPLES / script, *arguments]
        done = subprocess.run([str(part) for part in command], cwd=str(tmp_path), timeout=900,
                              check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done
    return run
