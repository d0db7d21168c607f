"""A conversation in the terminal: answers on stdout, everything else on stderr."""

import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from pliant.cli.answer import Pace, Told, answer, spelled
from pliant.cli.output import terminal_safe
from pliant.errors import PliantError, RequestError, SloUnreachableError
from pliant.slo import Compression, Orchestrator, Policy, Slo, open_orchestrator

if TYPE_CHECKING:
    from pliant.contexts.report import CallReport
    from pliant.engine.model import ElasticModel
    from pliant.engine.sampling import SamplingParams

HELP = """\
/level 0.5      run at this level
/slo 0.4 0.6    let pliant choose: TTFT, TPOT as shares of the full model's, or 400ms, or -
/slo off        run the full model
/system TEXT    tell the model what it is for; without TEXT: nothing
/reset          forget the conversation
/help           show this
/bye            leave (also Ctrl-D); Ctrl-C stops an answer or a measurement"""

_PROMPT = ">>> "


class Chat:
    """Keeps the messages and the pace of one conversation."""

    def __init__(
        self,
        model: "ElasticModel",
        max_tokens: int,
        sampling: "SamplingParams",
        *,
        level: float = 1.0,
        slo: Slo | None = None,
        policy: Policy = "best_effort",
        compression: Compression = "auto",
        system: str = "",
    ) -> None:
        """`policy` and `compression` go with every SLO; `system` is a message before all others.

        Raises UnknownLevelError if the model has no such level.
        """
        self._model = model
        self._max_tokens = max_tokens
        self._sampling = sampling
        self._messages: list[dict[str, str]] = []
        self._system = system
        self._policy: Policy = policy
        self._compression: Compression = compression
        self._orchestrator: Orchestrator | None = None
        self._pace = self._fixed(level) if slo is None else self._chosen(slo)

    def close(self) -> None:
        """Free what was opened to choose; the model is the caller's."""
        if self._orchestrator is not None:
            self._orchestrator.close()

    def answer(self, text: str) -> Told:
        """Stream the answer to stdout; Ctrl-C stops it and keeps what was said.

        Raises RequestError, and then forgets `text`.
        """
        with Interrupt() as interrupt:
            found = self._ask(text, interrupt)
        print(flush=True)
        say(_status(found, self._pace.slo))
        return found

    def repl(self) -> None:
        """Read prompts and commands until /bye, Ctrl-D, or Ctrl-C twice."""
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # Gives `input` editing and a history.
        levels = ", ".join(f"{level.ratio:g}" for level in self._model.levels)
        name = terminal_safe(self._model.bundle.name)
        say(f"{name}, levels {levels}; /help shows the commands")
        for line in _typed_lines():
            if line == "/bye":
                return
            self._obey(line)

    def _obey(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._command(line[1:].strip())
            elif line:
                self.answer(line)
        except SloUnreachableError as error:
            say(terminal_safe(f"error: {spelled(error, _slo_command)}"))
        except PliantError as error:
            say(terminal_safe(f"error: {error}"))
        except KeyboardInterrupt:
            say("\nstopped")

    def _command(self, command: str) -> None:
        name, _, text = command.partition(" ")
        match [name, *text.split()]:
            case ["level", number]:
                self._pace = self._fixed(_number(number))
                say(f"level {self._pace.level:g}")
            case ["slo", "off"]:
                self._pace = Pace()
                say("full model")
            case ["slo", ttft, *rest] if len(rest) <= 1:
                sides = [None if side == "-" else side for side in (ttft, *rest)]
                self._pace = self._chosen(Slo.parse(*sides))
                say(f"SLO {self._pace.slo}")
            case ["system", *_]:
                self._set_system(text.strip())
                say("system message set" if text.strip() else "no system message")
            case ["reset"]:
                self._forget()
                say("forgotten")
            case ["help"]:
                say(HELP)
            case _:
                raise RequestError(f"no such command: /{command}; /help shows what there is")

    def _ask(self, text: str, interrupt: "Interrupt") -> Told:
        """Stream the answer, and remember both."""
        messages = [*self._messages, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self._system}] if self._system else []
        found = answer(
            self._model,
            [*system, *messages],
            self._pace,
            self._max_tokens,
            sampling=self._sampling,
            show=show,
            cancel=interrupt,
        )
        self._messages = [*messages, {"role": "assistant", "content": found.generation.text}]
        return found

    def _set_system(self, text: str) -> None:
        self._system = text

    def _forget(self) -> None:
        self._messages = []

    def _open_orchestrator(self) -> Orchestrator:
        if self._orchestrator is None:
            self._orchestrator = open_orchestrator(
                self._model, before_calibration=announce_calibration
            )
        return self._orchestrator

    def _fixed(self, level: float) -> Pace:
        return Pace(self._model.bundle.level(level).ratio)

    def _chosen(self, slo: Slo) -> Pace:
        return Pace(
            slo=slo,
            orchestrator=self._open_orchestrator(),
            policy=self._policy,
            compression=self._compression,
        )


