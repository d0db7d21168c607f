"""What `elastify` is given, read and checked first: the work after it may take hours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.bundle.manifest import MANIFEST_FILE, TLM_FILE, Manifest
from pliant.bundle.write import refuse_foreign
from pliant.elastify.calibration import Calibration, read_calibration
from pliant.elastify.checkpoint import StoredTensor
from pliant.elastify.recovery.data import RecoveryData, read_recovery_data
from pliant.elastify.recovery.options import Recovery
from pliant.elastify.source import SourceConfig, load_tokenizer, read_config, read_weights
from pliant.elastify.vocabulary import Vocabulary, read_vocabulary

WINDOWS = 32
WINDOW_TOKENS = 256


@dataclass(frozen=True)
class Source:
    """A model folder that has passed every check that takes no time."""

    folder: Path
    config: SourceConfig
    vocabulary: Vocabulary
    tokenizer: Any
    tensors: dict[str, StoredTensor]

    def calibration(self, path: Path, windows: int, window_tokens: int) -> Calibration:
        """The text at `path` in this model's tokens; raises as `read_calibration`."""
        window_tokens = min(window_tokens, self.config.context_length)
        return read_calibration(path, self.tokenizer, windows, window_tokens)

    def recovery_data(self, recovery: Recovery) -> RecoveryData:
        """What adapters learn from, in this model's tokens; raises as `read_recovery_data`."""
        options = recovery.options
        limit = min(options.max_tokens, self.config.context_length)
        return read_recovery_data(recovery.data, self.tokenizer, limit, options.prompt_weight)


def check_source(folder: Path, out: Path) -> Source:
    """Reads no weights.

    Raises ElastifyError for a model that cannot be carried over, or BundleError if `out` holds
    anything but a bundle.
    """
    refuse_foreign(out)
    config = read_config(folder)
    vocabulary = read_vocabulary(folder, config.vocab_size)
    return Source(folder, config, vocabulary, load_tokenizer(folder), read_weights(folder))


def replacement_notes(out: Path) -> tuple[str, ...]:
    """What the user has to know of the bundle that `out` replaces, if there is one."""
    if not (out / MANIFEST_FILE).is_file() or TLM_FILE not in Manifest.read(out).files:
        return ()
    return (
        f"the TLM in {out} was made for the older bundle's levels and goes with them: run "
        "`pliant tlm labels` and `pliant tlm train` again",
    )
