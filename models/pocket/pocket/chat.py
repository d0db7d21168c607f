"""The chat form of the built-in model: control tokens and template."""

from __future__ import annotations

from collections.abc import Iterable

from .scene import Message

END, PAD = "<|end|>", "<|pad|>"
CONTROL_TOKENS = (END, "<|system|>", "<|user|>", "<|assistant|>", PAD)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(messages: Iterable[Message], ask: bool = False) -> str:
    """The chat template in Python; ``ask`` opens the assistant's turn."""
    text = "".join(f"<|{m['role']}|>{m['content']}{END}" for m in messages)
    return text + "<|assistant|>" if ask else text
