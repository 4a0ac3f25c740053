"""The rules by which raw values become canonical, one by one."""

from __future__ import annotations

import math
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import ValueProblem
from app.features.canonical import (
    FLOAT32_BOUND,
    INTEGER_MAX,
    INTEGER_MIN,
    NUMBER_TEXT,
    boolean_key,
    float32_thresholds,
    integer_key,
    log_squared_key,
    log_squared_keys,
    number,
    seconds,
    string_key,
    time_parts,
)

UTC, BERLIN = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
NUMBERS = st.floats(min_value=-3.4e38, max_value=3.4e38)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (12345, 12345), ("12345", 12345), (12345.0, 12345), ("12345.0", 12345),
        ("12345.000", 12345), (0, 0), ("0", 0), (-0.0, 0), ("-0", 0), ("-0.0", 0),
        (-7, -7), ("-7", -7), (-7.0, -7), ("-7.00", -7), (1e3, 1000),
        (INTEGER_MIN, -(2**63)), (str(INTEGER_MIN), -(2**63)),
        (INTEGER_MAX, 2**64 - 1), (str(INTEGER_MAX), 2**64 - 1),
        (2**53 + 1, 2**53 + 1), (str(2**53 + 1), 2**53 + 1), (f"{2**53 + 1}.0", 2**53 + 1),
        (float(2**53 - 1), 2**53 - 1),
        ("5.", 5), ("-5.", -5), ("0.", 0), (f"{2**53 + 1}.", 2**53 + 1),
        ("1e+05", 100_000), ("1E5", 100_000), ("-1e05", -100_000), ("1.5e+3", 1500), ("5.e1", 50),
        ("100e-2", 1), ("0e7", 0), ("9e15", 9 * 10**15), ("1e00000000000000000002", 100),
    ],
)  # fmt: skip
def test_integer_has_one_key_in_every_form(value: Any, key: int) -> None:
    """Number and text of one integer are one key, exactly, to the ends of the range."""
    found = integer_key(value)
    assert found == key
    assert type(found) is int


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (True, "a boolean"), (False, "a boolean"), (12345.5, "fraction"), (math.nan, "fraction"),
        (math.inf, "fraction"), ("007", "text that is not"), (" 7", "text"), ("7 ", "text"),
        ("7\n", "text"), ("+7", "text"), ("abc", "text"), ("", "text"), (".", "text"),
        (".0", "text"), (".5", "text"), ("7.5", "text"), ("7.01", "text"), ("1_000", "text"),
        ("1e", "text"), ("e5", "text"), (".1e1", "text"), ("01e5", "text"), ("1e+-5", "text"),
        ("1d5", "text"), ("1e5.0", "text"), ("1e-1", "fraction"), ("1.25e+1", "fraction"),
        ("1e999", "fraction"), ("1e16", "not be exact"), ("1.23456789012346e+17", "not be exact"),
        ("0x1F", "text"), ("--7", "text"), ("-", "text"), ("\u0667", "text"), ("7,0", "text"),
        ("true", "text"), ("00", "text"), ("-01", "text"), ("9" * 400, "text"),
        (INTEGER_MIN - 1, "out of range"), (str(INTEGER_MIN - 1), "out of range"),
        (INTEGER_MAX + 1, "out of range"), (str(INTEGER_MAX + 1), "out of range"),
        (float(2**53), "not be exact"), (-float(2**53), "not be exact"), (1e300, "not be exact"),
        (None, "null"), ([], "a list"), ([7], "a list"), ({}, "an object"),
    ],
)  # fmt: skip
def test_integer_refuses_other_values(value: Any, problem: str) -> None:
    """Anything else is an error that says what came, and never shows the value."""
    with pytest.raises(ValueProblem, match=problem) as caught:
        integer_key(value)
    assert len(str(caught.value)) < 80


@given(st.integers(INTEGER_MIN, INTEGER_MAX))
def test_integer_text_round_trips(value: int) -> None:
    """No integer of the range passes through a float on its way."""
    assert integer_key(value) == integer_key(str(value)) == integer_key(f"{value}.0") == value


@given(st.integers(-(2**53) + 1, 2**53 - 1), st.integers(0, 16))
def test_an_exponent_counts_as_its_json_number(value: int, places: int) -> None:
    """Text with an exponent has the key, or the problem, of the number that it spells."""
    text = f"{value:.{places}e}"

    def outcome(raw: Any) -> int | str:
        try:
            return integer_key(raw)
        except ValueProblem as problem:
            return str(problem)

    assert outcome(text) == outcome(float(text))


