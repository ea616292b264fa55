"""The numbers of a question: what may change, what stays, and what words bring along."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lightning_mdm.data.question_numbers import constants, numerals, rewritten, spoken_with_vowel


@pytest.mark.parametrize(
    ("question", "loose", "fixed"),
    [
        ("Tom has 4 apples and 1,200.50 dollars.", ["4", "1,200.50"], []),
        ("He pays $.75, 5% of 20kg and a 12-foot rope.", [".75", "5", "20", "12"], []),
        ("It is 7:30 on June 5, 2021; the 3rd of 4 is in grade 6.", ["4"], ["7", "30", "5", "2021", "3", "6"]),
        ("He ate 3/4 of 2 1/2 pies at 5 pm.", ["3", "4"], ["2", "1", "2", "5"]),
        ("The ratio 2:3 and 1 of 0 and 3 million.", [], ["2", "3", "1", "0", "3"]),
        ("These 3 scores and the 40 boys and all 4 of them.", ["40"], ["3", "4"]),
        ("It went on for six days, three times as long as her two friends'.", ["six", "three"], []),
        ("A $2000 car of 2000", ["2000"], ["2000"]),
        ("A 1950 hat and 1,950 pens", ["1,950"], ["1950"]),
        ("He ate 5/12 of it, not 5/13.", ["5", "12", "5"], ["13"]),
        ("A 1990s 3D set, 1/4th, 20 to 30, 5 x 7", [], ["1990", "3", "1", "4", "20", "30", "5", "7"]),
    ],
)
def test_which_numbers_may_change(question: str, loose: list[str], fixed: list[str]) -> None:
    found = numerals(question)
    assert [n.text for n in found if not n.fixed] == loose
    assert [n.text for n in found if n.fixed][: len(fixed)] == fixed
    assert all(question[n.start : n.end] == n.text for n in found)


def test_what_stands_around_a_number() -> None:
    percent, price, days = numerals("5% of $12.50 on 4 days a week")
    assert (percent.percent, price.price, days.unit, days.per) == (True, True, "days", "week")
    above, below, spoken = numerals("3/4 of Three hours")
    assert (above.part, below.part, spoken.part, spoken.spoken) == ("above", "below", "", True)
    assert price.written(Fraction(21, 2)) == "10.50"
    assert numerals("$12.99")[0].written(Fraction(21, 2)) == "10.50"
    assert (spoken.written(7), spoken.written(23)) == ("Seven", None)


def test_what_words_bring_along() -> None:
    found = constants("Twice a week she takes half a dozen of the twenty-five eggs, two-thirds of them in three days.")
    for value in (2, Fraction(1, 2), 12, 25, 3, Fraction(2, 3), Fraction(1, 3)):
        assert found.said[value] > 0, value
    assert {7, 52, 1} <= found.possible
    assert not constants("He has 3 cats.").said
    assert 60 not in constants("He has 3 cats.").possible
    # Of these, "three days" is a quantity of its own.
    assert constants("in three days").said[3] == 0
    assert {100, Fraction(1, 100)} <= constants("5% of it").possible


def test_articles_go_with_the_number() -> None:
    question = "a 5-hour walk, an 8-hour walk and a $9 coat"
    texts = ["11", "12", "80"]
    assert (
        rewritten(question, zip(numerals(question), texts, strict=True))
        == "an 11-hour walk, a 12-hour walk and an $80 coat"
    )
    assert rewritten("A 5-hour walk", [(numerals("A 5-hour walk")[0], "11")]) == "An 11-hour walk"
    assert rewritten(question, []) == question
    assert [n for n in range(1, 120) if spoken_with_vowel(str(n))] == [8, 11, 18, *range(80, 90)]
    assert spoken_with_vowel("8,000")
    assert spoken_with_vowel("11,000")
    assert not spoken_with_vowel("110")