class Interrupt:
    """While active, the first Ctrl-C is only noted: forward passes are never cut in half.

    A second one raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._noted = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def is_set(self) -> bool:
        return self._noted

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True


def announce_calibration(budget_s: float) -> None:
    """Say on stderr why nothing happens for a while."""
    say(f"measuring this device, once (at most {budget_s:.0f} s) ...")


def _typed_lines() -> Iterator[str]:
    """Lines from the terminal until Ctrl-D, or Ctrl-C twice in a row."""
    interrupted = False
    while True:
        try:
            line = input(_PROMPT if sys.stdout.isatty() else "")
        except UnicodeDecodeError:
            say("error: that was not UTF-8 text")
            continue
        except (EOFError, KeyboardInterrupt) as key:
            if interrupted or isinstance(key, EOFError):
                say("")
                return
            interrupted = True
            say("\nCtrl-C again or /bye leaves")
            continue
        interrupted = False
        yield line.strip()


def show(text: str) -> None:
    """A piece of an answer, on stdout."""
    sys.stdout.write(terminal_safe(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def say(text: str) -> None:
    """To the person, not to who reads the answers."""
    print(text, file=sys.stderr, flush=True)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"level is {text!r}; it must be a number such as 0.5") from None


def _slo_command(sides: dict[str, str]) -> str:
    return f"/slo {sides.get('ttft', '-')} {sides.get('tpot', '-')}"


def _status(found: Told, slo: Slo | None) -> str:
    tpot = "-" if found.tpot_ms is None else f"{found.tpot_ms:.2f} ms"
    parts = [
        f"level {found.generation.level:g}",
        f"TTFT {found.ttft_ms:.1f} ms",
        f"TPOT {tpot}",
    ]
    if found.decision is not None:
        strategy = found.decision.strategy
        parts[1] += f" (predicted {strategy.predicted_ttft_ms:.1f})"
        parts[2] += f" (predicted {strategy.predicted_tpot_ms:.2f})"
        parts.append(f"SLO {slo} {'met' if found.is_slo_met else 'missed'}")
        if not strategy.feasible:
            parts.append("nothing was predicted to meet it, this is the closest")
        if strategy.prompt_ratio < 1:
            parts.insert(1, f"{found.decision.prompt_ratio:.0%} of the prompt")
    if found.report is not None and found.report.context_tokens:
        parts.append(_history(found.report))
    if found.is_stopped:
        parts.append("stopped" if found.report is None else "stopped, the context is as before")
    return f"[{', '.join(parts)}]"


def _history(report: "CallReport") -> str:
    """Where the tokens of the context were found."""
    restored = report.restored
    sources = {
        "kept": report.from_slot,
        "from memory": restored.from_memory,
        "from disk": restored.from_disk,
        "computed": report.computed,
    }
    found = ", ".join(f"{count} {source}" for source, count in sources.items() if count)
    return f"context of {report.context_tokens} tokens: {found}"
