import pytest

from pliant.cli.output import format_bytes, format_count, format_duration, print_list


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (1024**3 - 1, "1.0 GiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_format_bytes(nbytes: int, text: str) -> None:
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (512, "512"), (12_300, "12.3 K"), (999_999, "1.0 M")]
)
def test_format_count(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (12_000, "3 h 20 min")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_print_list(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(("name", "size"), [("[b]one", "7"), ("\u4e2d\u6587", "1000")])
    assert capsys.readouterr().out == "name    size\n[b]one     7\n\u4e2d\u6587    1000\n"
