from hypothesis import given
from hypothesis import strategies as st

from pliant.tlm.windows import cut, deciding


@given(st.integers(0, 5000), st.integers(1, 300))
def test_windows_cover_the_text_once_and_evenly(count: int, room: int) -> None:
    windows = cut(count, room)
    assert [token for window in windows for token in window] == list(range(count))
    assert len(windows) == max(1, -(-count // room))
    lengths = [len(window) for window in windows]
    assert max(lengths) <= room
    assert max(lengths) - min(lengths) <= 1


def test_the_first_and_the_last_window_decide() -> None:
    assert [deciding(count) for count in (1, 2, 7)] == [[0], [0, 1], [0, 6]]
