"""Questions for a small random bundle, and a TLM for it."""

import json
from pathlib import Path

from pliant.bundle import Bundle
from pliant.tlm.install import install_tlm
from pliant.tlm.training.export import write_tlm
from support.tiny_tlm import tiny_network

CHOICES = ["wifi", "bluetooth", "set_alarm", "the station"]
CONTEXT = "Anna says: meet me at the station.\nTurn on the wifi, please.\nWas 25 on?"


def add_tiny_tlm(bundle: Bundle, seed: int = 0) -> Bundle:
    """The bundle with a TLM; its weights are random, and so is what it says."""
    draft = bundle.path.with_name(f"{bundle.path.name}-tlm.gguf")
    write_tlm(draft, tiny_network(bundle, seed=seed))
    return install_tlm(bundle.path, draft)


def write_tasks(path: Path, count: int = 5) -> Path:
    """Questions of different lengths; `count` of them."""
    lines = []
    for index in range(count):
        system = {"role": "system", "content": "Choose the function for the request."}
        user = {"role": "user", "content": f"{CONTEXT * (1 + index % 2)}\nRequest: on at {index}?"}
        row = {"messages": [system, user], "choices": CHOICES[: 2 + index % 3], "answer_index": 1}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
