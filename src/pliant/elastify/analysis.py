"""What the calibration text says about a model: which units, layers and columns matter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pliant.elastify.activations import ActivationMeter, ImportanceMatrix
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import Calibration, mean_loss
from pliant.elastify.cluster import connect
from pliant.elastify.importance import IMPORTANCES, energy_scores, order_by
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitOrder, UnitScores
from pliant.elastify.windows import spread
from pliant.elastify.work import Arrays, WorkFolder
from pliant.progress import Track

# Leaving out a layer shows in a few windows, and costs a pass over the model per layer.
ANCHOR_TOKENS = 512
# Gradients cost three times as much as the rest; orders by more windows were no better.
IMPORTANCE_TOKENS = 2048


@dataclass(frozen=True)
class Analysis:
    """`importance` is the importance matrix of the model as it came, before reordering."""

    full_loss: float
    losses_without_layer: tuple[float, ...]
    importance: ImportanceMatrix
    scores: UnitScores

    @property
    def order(self) -> UnitOrder:
        """Of the units in the reordered model."""
        return order_by(self.scores)

    @property
    def order_sha256(self) -> str:
        """What everything that is made of the reordered model depends on."""
        order = self.order
        parts = (order.heads, order.queries, order.neurons)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def anchors(self, count: int | None) -> tuple[int, ...]:
        """The `count` anchor layers (None: about a fifth of all)."""
        losses = self.losses_without_layer
        return choose_anchors(losses, default_anchor_count(len(losses)) if count is None else count)

    def provenance(self, anchors: Sequence[int]) -> dict[str, Any]:
        """What the bundle remembers of it."""
        return {
            "full_loss": self.full_loss,
            "anchors": list(anchors),
            "losses_without_layer": list(self.losses_without_layer),
        }


def analyse(
    model: Any,
    config: SourceConfig,
    text: Calibration,
    estimate: str,
    work: WorkFolder,
    track: Track,
    ray: str | None = None,
) -> Analysis:
    """Passes over the text; each is a step that an ended run need not repeat.

    `estimate` is a key of IMPORTANCES. One that takes gradients is shared by the Ray cluster at
    `ray`, if there is one; the activations that "activation" takes are measured in any case.
    """

    def measure() -> Arrays:
        meter = ActivationMeter()
        with meter.attached(model):
            loss = mean_loss(model, text.batches, track, "activations")
        names = {f"{layer} {name}": values for (layer, name), values in meter.means().items()}
        return {"loss": np.asarray(loss), **names}

    def leave_out() -> Arrays:
        some = spread(text.batches, ANCHOR_TOKENS)
        return {"losses": np.asarray(losses_without_layers(model, some, track))}

    def weigh() -> Arrays:
        score, some = IMPORTANCES[estimate], spread(text.batches, IMPORTANCE_TOKENS)
        if ray is None:
            return vars(score(model, config, some, track))
        with connect(ray) as cluster:
            return vars(cluster.scores(model, config, some, score, track))

    measured = dict(work.arrays("activations", {}, measure))
    full_loss = float(measured.pop("loss"))
    importance = {_layer_and_name(key): values for key, values in measured.items()}
    losses = work.arrays("anchors", {}, leave_out)["losses"]
    if estimate == "activation":
        scores = energy_scores(model, config, importance)
    else:
        scores = UnitScores(**work.arrays("importance", {"estimate": estimate}, weigh))
    return Analysis(full_loss, tuple(losses.tolist()), importance, scores)


def _layer_and_name(key: str) -> tuple[int, str]:
    layer, name = key.split(" ")
    return int(layer), name
