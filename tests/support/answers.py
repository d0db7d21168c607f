"""Whether an answer is the one that the whole history as one prompt gets."""

from collections.abc import Sequence

from pliant.engine.model import ElasticModel

# Sums are rounded otherwise when tokens are computed in other batches, and a random model has
# candidates that are as good as equal. Keys and values of other tokens change log-probabilities
# by far more than this.
TIE = 0.1
_CANDIDATES = 8


def check_answer(
    model: ElasticModel, prompt: Sequence[int], answer: Sequence[int], level: float = 1.0
) -> None:
    """Assert that every token of `answer` is the best after `prompt` and those before it."""
    before, rest = list(prompt), list(answer)
    while rest:
        best = model.generate(before, level=level, max_tokens=len(rest), logprobs=_CANDIDATES)
        pairs = enumerate(zip(best.tokens, rest, strict=False))
        same = next((index for index, (a, b) in pairs if a != b), len(rest))
        if same == len(rest):
            return
        assert best.logprobs is not None
        token, top = rest[same], best.logprobs[same]
        logprobs = {other.token: other.logprob for other in top.top}
        assert logprobs.get(token, float("-inf")) > top.logprob - TIE, (
            f"token {len(before) + same} is {token}, not {top.token}: {logprobs}"
        )
        before += rest[: same + 1]
        rest = rest[same + 1 :]
