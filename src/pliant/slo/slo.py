"""`Slo`: how fast an answer must be. Knows nothing of models or devices."""

import re
from dataclasses import dataclass
from decimal import Decimal

from pliant.errors import SloError

RELATIVE_RANGE = "a number above 0 and at most 1 (share of the full model's)"
MAX_MS = 1e9
ABSOLUTE_RANGE = f"a number of milliseconds above 0 and at most {MAX_MS:g}"
TEXT_FORMS = "a share such as 0.4 or 40%, or a time such as 400ms or 1.5s"

_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|ms|s)?\s*", re.ASCII)


@dataclass(frozen=True)
class Slo:
    """A latency objective; each side is a share, a time, or absent.

    `ttft` and `tpot` are shares (0 < x <= 1) of what the full model takes for the full prompt on
    this device; `ttft_ms` and `tpot_ms` are milliseconds. A share of 1.0 asks for the full model
    itself, which is its own reference: it sets no limit.

    Raises SloError for a value outside its range, or for both forms of one side.
    """

    ttft: float | None = None
    tpot: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def __post_init__(self) -> None:
        for side in ("ttft", "tpot"):
            share, time_ms = getattr(self, side), getattr(self, f"{side}_ms")
            if share is not None and time_ms is not None:
                raise SloError(f"give either {side} or {side}_ms, not both ({share}, {time_ms})")
            if share is not None and not (_is_number(share) and 0 < share <= 1):
                raise SloError(f"{side} is {share!r}; allowed: {RELATIVE_RANGE}")
            if time_ms is not None and not (_is_number(time_ms) and 0 < time_ms <= MAX_MS):
                raise SloError(f"{side}_ms is {time_ms!r}; allowed: {ABSOLUTE_RANGE}")

    @classmethod
    def parse(cls, ttft: str | None = None, tpot: str | None = None) -> "Slo":
        """From text such as `0.4`, `40%`, `400ms` or `1.5s`. Raises SloError."""
        return cls(**_parse_side("ttft", ttft), **_parse_side("tpot", tpot))

    def texts(self) -> dict[str, str]:
        """Each side that has a limit, as `parse` takes it: {"ttft": "400ms", "tpot": "0.6"}."""
        sides = {"ttft": (self.ttft, self.ttft_ms), "tpot": (self.tpot, self.tpot_ms)}
        return {
            side: _plain(time_ms) + "ms" if share is None else _plain(share)
            for side, (share, time_ms) in sides.items()
            if share is not None or time_ms is not None
        }

    def __str__(self) -> str:
        sides = (_show_side(self.ttft, self.ttft_ms), _show_side(self.tpot, self.tpot_ms))
        return f"<{sides[0]},{sides[1]}>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse_side(side: str, text: str | None) -> dict[str, float]:
    if text is None:
        return {}
    match = _TEXT.fullmatch(text)
    if match is None:
        raise SloError(f"{side} is {text!r}; allowed: {TEXT_FORMS}")
    number, unit = float(match[1]), match[2]
    if unit in ("ms", "s"):
        return {f"{side}_ms": number * (1000 if unit == "s" else 1)}
    if unit is None and number > 1:
        hint = f"did you mean {text.strip()}ms?"
        raise SloError(f"{side} is {text!r}; allowed: {TEXT_FORMS}; {hint}")
    return {side: number / 100 if unit == "%" else number}


def _plain(value: float | None) -> str:
    """Without an exponent, which `parse` does not take."""
    return format(Decimal(repr(float(value or 0.0))).normalize(), "f")


def _show_side(share: float | None, time_ms: float | None) -> str:
    if share is not None:
        return f"{share * 100:.4g}%"
    return "-" if time_ms is None else f"{time_ms:.4g}ms"
