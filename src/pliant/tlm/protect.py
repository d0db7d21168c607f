"""What of a prompt compression leaves alone."""

from dataclasses import dataclass

from pliant.errors import RequestError


@dataclass(frozen=True, slots=True)
class Protect:
    """Which parts stay as they are, whatever the ratio; chat markup always does.

    `system`: messages of the roles system and developer. `question`: the last question, see
    `pliant.tlm.question`. `code`: fenced and inline code. `numbers`: words with a digit. `names`:
    capitalised words inside a sentence, words with inner capitals, handles. `urls`: web and mail
    addresses. `json`: all of a JSON document but the words of its string values. `markers`: pairs
    of opening and closing texts; they and what stands between them.
    """

    system: bool = True
    question: bool = True
    code: bool = True
    numbers: bool = True
    names: bool = True
    urls: bool = True
    json: bool = True
    markers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for pair in self.markers:
            if len(pair) != 2 or not all(isinstance(text, str) and text for text in pair):
                raise RequestError(f"a marker is a pair of texts (opening, closing), not {pair!r}")


# Without what belongs to the content: the ratio asked for is nearly always reached.
STRUCTURE = Protect(numbers=False, names=False, urls=False)
