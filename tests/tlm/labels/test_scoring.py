"""Prompts scored together give what each gives on its own."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from pliant.bundle import Bundle
from pliant.engine.engine import MAX_BATCH
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.errors import BusyError
from pliant.tlm.labels.scoring import Job, all_slots, common_prefix, encode_choices, score_jobs

TOLERANCE = 0.02  # of F16 weights and caches: what is computed together differs


@pytest.fixture
def model(bundle: Bundle) -> Iterator[ElasticModel]:
    with ElasticModel(bundle, EngineOptions(slots=4, threads=1)) as opened:
        yield opened


def random_jobs(model: ElasticModel, count: int, seed: int) -> list[Job]:
    """Prompts that share beginnings of many lengths, one the beginning of another or the same."""
    rng = random.Random(seed)
    vocabulary = range(6, model.tokenizer.size)
    jobs = []
    for _ in range(count):
        base = tuple(rng.choices(vocabulary, k=rng.randint(2, 200)))
        cuts = [rng.randint(1, len(base)) for _ in range(4)]
        prompts = [base, base, *(base[:cut] + base[cut + 1 :] for cut in sorted(cuts)[::-1])]
        texts = rng.sample(["wifi", "b", "the station at 10:30", "é", "on"], rng.randint(1, 5))
        jobs.append(Job(tuple(prompts), encode_choices(model, [], texts)))
    return jobs


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_each_prompt_alone(model: ElasticModel, seed: int) -> None:
    jobs = random_jobs(model, 4, seed)
    with all_slots(model) as slots:
        found = score_jobs(model.engine, model.bundle.level(0.5), jobs, slots)
    for job, scores in zip(jobs, found, strict=True):
        texts = [model.tokenizer.decode(choice) for choice in job.choices]
        expected = [model.score(list(prompt), texts, level=0.5) for prompt in job.prompts]
        assert np.abs(scores - np.array(expected)).max() < TOLERANCE


def test_more_tokens_than_a_batch_holds(bundle: Bundle) -> None:
    with ElasticModel(bundle, EngineOptions(slots=4, threads=1)) as model:
        base = tuple(random.Random(2).choices(range(6, 300), k=240))
        jobs = [Job((base[index:],), ((7, 8),)) for index in range(4)]
        assert sum(len(job.prompts[0]) for job in jobs) > MAX_BATCH
        with all_slots(model) as slots:
            found = score_jobs(model.engine, model.levels[-1], jobs, slots)
        for job, scores in zip(jobs, found, strict=True):
            text = model.tokenizer.decode((7, 8))
            if list(model.tokenizer.encode_continuation("", text)) == [7, 8]:
                [expected] = model.score(list(job.prompts[0]), [text])
                assert abs(scores[0, 0] - expected) < TOLERANCE
            logs = model.logits(list(job.prompts[0]) + [7]).astype(np.float64)
            logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
            assert abs(scores[0, 0] - (logs[-2, 7] + logs[-1, 8]) / 2) < TOLERANCE


def test_all_slots_are_taken_and_given_back(model: ElasticModel) -> None:
    with all_slots(model) as slots:
        assert sorted(slots) == [0, 1, 2, 3]
        with pytest.raises(BusyError), all_slots(model):
            pass
    model.score("a", ["b"])


def test_common_prefix() -> None:
    assert common_prefix((1, 2, 3), (1, 2, 4)) == 2
    assert common_prefix((), (1,)) == 0
    assert common_prefix((1, 2), (1, 2, 3)) == 2
