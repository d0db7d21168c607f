from hypothesis import given
from hypothesis import strategies as st

from pliant.slo.schedule import ANSWER_STEPS, MAX_ROUNDS, Point, Schedule, make_schedule

COSTS = tuple(i / 10 for i in range(2, 11))


def test_a_small_model_is_measured_at_every_level_and_up_to_a_whole_chunk() -> None:
    schedule = make_schedule(COSTS, 2048, token_s=1e-4, step_s=1e-3, budget_s=12)
    assert schedule.levels == tuple(range(9))
    assert schedule.num_tokens == 512


def test_a_big_model_is_measured_at_few_levels_and_short_prompts() -> None:
    schedule = make_schedule(COSTS, 4096, token_s=0.02, step_s=0.3, budget_s=12)
    assert schedule.levels == (0, 4, 8)
    assert schedule.num_tokens < 128


@given(
    st.integers(1, 12),
    st.integers(8, 8192),
    st.floats(1e-7, 1),
    st.floats(1e-6, 5),
    st.floats(0.1, 15),
)
def test_schedules_fit_context_and_cover_what_a_fit_needs(
    num_levels: int, context_length: int, token_s: float, step_s: float, budget_s: float
) -> None:
    costs = [(i + 1) / num_levels for i in range(num_levels)]
    schedule = make_schedule(costs, context_length, token_s, step_s, budget_s)
    assert {0, num_levels - 1} <= set(schedule.levels) <= set(range(num_levels))
    assert all(_fits(p, context_length) for p in schedule.points)
    for point in schedule.points:
        varied = [point.varied(number, context_length) for number in range(MAX_ROUNDS)]
        assert varied[0] == point
        assert all(_fits(p, context_length) for p in varied)
    assert any(point.steps for point in schedule.points)
    assert any(point.has_prompt for point in schedule.points)


def _fits(point: Point, context_length: int) -> bool:
    end = point.start + point.num_tokens + point.steps
    return point.start >= 0 < point.num_tokens and end <= context_length


@given(st.floats(1e-6, 1e-2), st.floats(1e-5, 0.1))
def test_rounds_fit_the_budget_unless_the_schedule_is_the_smallest(
    token_s: float, step_s: float
) -> None:
    smallest = make_schedule(COSTS, 2048, token_s=1e9, step_s=1e9, budget_s=1)
    schedule = make_schedule(COSTS, 2048, token_s, step_s, budget_s=12)
    assert schedule == smallest or _plain_seconds(schedule, token_s, step_s) <= 12


def _plain_seconds(schedule: Schedule, token_s: float, step_s: float) -> float:
    """Of one round."""
    seconds = 0.0
    for level in schedule.levels:
        for point in schedule.points:
            num_steps = point.steps + (point.num_tokens == 1)
            num_tokens = point.num_tokens if point.num_tokens > 1 else 0
            seconds += COSTS[level] * (num_tokens * token_s + num_steps * step_s)
    return seconds


def test_a_model_of_two_tokens_a_second_is_measured_within_the_budget() -> None:
    schedule = make_schedule(COSTS, 4096, token_s=0.25, step_s=0.5, budget_s=13.5)
    assert _plain_seconds(schedule, 0.25, 0.5) <= 13.5


def test_a_fast_model_gets_two_rounds_at_least() -> None:
    schedule = make_schedule(COSTS, 2048, token_s=1e-4, step_s=1e-3, budget_s=12)
    assert 2 * _plain_seconds(schedule, 1e-4, 1e-3) <= 12
    assert all(point.steps == ANSWER_STEPS for point in schedule.points)


def test_every_round_has_another_length_on_the_same_side_of_the_cliff() -> None:
    for point in make_schedule(COSTS, 2048, token_s=1e-4, step_s=1e-3, budget_s=12).points:
        if point.has_prompt:
            lengths = {point.varied(number, 2048).num_tokens for number in range(MAX_ROUNDS)}
            assert len(lengths) == MAX_ROUNDS
            assert {length < 64 for length in lengths} == {point.num_tokens < 64}
    assert Point(10, 50).varied(3, 60) == Point(13, 47)
