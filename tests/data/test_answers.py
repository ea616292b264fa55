"""Answers as numbers: the table of cases is the documentation of what counts as the same."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mdm.data.answers import final_answer, grade_number, parse_number, same_number, show_number

CASES = {
    "18": 18,
    " 18 ": 18,
    "18.0": 18,
    "72.": 72,
    "72!": 72,
    "007": 7,
    "0": 0,
    "-0": 0,
    ".5": Fraction(1, 2),
    "0.10": Fraction(1, 10),
    "1,234": 1234,
    "1,234,567": 1234567,
    "$18": 18,
    "18$": 18,
    "€ 5": 5,
    "$1,234.50": Fraction(2469, 2),
    "-3": -3,
    "- 3": -3,
    "\u22123": -3,
    "+7": 7,
    "-$5": -5,
    "$-5": -5,
    "50%": 50,
    "50 %": 50,
    "1/2": Fraction(1, 2),
    "-4/6": Fraction(-2, 3),
    "18 dollars": 18,
    "18 dollars.": 18,
    "20 percent": 20,
    "3 hours and a bit": 3,
    # No numbers.
    "": None,
    ".": None,
    "-": None,
    "$": None,
    "abc": None,
    "x = 5": None,
    "about 18": None,
    "1,23": None,
    "12,34,567": None,
    "1234,567": None,
    "1 234": None,
    "1.2.3": None,
    "1e5": None,
    "5k": None,
    "5km": None,
    "5 million": None,
    "2 dozen eggs": None,
    "2 and a half": None,
    "1 1/2": None,
    "1/0": None,
    "1/2/3": None,
    "--3": None,
    "-$-3": None,
    "3-2": None,
    "3 - 2": None,
    "18 or 19": None,
    "5 dollars and 50 cents": None,
    "5:30": None,
    "٣": None,
    "nan": None,
    "inf": None,
    "9" * 5000: None,
}


@pytest.mark.parametrize(("text", "value"), CASES.items(), ids=[text[:24] for text in CASES])
def test_table(text: str, value: int | Fraction | None) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<<1+1=2>> #### 2", "2"),
        ("#### 1 #### 2", "2"),
        ("####2\nQuestion: more", "2"),
        ("####\n 2", "2"),
        ("no marker 2", None),
        ("#### ", None),
        ("### 2", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_what_is_no_number_equals_nothing() -> None:
    assert not same_number("abc", "abc")
    assert same_number("0.5", "1/2")
    assert not same_number("0.333333", "1/3")


def test_grade() -> None:
    assert grade_number("1,234", "so #### $1234.00").correct
    assert grade_number("1,234", "so #### $1234.00").answer == "1234"
    assert not grade_number("18", "#### 81").correct
    assert grade_number("18", "#### blue").answer == "blue"
    assert grade_number("18", "18").answer is None
    assert not grade_number("", "#### 18").correct


@given(st.fractions())
def test_written_numbers_read_back(value: Fraction) -> None:
    written = show_number(value)
    if len(written) <= 100:
        assert parse_number(written) == value


@given(st.integers(-(10**12), 10**12))
def test_grouping_and_currency_change_nothing(value: int) -> None:
    assert parse_number(f"{value:,}") == value
    assert parse_number(f"${value:,}.00") == value


@given(st.text(alphabet=st.sampled_from("0123456789.,/-+$% ab#\n"), max_size=40))
def test_never_raises(text: str) -> None:
    grade_number("1", f"#### {text}")