@pytest.mark.parametrize(
    "text", ["0", "-0", ".5", "-.5", "5.", "5.e1", "1e+05", "1E5", "1.5e-05", "007", "12345.678"]
)
def test_text_of_a_number(text: str) -> None:
    """Forms in which R, SAS and Oracle write numbers are number text."""
    assert NUMBER_TEXT.fullmatch(text)
    float(text)


@pytest.mark.parametrize(
    "text", ["", ".", "-", "-.", "e5", ".e5", "1e", "1e+", "+1", " 1", "1 ", "1_0", "1,5", "0x1",
             "nan", "inf", "1d5", "1e5.", "\u0661", "1\n"],
)  # fmt: skip
def test_other_text_is_no_number(text: str) -> None:
    """Anything that is no plain decimal number is left to the field's rules as text."""
    assert not NUMBER_TEXT.fullmatch(text)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("", ""), (" a ", " a "), ("A", "A"), ("é", "é"), ("e\u0301", "e\u0301"), ("NA", "NA"),
        ("1.0", "1.0"), ("007", "007"), (7, "7"), (-7, "-7"), (INTEGER_MAX, str(2**64 - 1)),
        (INTEGER_MIN, str(-(2**63))), ("\x00", "\x00"),
    ],
)  # fmt: skip
def test_text_is_kept_byte_for_byte(value: Any, key: str) -> None:
    """No trimming, no folding; an integer is its decimal text."""
    assert string_key(value) == key


@pytest.mark.parametrize(
    ("value", "problem"),
    [(True, "a boolean"), (1.0, "fraction"), (None, "null"), (["a"], "a list"), ({}, "object"),
     (2**64, "out of range"), (-(2**63) - 1, "out of range")],
)  # fmt: skip
def test_text_refuses_other_types(value: Any, problem: str) -> None:
    """A boolean, a float, a list and an object are no text."""
    with pytest.raises(ValueProblem, match=problem):
        string_key(value)


@pytest.mark.parametrize(
    ("value", "key"),
    [(True, "true"), (False, "false"), ("true", "true"), ("True", "true"), ("TRUE", "true"),
     ("false", "false"), ("False", "false"), ("FALSE", "false"), ("fAlSe", "false")],
)  # fmt: skip
def test_a_boolean_has_one_key_in_every_form(value: Any, key: str) -> None:
    """A JSON boolean, and its text in any case."""
    assert boolean_key(value) == key


@pytest.mark.parametrize(
    ("value", "problem"),
    [("", "other text"), ("yes", "other text"), ("1", "other text"), (" true", "other text"),
     (1, "an integer"), (0.0, "fraction"), (None, "null"), ([True], "a list"), ({}, "object")],
)  # fmt: skip
def test_a_boolean_is_no_number(value: Any, problem: str) -> None:
    """1 and 0 are not true and false, as true is not 1."""
    with pytest.raises(ValueProblem, match=problem):
        boolean_key(value)


@pytest.mark.parametrize("value", [0, -1, 3.5, -0.0, 2**63, 10**38, 3.4028234e38, -3.4028234e38])
def test_number_is_a_json_number(value: Any) -> None:
    """Integers and floats are numbers as they are."""
    assert number(value) == float(value)
    assert type(number(value)) is float


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("1", "got text"), ("", "got text"), (True, "a boolean"), (None, "null"), ([1], "a list"),
        ({}, "an object"), (math.nan, "not finite"), (math.inf, "out of range"),
        (-math.inf, "out of range"), (FLOAT32_BOUND, "out of range"), (10**39, "out of range"),
        (10**400, "out of range"), (-(10**400), "out of range"),
    ],
)  # fmt: skip
def test_number_refuses_what_is_none(value: Any, problem: str) -> None:
    """Text and booleans are no numbers, and what float32 cannot hold is refused."""
    with pytest.raises(ValueProblem, match=problem):
        number(value)


def test_number_bound_is_float32s_own() -> None:
    """The largest number accepted is the last one that rounds to a finite float32."""
    last = math.nextafter(FLOAT32_BOUND, 0)
    assert number(last) == last
    with np.errstate(over="ignore"):
        assert np.isfinite(np.float32(last))
        assert np.isinf(np.float32(FLOAT32_BOUND))


