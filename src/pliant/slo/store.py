"""The latency models measured on this machine, one file each in the user's cache folder.

A file that cannot be read, or that belongs to anything else, is measured again and replaced.
"""

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pliant.errors import CorruptFileError
from pliant.paths import cache_folder
from pliant.slo.calibration import CALIBRATION_BUDGET_S, calibrate
from pliant.slo.latency import FORMAT_VERSION, LatencyModel

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel

logger = logging.getLogger(__name__)

# A file of nine levels takes 3 KiB; nothing larger than this is read.
_MAX_FILE_BYTES = 1 << 20


def load_or_calibrate(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    before_calibration: Callable[[float], None] | None = None,
) -> LatencyModel:
    """This machine's latency model of `model`: from the cache, else measured now and kept.

    `before_calibration` is told the budget in seconds when a measurement is about to begin.
    A cache folder that cannot be written costs a measurement per start, not the request.
    """
    identity = describe(model)
    path = cache_folder() / "latency" / f"{_digest(identity)}.json"
    latency = read(path, identity)
    if latency is not None:
        return latency
    if before_calibration is not None:
        before_calibration(budget_s)
    latency = calibrate(model, budget_s)
    try:
        write(path, identity, latency)
    except OSError as error:
        logger.warning("cannot keep the latency model in %s: %s", path, error)
    return latency


def describe(model: "ElasticModel") -> dict[str, Any]:
    """Everything that measured latencies depend on, JSON-ready: model, machine, settings."""
    from pliant.ggml import library

    engine = model.engine
    levels = [[level.ratio, level.plan.to_json(), level.adapter] for level in model.levels]
    return {
        "format": FORMAT_VERSION,
        "model": model.bundle.sha256,
        "levels": hashlib.sha256(json.dumps(levels).encode()).hexdigest(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": engine.threads,
        "layout": engine.options.layout,
        "kv_type": engine.options.kv_type,
        "context_length": engine.context_length,
        "ggml": library.load().version,
    }


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
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".latency-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(document, file, indent=1)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
