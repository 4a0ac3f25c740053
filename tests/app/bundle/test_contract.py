"""Changes of a spec that break the requests of callers, and others that do not."""

from __future__ import annotations

import pytest

from app.bundle.contract import differences
from app.features.spec import FeatureSpec

SPEC = """\
label = "click"

[[fields]]
name = "user"
kind = "categorical"
side = "context"
dtype = "integer"

[[fields]]
name = "time"
kind = "time"
side = "context"
parts = ["hour"]

[[fields]]
name = "tags"
kind = "multi_categorical"
side = "candidate"

[[fields]]
name = "price"
kind = "numeric"
side = "candidate"
required = true
"""


def spec(*changes: tuple[str, str]) -> FeatureSpec:
    """The spec with some text replaced."""
    text = SPEC
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return FeatureSpec.parse(text)


NEW = '[[fields]]\nname = "new"\nkind = "numeric"\nside = "context"\n'


USER = 'kind = "categorical"\nside = "context"\ndtype = "integer"'
FIRST = '[[fields]]\nname = "user'


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ('"tags"', '"labels"', "field 'tags' is gone"),
        (USER, 'kind = "numeric"\nside = "context"', "is numeric instead of categorical"),
        ('"multi_categorical"', '"categorical"', "is categorical instead of multi_categorical"),
        ('dtype = "integer"', "", "field 'user' takes values of type string instead of integer"),
        ('candidate"\n\n', 'context"\n\n', "belongs to the context instead of the candidate"),
        ('dtype = "integer"', 'dtype = "integer"\nrequired = true', "field 'user' is required"),
        (FIRST, f"{NEW}required = true\n{FIRST}", "field 'new' is new and required"),
        ('["hour"]', '["hour"]\nformat = "%d.%m.%Y"', "has the format '%d.%m.%Y' instead of"),
        ('["hour"]', '["hour"]\ntimezone = "Europe/Rome"', "has the time zone Europe/Rome"),
        ('"tags"', '"tags"\ndynamic = true', "field 'tags' is dynamic"),
        (
            '"tags"',
            '"tags"\nnull_values = ["NA"]',
            "'tags' has the null values 'NA' instead of none",
        ),
    ],
)
def test_a_request_that_would_fail_or_mean_something_else_is_told(
    before: str, after: str, difference: str
) -> None:
    """Fields that are gone, of another kind, dtype or side, required, dynamic or read otherwise."""
    [found] = differences(spec(), spec((before, after)))
    assert difference in found


@pytest.mark.parametrize(
    "change",
    [
        ("required = true", ""),
        ('[[fields]]\nname = "user', f'{NEW}[[fields]]\nname = "user'),
        ('dtype = "integer"', 'dtype = "integer"\nmin_count = 9'),
        ('["hour"]', '["weekday"]'),
        ("required = true", 'required = true\nencoding = "log_squared"'),
        ('"tags"', '"tags"\nnull_values = []'),
    ],
    ids=["no longer required", "new and optional", "min_count", "parts", "encoding", "no nulls"],
)
def test_what_no_caller_notices_is_no_difference(change: tuple[str, str]) -> None:
    """Every request that was right before is right, with the same values."""
    assert differences(spec(), spec(change)) == []


def test_all_differences_are_told() -> None:
    """In the order of the served bundle's fields, new ones last."""
    found = differences(
        spec(), spec(('"user"', '"person"'), ('"multi_categorical"', '"categorical"'))
    )
    assert [each.split("'")[1] for each in found] == ["user", "tags"]