def neighbours(value: float) -> list[float]:
    """A float64 and those on both sides of it."""
    return [math.nextafter(value, -math.inf), value, math.nextafter(value, math.inf)]


@given(FLOAT32.filter(lambda edge: abs(edge) < 3.4e38), NUMBERS)
@example(0.0, -0.0)
@example(1.0, 1.0 - 2**-25)
@example(1.0 + 2**-23, 1.0 + 2**-24)
@example(1.401298464324817e-45, 7.006492321624085e-46)
def test_thresholds_replace_the_rounding(edge: float, value: float) -> None:
    """float32(x) >= edge exactly if x >= threshold: anywhere, at ties and beside them."""
    edge32 = np.float32(edge)
    (threshold,) = float32_thresholds(np.array([edge32])).tolist()
    below = np.nextafter(edge32, np.float32(-np.inf), dtype=np.float32)
    tie = (float(edge32) + float(below)) / 2
    for x in [value, *neighbours(tie), *neighbours(threshold), *neighbours(float(edge32))]:
        assert (np.float32(x) >= edge32) == (x >= threshold), x


@given(st.lists(NUMBERS | st.floats(-50, 50) | st.sampled_from([2.0, -0.0, 1e-300]), max_size=20))
def test_log_squared_of_one_is_that_of_many(values: list[float]) -> None:
    """The scalar and the columnar path give one key for one number."""
    many = log_squared_keys(np.array(values, np.float64)).tolist()
    assert many == [log_squared_key(value) for value in values]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (0.0, 0), (1.0, 1), (1.9, 1), (2.0, 2), (-1.0, -1), (-0.5, 0), (-2.7, -2), (-300.0, -300),
        (2.1, 0), (2.718, 0), (2.719, 1), (3.0, 1), (4.0, 1), (4.2, 2), (10.0, 5), (100.0, 21),
        (1e6, 190), (3.4e38, 7871), (-1e30, -(2**63)), (2.0000001, 2), (2.0000002, 0),
    ],
)  # fmt: skip
def test_log_squared_values(value: float, key: int) -> None:
    """floor(ln(x)²) above two, else the integer part toward zero, of the float32."""
    assert log_squared_key(value) == key


@given(st.floats(min_value=2.1, max_value=3.4e38))
def test_log_squared_is_its_formula(value: float) -> None:
    """The table of thresholds gives what the formula gives for float32(x)."""
    assert log_squared_key(value) == math.floor(math.log(float(np.float32(value))) ** 2)


@pytest.mark.parametrize(
    "value",
    [
        1_700_000_000, 1_700_000_000.9, "1700000000", "1700000000.0",
        "1700000000.9", "2023-11-14T22:13:20",
        "2023-11-14 22:13:20.999", "2023-11-14T22:13:20Z", "2023-11-15T00:13:20+02:00",
        "1700000000.", "1.7e9", "1.7E+09",
        "2023-11-14 22:13:20 UTC", "2023-11-14 22:13:20.5 UTC", "2023-11-14T22:13:20UTC",
        "2023-11-14 22:13:20 GMT", "2023-11-14 22:13:20 Z", "2023-11-14 22:13:20+00",
        "2023-11-15 00:13:20 +0200", "2023-11-15 00:13:20.000 +0200", "2023-11-15T00:13:20 +02:00",
        "20231114T221320Z", "2023-W46-2T22:13:20",
    ],
)  # fmt: skip
def test_one_moment_has_many_forms(value: Any) -> None:
    """Seconds, their text and ISO 8601 with and without an offset are one moment."""
    assert seconds(value, UTC) == 1_700_000_000


def test_fractions_go_down_before_1970_too() -> None:
    """A fraction of a second belongs to the second that it is part of."""
    assert seconds(-0.5, UTC) == seconds("-0.5", UTC) == -1
    assert seconds("1969-12-31T23:59:59.5", UTC) == -1


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2024-01-15T12:00:00", 1_705_316_400),
        ("2024-07-15T12:00:00", 1_721_037_600),
        ("2024-07-15", 1_720_994_400),
        # Clocks skip 02:30 here: it counts by the offset before the change.
        ("2024-03-31T02:30:00", 1_711_848_600),
        # Clocks repeat 02:30 here: the first one is meant.
        ("2024-10-27T02:30:00", 1_729_989_000),
    ],
)
def test_text_without_offset_is_local(text: str, second: int) -> None:
    """Text without an offset is local time of the field's zone, summer and winter."""
    assert seconds(text, BERLIN) == second


