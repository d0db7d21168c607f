"""What the calibration text says about a model: which units, layers and columns matter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pliant.elastify.activations import ActivationMeter, ImportanceMatrix
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import Calibration, mean_loss
from pliant.elastify.cluster import connect
from pliant.elastify.importance import order_by, taylor_scores
from pliant.elastify.progress import Track
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitOrder, UnitScores
from pliant.elastify.work import Arrays, WorkFolder

# Leaving out a layer shows in a few windows, and costs a pass over the model per layer.
ANCHOR_TOKENS = 1024


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
        return hashlib.sha256(order.heads.tobytes() + order.neurons.tobytes()).hexdigest()

    def anchors(self, count: int | None) -> tuple[int, ...]:
        """The `count` anchor layers (None: about a fifth of all)."""
        losses = self.losses_without_layer
        return choose_anchors(losses, default_anchor_count(len(losses)) if count is None else count)

    def provenance(self, anchors: Sequence[int]) -> dict[str, Any]:
        """What the bundle remembers of it."""
        return {
            "importance": "first-order Taylor: sum of |gradient x weight| per unit and window",
            "full_loss": self.full_loss,
            "anchors": list(anchors),
            "losses_without_layer": list(self.losses_without_layer),
        }


def analyse(
    model: Any,
    config: SourceConfig,
    text: Calibration,
    work: WorkFolder,
    track: Track,
    ray: str | None = None,
) -> Analysis:
    """Three passes over the text; each is a step that an ended run need not repeat.

    The longest is shared by the Ray cluster at `ray`, if there is one.
    """

    def measure() -> Arrays:
        meter = ActivationMeter()
        with meter.attached(model):
            loss = mean_loss(model, text.batches, track, "activations")
        names = {f"{layer} {name}": values for (layer, name), values in meter.means().items()}
        return {"loss": np.asarray(loss), **names}

    def leave_out() -> Arrays:
        return {"losses": np.asarray(losses_without_layers(model, _some(text), track))}

    def weigh() -> Arrays:
        if ray is None:
            scores = taylor_scores(model, config, text.batches, track)
        else:
            with connect(ray) as cluster:
                scores = cluster.scores(model, config, text.batches, track)
        return {"heads": scores.heads, "neurons": scores.neurons}

    measured = dict(work.arrays("activations", {}, measure))
    losses = work.arrays("anchors", {}, leave_out)["losses"]
    scores = work.arrays("importance", {}, weigh)
    return Analysis(
        full_loss=float(measured.pop("loss")),
        losses_without_layer=tuple(losses.tolist()),
        importance={_layer_and_name(key): values for key, values in measured.items()},
        scores=UnitScores(heads=scores["heads"], neurons=scores["neurons"]),
    )


def _layer_and_name(key: str) -> tuple[int, str]:
    layer, name = key.split(" ")
    return int(layer), name


def _some(text: Calibration) -> tuple[torch.Tensor, ...]:
    """ANCHOR_TOKENS or a window more, evenly spread over the text."""
    windows = torch.cat(text.batches)
    count = max(1, -(-ANCHOR_TOKENS // windows.shape[1]))
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).astype(int))
    return torch.split(windows[chosen], len(text.batches[0]))
