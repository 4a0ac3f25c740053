"""The text of a key is one for all forms of a value."""

from __future__ import annotations

from typing import Any

import pytest

from app.features.keys import text_key
from app.features.spec import FeatureSpec
from tests.support.samples import SPEC


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("user_id", 7, "7"),
        ("user_id", "7", "7"),
        ("user_id", 7.0, "7"),
        ("user_id", "7.0", "7"),
        ("user_id", 2**64 - 1, "18446744073709551615"),
        ("user_id", None, None),
        ("user_id", "\\N", None),
        ("user_id", 7.5, None),
        ("user_id", True, None),
        ("user_id", [7], None),
        ("user_id", {}, None),
        ("country", "DE", "DE"),
        ("country", 7, "7"),
        ("country", "", None),
        ("country", "\\N", None),
        ("unheard_of", "7.0", "7.0"),
        ("unheard_of", 7, "7"),
        ("unheard_of", 7.0, "7"),
        ("unheard_of", 7.5, None),
        ("unheard_of", True, None),
        ("age", 7, "7"),
    ],
)
def test_a_key_is_the_text_of_its_canonical_value(
    field: str, value: Any, expected: str | None
) -> None:
    """By the field's own rules; what is missing or no key has none, and raises nothing."""
    spec = FeatureSpec.parse(SPEC, "spec")
    assert text_key(spec, field)(value) == expected
