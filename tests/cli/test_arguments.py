"""Options that may stand alone, and those with two values."""

import pytest

from pliant.cli.arguments import with_implied, with_pairs


@pytest.mark.parametrize(
    ("args", "completed"),
    [
        ("--ray", "--ray auto"),
        ("x --ray --out y", "x --ray auto --out y"),
        ("--ray host:1 x", "--ray host:1 x"),
        ("--ray=host:1 --other", "--ray=host:1 --other"),
        ("--other --x", "--other --x"),
    ],
)
def test_an_option_that_stands_alone_gets_its_value(args: str, completed: str) -> None:
    assert with_implied(args.split(), {"--ray": "auto"}) == completed.split()


@pytest.mark.parametrize(
    ("args", "completed"),
    [
        ("x --marker a b y", "x --marker=a --marker=b y"),
        ("--marker a b --marker c d", "--marker=a --marker=b --marker=c --marker=d"),
        ("--marker=a b y", "--marker=a --marker=b y"),
        ("--marker --x -- y", "--marker=--x --marker=-- y"),
        ("--marker a", "--marker=a"),
        ("--marker", "--marker"),
        ("-- --marker a b", "-- --marker a b"),
        ("--markers a b", "--markers a b"),
    ],
)
def test_two_values_become_two_options(args: str, completed: str) -> None:
    assert with_pairs(args.split(), {"--marker"}) == completed.split()
