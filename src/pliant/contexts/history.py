"""How a call continues a context: its history with what the call adds, as tokens and as pieces.

Only what is new is tokenized, so that keys and values of the rest stay valid. Where a chat template
renders the history otherwise now than it did before, the tokens from there on are replaced.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pliant.contexts.overflow import shorten_chat
from pliant.contexts.pieces import Piece as HistoryPiece
from pliant.contexts.pieces import Role
from pliant.engine.chat import Message, Piece
from pliant.engine.model import ElasticModel, Prompt
from pliant.errors import RequestError, TemplateError
from pliant.tlm.scores import Scorer


@dataclass(frozen=True)
class Turn:
    """`tokens` are the whole prompt; the first `common` are the history's. `messages` is what the
    call adds to a chat (JSON), "" to any other context; `role` is who says it. If it `replaces`
    the history, they are the whole chat."""

    tokens: tuple[int, ...]
    common: int
    messages: str
    role: Role = "user"
    replaces: bool = False


def system_piece(model: ElasticModel, text: str, level: float) -> HistoryPiece:
    """A system prompt as the chat template has it, or as bare text without a template."""
    message = {"role": "system", "content": text}
    try:
        rendered = model.chat_template.render([message], add_generation_prompt=False)
    except TemplateError:
        return HistoryPiece(model.encode_prompt(text), level, "system")
    tokens = model.tokenizer.encode_pieces(rendered)
    return HistoryPiece(tokens, level, "system", json.dumps([message]))


def extend(model: ElasticModel, history: Sequence[HistoryPiece], prompt: Prompt) -> Turn:
    """The prompt of a call: text and token ids continue the history as they stand, messages
    continue a chat. Raises RequestError for a prompt that does not, TemplateError."""
    before = tuple(token for piece in history for token in piece.tokens)
    if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
        return _extend_chat(model, history, before, list(prompt))  # type: ignore[arg-type]
    if any(piece.messages and piece.role != "system" for piece in history):
        raise RequestError("this context is a chat: give a list of messages")
    if isinstance(prompt, str) and before:
        added = model.tokenizer.encode(prompt, add_bos=False)
    else:
        added = model.encode_prompt(prompt)
    if not added:
        raise RequestError("the prompt is empty")
    return Turn((*before, *added), len(before), "")


def answer_piece(
    model: ElasticModel, turn: Turn, text: str, tokens: Sequence[int], end: int | None, level: float
) -> list[HistoryPiece]:
    """What the answer adds to the history; in a chat with the token that ended it."""
    if turn.messages:
        if end is None and not tokens:
            end = model.tokenizer.eot or model.tokenizer.eos
        tokens = tokens if end is None else [*tokens, end]
    if not tokens:
        return []
    messages = json.dumps([{"role": "assistant", "content": text}]) if turn.messages else ""
    return [HistoryPiece(tokens, level, "assistant", messages)]


def updated(
    history: Sequence[HistoryPiece], turn: Turn, levels: Sequence[float]
) -> tuple[int, list[HistoryPiece]]:
    """The history with the prompt of `turn`: from which token on it changes, and the pieces from
    there on. `levels` are those of all of the turn's tokens."""
    if turn.replaces:
        return 0, [HistoryPiece(turn.tokens, levels, turn.role, turn.messages)]
    start, kept = 0, 0
    for piece in history:
        stop = start + len(piece.tokens)
        if stop > turn.common or piece.levels != tuple(levels[start:stop]):
            break
        start, kept = stop, kept + 1
    pieces, at = [], start
    for piece in history[kept:]:
        stop = at + len(piece.tokens)
        if stop > turn.common:
            break
        pieces.append(HistoryPiece(piece.tokens, levels[at:stop], piece.role, piece.messages))
        at, kept = stop, kept + 1
    said = [*_said(history[kept:]), *json.loads(turn.messages or "[]")]
    messages = json.dumps(said) if turn.messages else ""
    if at < len(turn.tokens):
        pieces.append(HistoryPiece(turn.tokens[at:], levels[at:], turn.role, messages))
    return start, pieces


def shortened(
    model: ElasticModel, history: Sequence[HistoryPiece], turn: Turn, scorer: Scorer
) -> Turn:
    """A turn of a chat that is too long, with the oldest messages shortened."""
    new = json.loads(turn.messages)
    messages = shorten_chat(model, [*_said(history), *new], len(new), scorer)
    tokens = tuple(model.tokenizer.encode_pieces(model.chat_template.render(messages)))
    before = tuple(token for piece in history for token in piece.tokens)
    return Turn(tokens, _common(before, tokens), json.dumps(messages), turn.role, replaces=True)


def _said(history: Sequence[HistoryPiece]) -> list[Message]:
    return [message for piece in history for message in json.loads(piece.messages or "[]")]


def _common(before: Sequence[int], after: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(before, after, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _extend_chat(
    model: ElasticModel,
    history: Sequence[HistoryPiece],
    before: tuple[int, ...],
    messages: list[Message],
) -> Turn:
    if not all(piece.messages for piece in history):
        raise RequestError("this context was begun with bare text: give text, not messages")
    rendered = model.chat_template.render([*_said(history), *messages])
    rest = _after(model, before, rendered)
    if rest is not None:
        tokens = [t for piece in rest for t in _encode(model, piece)]
        turn = (*before, *tokens)
        common = len(before)
    else:
        turn = tuple(model.tokenizer.encode_pieces(rendered))
        common = _common(before, turn)
    roles = {"user", "assistant", "system", "tool"}
    role = messages[-1].get("role")
    return Turn(turn, common, json.dumps(messages), role if role in roles else "user")


def _after(
    model: ElasticModel, before: Sequence[int], rendered: Sequence[Piece]
) -> list[Piece] | None:
    """What of a rendered chat comes after the text of the tokens `before`; None if it does not
    begin with it."""
    if not before:
        return None
    tokenizer = model.tokenizer
    text = "".join(piece.text for piece in rendered)
    bos = tokenizer.text(tokenizer.bos)
    has_bos = before[0] == tokenizer.bos and not text.startswith(bos)
    start = tokenizer.decode(before[1:] if has_bos else before, special=True)
    if not text.startswith(start):
        return None
    rest, skip = [], len(start)
    for piece in rendered:
        if skip < len(piece.text):
            rest.append(Piece(piece.text[skip:], piece.parse_special))
        skip = max(0, skip - len(piece.text))
    return rest


def _encode(model: ElasticModel, piece: Piece) -> list[int]:
    return model.tokenizer.encode(piece.text, add_bos=False, parse_special=piece.parse_special)
