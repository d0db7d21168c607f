"""The run time needs none of what training needs."""

import subprocess
import sys

HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "gguf"}


def test_the_run_time_imports_no_torch() -> None:
    program = "import sys, pliant.tlm.model, pliant.tlm.install; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
