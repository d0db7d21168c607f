from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Logits = Callable[[Path, list[int]], Any]


@pytest.fixture(scope="session", autouse=True)
def quiet_and_single_threaded() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def tokens() -> Any:
    """A prompt of 40 tokens for the tiny models: int64 [40]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(6, 300, (40,), generator=generator)


@pytest.fixture
def calibration_file(tmp_path: Path) -> Path:
    from support.tiny_gguf import CORPUS

    path = tmp_path / "calibration.txt"
    path.write_text("".join(CORPUS) * 10, encoding="utf-8")
    return path
