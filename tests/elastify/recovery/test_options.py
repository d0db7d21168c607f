import pytest

from pliant.elastify.recovery.options import RecoveryOptions
from pliant.errors import ElastifyError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("rank", 257),
        ("alpha", 0),
        ("steps", 0),
        ("batch_tokens", 1),
        ("max_tokens", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("prompt_weight", -0.1),
        ("seed", -1),
        ("loss", "mse"),
        ("dtype", "f16"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ElastifyError, match=f"recovery: {field} is .*must be"):
        RecoveryOptions(**{field: value})  # type: ignore[arg-type]


def test_all_fields_tell_trainings_apart() -> None:
    assert RecoveryOptions().to_json().keys() == RecoveryOptions.__dataclass_fields__.keys()
