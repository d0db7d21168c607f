"""What a stored chunk of KV is a function of, as a key of 32 bytes.

Equal keys mean equal KV, up to the rounding of different kernels: a chunk's key covers the model,
every level that computed a token of it or before it (plan and adapter), how keys are rotated and
kept, all tokens up to its end, and whose contexts may share it. So a chunk can never be used where
it does not belong. How many bits it was compressed to is not part of the key: that is how well it
is known, not what it is.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from pliant.bundle import Bundle, Plan
from pliant.errors import UnknownLevelError

if TYPE_CHECKING:
    from pliant.engine.engine import Engine

# Tokens of a chunk: below 64, calls per chunk outweigh the decoding itself.
CHUNK_TOKENS = 64

KEY_BYTES = 32
_FORMAT = "pliant kv chunk 1"

ChunkKey = bytes


@dataclass(frozen=True)
class LevelIdentity:
    """What a level called `ratio` computes KV with."""

    ratio: float
    plan: Plan
    adapter_sha256: str | None


@dataclass(frozen=True)
class KeySpace:
    """Everything but the tokens that stored KV depends on.

    `levels` are those of the bundle; `rope_factors` is the set of long-context factors in use, if
    the model has several; only contexts of the same `scope` (an app, say) share chunks.
    """

    model_sha256: str
    levels: tuple[LevelIdentity, ...]
    kv_type: str
    rope_factors: str | None = None
    scope: str = ""

    @staticmethod
    def of(engine: "Engine", scope: str = "") -> "KeySpace":
        """The space of an engine as it is set up."""
        bundle = engine.bundle
        return KeySpace(
            bundle.sha256,
            tuple(
                LevelIdentity(level.ratio, level.plan, _adapter_sha256(bundle, level.adapter))
                for level in bundle.levels
            ),
            engine.options.kv_type,
            bundle.architecture.rope_factors(engine.context_length),
            scope,
        )

    @cached_property
    def root(self) -> bytes:
        """The hash that every chain begins with."""
        return _digest(
            _FORMAT,
            CHUNK_TOKENS,
            self.model_sha256,
            self.kv_type,
            self.rope_factors,
            self.scope,
        )

    @cached_property
    def _level_digests(self) -> dict[float, bytes]:
        return {
            level.ratio: _digest(level.plan.to_json(), level.adapter_sha256)
            for level in self.levels
        }

    def level_digest(self, ratio: float) -> bytes:
        """Hash of plan and adapter; raises UnknownLevelError for a level the space has not."""
        digest = self._level_digests.get(ratio)
        if digest is None:
            known = ", ".join(f"{level.ratio:g}" for level in self.levels)
            raise UnknownLevelError(f"tokens of level {ratio:g} in a model with levels {known}")
        return digest


def chunk_keys(space: KeySpace, tokens: Sequence[int], levels: Sequence[float]) -> list[ChunkKey]:
    """One key per whole chunk of CHUNK_TOKENS tokens; `levels[i]` is what token i ran at.

    Key i depends on all tokens before the end of chunk i and on their levels. Raises
    UnknownLevelError, ValueError if the lengths differ.
    """
    if len(tokens) != len(levels):
        raise ValueError(f"{len(tokens)} tokens with {len(levels)} levels")
    key, keys = space.root, []
    ends = range(0, len(tokens) + 1, CHUNK_TOKENS)
    for start, end in pairwise(ends):
        digest = hashlib.sha256(key)
        digest.update(struct.pack(f"<{CHUNK_TOKENS}I", *tokens[start:end]))
        for ratio, run in groupby(levels[start:end]):
            digest.update(struct.pack("<I", len(list(run))) + space.level_digest(ratio))
        key = digest.digest()
        keys.append(key)
    return keys


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()


def _adapter_sha256(bundle: Bundle, name: str | None) -> str | None:
    if name is None or bundle.manifest is None:
        return None
    return bundle.manifest.files[name].sha256
