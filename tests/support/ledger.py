"""What a process that may be killed has acknowledged, against what is found after it."""

from collections.abc import Mapping
from typing import Any


class Ledger:
    """`tokens` are those of every context, as acknowledged or found."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.acknowledged = 0
        self._begun: list[dict[str, Any]] = []

    def note(self, line: dict[str, Any]) -> None:
        """An operation that begins ("calling") or was acknowledged ("called")."""
        op, context = line["op"], line.get("context", "")
        if op.endswith("ing"):
            self._begun.append(line)
            return
        if op == "created":
            self.tokens[context] = []
        elif op == "forked":
            self.tokens[context] = list(self.tokens[line["parent"]])
        elif op == "called":
            self.tokens[context] += line["tokens"]
        else:
            del self.tokens[context]
        named = "parent" if op == "forked" else "context"
        self._end(op.removesuffix("ed") + "ing", {named: line[named]} if op != "created" else {})
        self.acknowledged += 1

    def compare(self, found: Mapping[str, list[int]], max_tokens: int) -> None:
        """Assert that `found` is what was acknowledged, but for what had begun; go on from it.

        A call that had begun may be there as a whole: its prompt and up to `max_tokens` tokens.
        """
        for context in self.tokens.keys() - found.keys():
            self._end("deleting", {"context": context})
        for context in self.tokens.keys() & found.keys():
            expected = self.tokens[context]
            if found[context] != expected:
                new = self._end("calling", {"context": context})["new"]
                start = [*expected, *new]
                assert found[context][: len(start)] == start
                assert len(found[context]) <= len(start) + max_tokens
        for context in found.keys() - self.tokens.keys():
            if found[context] or not any(line["op"] == "creating" for line in self._begun):
                forks = [line for line in self._begun if line["op"] == "forking"]
                parents = [f["parent"] for f in forks if self.tokens[f["parent"]] == found[context]]
                assert parents, f"nobody made {context}"
                self._end("forking", {"parent": parents[0]})
            else:
                self._end("creating", {})
        self.tokens = dict(found)
        self._begun.clear()

    def _end(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        wanted = {"op": op, **fields}
        line = next((line for line in self._begun if wanted.items() <= line.items()), None)
        assert line is not None, f"{wanted} had not begun"
        self._begun.remove(line)
        return line
