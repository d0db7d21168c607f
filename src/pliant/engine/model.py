"""An elastic model that is ready to answer: the engine with tokenizer, chat template and slots."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from reprlib import repr as shorten
from types import TracebackType

import numpy as np

from pliant.bundle import Bundle, Level, open_bundle
from pliant.engine.chat import ChatTemplate, Message
from pliant.engine.engine import Engine
from pliant.engine.generate import CancelSignal, Chunk, Generation, Request, TokenLoop
from pliant.engine.options import EngineOptions
from pliant.engine.sampling import Logits, SamplingParams
from pliant.engine.scoring import all_logits, score_continuations
from pliant.engine.slots import SlotPool
from pliant.engine.stopping import check_stop_strings
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import ContextOverflowError, CorruptFileError, RequestError, TemplateError

DEFAULT_BUNDLE = "pocket"
DEFAULT_MAX_TOKENS = 256
MAX_LOGPROBS = 100

# Text is completed as it stands, messages are rendered with the model's chat template, and token
# ids are taken as they are.
Prompt = str | Sequence[Message] | Sequence[int]
_PROMPT_KINDS = "a prompt is one text, a list of messages or a list of token ids"


def load(
    source: str | Path = DEFAULT_BUNDLE, options: EngineOptions | None = None
) -> "ElasticModel":
    """Open a built-in model by name, a bundle folder, or a plain .gguf file.

    Raises BundleError if it is missing, damaged or not supported.
    """
    return ElasticModel(open_bundle(source), options)


class ElasticModel:
    """Generates and scores at any level; methods may be called from several threads at once.

    Each generation holds one of the engine's slots until it ends or its iterator is closed.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        """Raises CorruptFileError without a usable vocabulary, RequestError for bad options."""
        self.bundle = bundle
        self.tokenizer = Tokenizer(bundle.gguf.path)
        if self.tokenizer.size != bundle.architecture.vocab_size:
            raise CorruptFileError(
                f"{bundle.gguf.path} has {self.tokenizer.size} tokens but embeddings for "
                f"{bundle.architecture.vocab_size}"
            )
        self.engine = Engine(bundle, options)
        self._slots = SlotPool(self.engine.num_slots)

    def close(self) -> None:
        """Free weights, KV cache and graphs; streams that still run raise at their next token.

        Idempotent. The vocabulary goes with the last reference to it: another thread may be
        reading it for a prompt or a grammar.
        """
        self.engine.close()

    def __enter__(self) -> "ElasticModel":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def levels(self) -> tuple[Level, ...]:
        """In ascending order; the last one is the full model."""
        return self.bundle.levels

    def generate(
        self,
        prompt: Prompt,
        *,
        level: float = 1.0,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        cancel: CancelSignal | None = None,
    ) -> Generation:
        """Answer `prompt` at `level` with up to `max_tokens` tokens (fewer if the context ends).

        Ends before the first of the `stop` strings. `logprobs` asks for the log-probability of
        each token and so many alternatives. `cancel` (a threading.Event, say) ends it between
        tokens. Raises UnknownLevelError, ContextOverflowError if the prompt leaves no room for a
        token, SamplingError, TemplateError, BusyError if all slots are in use, RequestError.
        """
        chunks = self.stream(
            prompt,
            level=level,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            logprobs=logprobs,
            cancel=cancel,
        )
        *_, last = chunks
        assert last.generation is not None
        return last.generation

    def stream(
        self,
        prompt: Prompt,
        *,
        level: float = 1.0,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        cancel: CancelSignal | None = None,
    ) -> Generator[Chunk, None, None]:
        """As `generate`, a chunk per token; the last chunk has the `generation` as a whole.

        Bad requests raise here, before the first chunk is asked for; BusyError comes with it.
        Closing the iterator cancels between tokens.
        """
        loop = self.token_loop(
            prompt,
            level=level,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            logprobs=logprobs,
            cancel=cancel,
        )
        return loop.run(self._slots)

    def token_loop(
        self,
        prompt: Prompt,
        *,
        level: float = 1.0,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        cancel: CancelSignal | None = None,
        started: float | None = None,
    ) -> TokenLoop:
        """`stream` before it takes a slot, for callers with a slot of their own.

        `started` is the time.perf_counter() that the time to the first token counts from.
        """
        started = time.perf_counter() if started is None else started
        chosen = self.bundle.level(level)
        _check_count("max_tokens", max_tokens, 1, None)
        if logprobs is not None:
            _check_count("logprobs", logprobs, 0, MAX_LOGPROBS)
        tokens = self.encode_prompt(prompt)
        request = Request(
            prompt=tokens,
            level=chosen,
            max_tokens=min(max_tokens, self.room_after(len(tokens))),
            sampling=sampling or SamplingParams(),
            stop=check_stop_strings(stop),
            logprobs=logprobs,
            cancel=cancel,
            started=started,
        )
        return TokenLoop(self.engine, self.tokenizer, request)

    @contextmanager
    def lease_slot(self) -> Iterator[int]:
        """A slot of the engine for the caller's own forward passes; BusyError if none is free."""
        with self._slots.lease() as [slot]:
            yield slot

    @contextmanager
    def lease_slots(self, most: int) -> Iterator[list[int]]:
        """At least one slot and up to `most`, one being left to others if there are several;
        BusyError if none is free."""
        with self._slots.lease(most) as slots:
            yield slots

    def logits(self, prompt: Prompt, *, level: float = 1.0) -> Logits:
        """Raw logits after each token of `prompt`, float32 [tokens, vocab].

        Raises as `generate` does.
        """
        chosen = self.bundle.level(level)
        tokens = self.encode_prompt(prompt)
        self._require_room(len(tokens), f"the prompt has {len(tokens)} tokens")
        with self._slots.lease() as [slot]:
            return all_logits(self.engine, chosen, slot, tokens)

    def score(self, prompt: Prompt, choices: Sequence[str], *, level: float = 1.0) -> list[float]:
        """Mean log-probability per token of each choice as the continuation of `prompt`.

        The prompt is computed once. Raises as `generate` does, and RequestError without choices
        or for an empty one.
        """
        chosen = self.bundle.level(level)
        if isinstance(choices, str) or not choices:
            raise RequestError("choices is a list of at least one text")
        tokens = self.encode_prompt(prompt)
        self.room_after(len(tokens))
        continuations = [self._encode_choice(prompt, choice) for choice in choices]
        for choice, continuation in zip(choices, continuations, strict=True):
            self._require_room(
                len(tokens) + len(continuation),
                f"the choice {shorten(choice)} has {len(continuation)} tokens "
                f"after the prompt's {len(tokens)}",
            )
        return score_continuations(self.engine, self._slots, chosen, tokens, continuations)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The tokens that `prompt` is computed as; names of control tokens in it stay text.

        Raises RequestError for an empty prompt or unknown tokens, TemplateError for messages
        that the chat template refuses or if the model has none.
        """
        if not isinstance(prompt, Sized):
            raise RequestError(_PROMPT_KINDS)
        tokens = self._encode(prompt) if len(prompt) else []
        if not tokens:
            raise RequestError("the prompt is empty")
        return tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """Length of `prompt` in tokens; raises as `encode_prompt` does."""
        return len(self.encode_prompt(prompt))

    def room_after(self, prompt_tokens: int) -> int:
        """Tokens that an answer to a prompt of `prompt_tokens` can have, at least 1.

        Raises ContextOverflowError if the prompt leaves no room.
        """
        self._require_room(
            prompt_tokens + 1,
            f"the prompt has {prompt_tokens} tokens and needs room for at least one more",
        )
        return self.engine.context_length - prompt_tokens

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if isinstance(prompt, (bytes, bytearray, memoryview)):
            raise RequestError("a prompt in bytes must be decoded to text first")
        messages = [item for item in prompt if isinstance(item, Mapping)]
        if len(messages) == len(prompt):
            return self.tokenizer.encode_pieces(self.chat_template.render(messages))
        tokens = [int(item) for item in prompt if isinstance(item, (int, np.integer))]
        if len(tokens) != len(prompt):
            raise RequestError(_PROMPT_KINDS)
        if not 0 <= min(tokens) <= max(tokens) < self.tokenizer.size:
            raise RequestError(f"token ids are from 0 to {self.tokenizer.size - 1}")
        return tokens

    @cached_property
    def chat_template(self) -> ChatTemplate:
        source = self.bundle.gguf.metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            raise TemplateError(
                f"{self.bundle.name} has no chat template; give the prompt as one text"
            )
        tokenizer = self.tokenizer
        return ChatTemplate(
            source,
            special_texts=tokenizer.special_texts,
            bos=tokenizer.text(tokenizer.bos),
            eos=tokenizer.text(tokenizer.eos),
        )

    def _encode_choice(self, prompt: Prompt, choice: str) -> list[int]:
        if not isinstance(choice, str) or not choice:
            raise RequestError("a choice is no text, or empty")
        before = prompt if isinstance(prompt, str) else ""
        tokens = self.tokenizer.encode_continuation(before, choice)
        if not tokens:
            raise RequestError(f"the choice {choice!r} has no tokens")
        return tokens

    def _require_room(self, num_tokens: int, what: str) -> None:
        length = self.engine.context_length
        if num_tokens > length:
            raise ContextOverflowError(
                f"{what}, but the context holds {length}",
                needed_tokens=num_tokens,
                available_tokens=length,
            )


def _check_count(name: str, value: int, low: int, high: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"{low} to {high}"
        raise RequestError(f"{name} is a whole number, {allowed}, not {value!r}")