def test_utc_after_a_time_is_not_the_fields_zone() -> None:
    """Text that ends in UTC is in UTC whatever zone the field has, a date alone too."""
    for text in ("2014-10-21 13:00:00 UTC", "2014-10-21T13 UTC", "2014-10-21 13:00 GMT"):
        assert seconds(text, BERLIN) == 1_413_896_400
    assert seconds("2014-10-21 UTC", BERLIN) == 1_413_896_400 - 13 * 3600


@pytest.mark.parametrize(
    ("text", "text_format"),
    [
        ("21/Oct/2014:15:00:00 +0200", "%d/%b/%Y:%H:%M:%S %z"),
        ("[21/Oct/2014:15:00:00 +0200]", "[%d/%b/%Y:%H:%M:%S %z]"),
        ("2014-10-21 06:00:00-07:00", "%Y-%m-%d %H:%M:%S%z"),
        ("2014-10-21 13:00:00Z", "%Y-%m-%d %H:%M:%S%z"),
    ],
)
def test_an_offset_in_a_format_is_obeyed(text: str, text_format: str) -> None:
    """``%z``, as in the logs of Apache and nginx, goes before the field's zone."""
    for zone in (UTC, BERLIN):
        assert seconds(text, zone, text_format) == 1_413_896_400


def test_parts_are_local() -> None:
    """Parts are those of the local date; an hour apart at a change of clocks."""
    parts = ("year", "month", "day", "weekday", "hour")
    assert time_parts(1_711_846_799, BERLIN, parts) == (2024, 3, 31, 6, 1)
    assert time_parts(1_711_846_800, BERLIN, parts) == (2024, 3, 31, 6, 3)
    assert time_parts(1_711_846_800, UTC, parts) == (2024, 3, 31, 6, 1)
    assert time_parts(-1, UTC, parts) == (1969, 12, 31, 2, 23)


def test_format_describes_text() -> None:
    """With a format, text and the JSON integer of the same digits are that local time."""
    assert seconds("14102100", UTC, "%y%m%d%H") == seconds(14102100, UTC, "%y%m%d%H")
    assert seconds("14102113", UTC, "%y%m%d%H") == 1_413_896_400
    assert seconds("14102113", BERLIN, "%y%m%d%H") == 1_413_896_400 - 7_200
    for value in ("2014-10-21", "14102125", 1.0, True):
        with pytest.raises(ValueProblem):
            seconds(value, UTC, "%y%m%d%H")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1_700_000_000_000, "out of range"), ("1700000000000", "out of range"),
        (253_402_300_800, "out of range"), (-62_135_596_801, "out of range"),
        (math.nan, "out of range"), (math.inf, "out of range"), (10**400, "out of range"),
        (True, "a boolean"), ([], "a list"), ("", "ISO 8601"), ("yesterday", "ISO 8601"),
        (" 1700000000", "ISO 8601"), ("2024-02-30", "ISO 8601"), ("12:30", "ISO 8601"),
        ("2014-10-21+02:00", "ISO 8601"), ("20141021-0700", "ISO 8601"), ("UTC", "ISO 8601"),
        ("2014-10-21 +02:00", "ISO 8601"), ("2014-W43-2+02", "ISO 8601"), ("1.7e12", "range"),
        ("2014-10-21 13:00:00 CEST", "ISO 8601"), ("2014-10-21 13:00 +02:00 UTC", "ISO 8601"),
        ("1e400", "range"), ("01.", "ISO 8601"),
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused(value: Any, problem: str) -> None:
    """Milliseconds, other text and other types are errors."""
    with pytest.raises(ValueProblem, match=problem):
        seconds(value, UTC)


@pytest.mark.parametrize("second", [253_402_300_799, -62_135_596_800])
def test_ends_of_the_calendar(second: int) -> None:
    """The years 1 and 9999 are in range; what a zone pushes out of them is refused."""
    assert time_parts(seconds(second, UTC), UTC, ("year",)) in {(1,), (9999,)}
    zone = ZoneInfo("Asia/Tokyo" if second > 0 else "America/New_York")
    with pytest.raises(ValueProblem, match="out of range"):
        time_parts(second, zone, ("year",))
