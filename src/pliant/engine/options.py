"""How an engine is set up; every default is written here once."""

from dataclasses import dataclass
from typing import Literal, get_args

from pliant.errors import RequestError

Layout = Literal["auto", "plain", "repacked"]
KvType = Literal["f16", "q8_0"]


@dataclass(frozen=True)
class EngineOptions:
    """Raises RequestError, naming option, value and allowed range, when made with a bad value.

    layout          how weights lie in memory: 'plain' (mmapped, no copy), 'repacked' (rearranged
                    copies where this CPU has them) or 'auto' (what is faster for the weight type)
    threads         at most so many; None: as many as there are physical cores
    context_length  tokens a slot holds; None: the model's, at most 8192
    slots           contexts that can be resident at once
    kv_type         type of cached keys and values
    """

    layout: Layout = "auto"
    threads: int | None = None
    context_length: int | None = None
    slots: int = 4
    kv_type: KvType = "f16"

    def __post_init__(self) -> None:
        _check_choice("layout", self.layout, get_args(Layout))
        _check_choice("kv_type", self.kv_type, get_args(KvType))
        _check_range("threads", self.threads, 512)
        _check_range("context_length", self.context_length, 1 << 24)
        _check_range("slots", self.slots, 1024)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def _check_range(name: str, value: int | None, high: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= high:
        raise RequestError(f"{name} is {value!r}; it must be a whole number from 1 to {high}")
