"""The latency models measured on this machine, one file each in the user's cache folder.

A file that cannot be read, or that belongs to anything else, is measured again and replaced.
"""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pliant.bundle.manifest import TLM_FILE
from pliant.errors import CorruptFileError
from pliant.files import replacing
from pliant.paths import cache_folder
from pliant.slo.calibration import CALIBRATION_BUDGET_S, calibrate
from pliant.slo.latency import FORMAT_VERSION, LatencyModel
from pliant.slo.reader import Reader

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel

logger = logging.getLogger(__name__)

# A file of nine levels takes 3 KiB; nothing larger than this is read.
_MAX_FILE_BYTES = 1 << 20

# The system itself is never quite idle.
_TOLERATED_BUSY_CORES = 0.25


def load_or_calibrate(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    tlm: Reader | None = None,
    before_calibration: Callable[[float], None] | None = None,
) -> LatencyModel:
    """This machine's latency model of `model`: from the cache, else measured now and kept.

    `tlm` is the model's and timed with it. `before_calibration` is told the budget in seconds
    when a measurement is about to begin. What was measured while other programs took the cores is
    used but not kept. A cache folder that cannot be written costs a measurement per start, not
    the request.
    """
    identity = describe(model, tlm)
    path = cache_folder() / "latency" / f"{_digest(identity)}.json"
    latency = read(path, identity)
    if latency is not None:
        return latency
    if before_calibration is not None:
        before_calibration(budget_s)
    load = BusyCores()
    latency = calibrate(model, budget_s, tlm=tlm)
    if load.others() + model.engine.threads > load.cores + _TOLERATED_BUSY_CORES:
        logger.warning("other programs were busy meanwhile: the next start measures again")
        return latency
    try:
        write(path, identity, latency)
    except OSError as error:
        logger.warning("cannot keep the latency model in %s: %s", path, error)
    return latency


class BusyCores:
    """How many cores, on average since it was made, other programs kept busy."""

    def __init__(self) -> None:
        self.cores = psutil.cpu_count() or 1
        self._process = psutil.Process()
        self._begin = time.monotonic()
        self._before_s = self._seconds()

    def others(self) -> float:
        return (self._seconds() - self._before_s) / max(time.monotonic() - self._begin, 1e-3)

    def _seconds(self) -> float:
        """Processor time so far of all programs, niced ones too, but this one."""
        total, own = psutil.cpu_times(), self._process.cpu_times()
        busy = total.user + getattr(total, "nice", 0.0) + total.system
        return float(busy - own.user - own.system)


def describe(model: "ElasticModel", tlm: Reader | None = None) -> dict[str, Any]:
    """Everything that measured latencies depend on, JSON-ready: model, machine, settings."""
    from pliant.ggml import library

    engine = model.engine
    levels = [[level.ratio, level.plan.to_json(), level.adapter] for level in model.levels]
    return {
        "format": FORMAT_VERSION,
        "model": model.bundle.sha256,
        "levels": hashlib.sha256(json.dumps(levels).encode()).hexdigest(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "threads": engine.threads,
        "layout": engine.options.layout,
        "kv_type": engine.options.kv_type,
        "context_length": engine.context_length,
        "ggml": library.load().version,
        "tlm": None if tlm is None else _tlm_sha256(model),
    }


def _tlm_sha256(model: "ElasticModel") -> str | None:
    manifest = model.bundle.manifest
    return None if manifest is None else manifest.files[TLM_FILE].sha256


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def read(path: Path, identity: dict[str, Any]) -> LatencyModel | None:
    """The latency model in `path`; None if absent, unreadable, damaged or of another identity."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise CorruptFileError("too large")
        document = json.loads(content)
        if not isinstance(document, dict) or set(document) != {"identity", "latency"}:
            raise CorruptFileError("not a latency file")
        if document["identity"] != identity:
            raise CorruptFileError("measured for another model, machine or setting")
        return LatencyModel.from_json(document["latency"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, CorruptFileError) as error:
        logger.warning("ignoring %s, measuring again: %s", path, error)
        return None


def write(path: Path, identity: dict[str, Any], latency: LatencyModel) -> None:
    """Replace `path` in one step, so that no reader sees half a file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"identity": identity, "latency": latency.to_json()}
    with replacing(path) as draft:
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
