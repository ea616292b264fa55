"""Variants of word problems with other numbers: what changes together, what stays, and what is refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path

import pytest

from lightning_mdm.data import number_substitution
from lightning_mdm.data.equations import ANNOTATION, Number, parse_equation, read_number
from lightning_mdm.data.gsm8k import GSM8K
from lightning_mdm.data.number_ranges import Bounds, choices, result_bounds, roundness, same_side
from lightning_mdm.data.number_substitution import Template, drawn, plausible, substitute, template_of, write
from lightning_mdm.data.number_tracing import UntraceableError, trace
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.question_numbers import numerals
from runs import load_script

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real GSM8K files are not beside the repository")


def problem(prompt: str, response: str) -> Problem:
    return Problem(7, prompt, response, response.rpartition("#### ")[2])


CLIPS = problem(
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips?",
    "<<48/2=24>> <<48+24=72>> #### 72",
)
DISCOUNT = problem(
    "A ticket costs $2,000 and Travis gets 30% off. How much does he pay?",
    "<<2000*.3=600>> <<1-.3=0.7>> <<2000*0.7=1400>> #### 1400",
)
TIED = problem(
    "He buys 2 large pizzas and 2 small pizzas, of 16 and 8 slices. How many slices?",
    "<<2*16=32>> <<2*8=16>> <<32+16=48>> #### 48",
)
WORDS = problem("She runs 5 miles on six days. How many miles?", "<<5*6=30>> #### 30")
SHARE = problem("Jo has 40 eggs and eats 2/5 of them. How many are eaten?", "<<40*2/5=16>> #### 16")
PROBLEMS = [CLIPS, DISCOUNT, TIED, WORDS, SHARE]


def variants(of: Problem, n: int = 200) -> list[Problem]:
    return [variant for k in range(n) if (variant := substitute(of, 0, k)) is not None]


def calculated(text: str) -> list[tuple[list[int | Fraction], int | Fraction]]:
    """Operands and result of every equation, which must be right."""
    found = []
    for left, right in ANNOTATION.findall(text):
        equation = parse_equation(left, right)
        assert equation is not None
        operands = [read_number(operand) for operand in equation.operands]
        assert equation.value(operands) == read_number(right), text
        found.append((operands, read_number(right)))
    return found


@pytest.mark.parametrize("original", PROBLEMS, ids=lambda p: p.answer)
def test_every_variant_is_right_and_plausible(original: Problem) -> None:
    made = variants(original)
    assert len({variant.prompt for variant in made}) >= (50 if original is not CLIPS else 40)
    before = calculated(original.response)
    for variant in made:
        assert variant.prompt != original.prompt
        after = calculated(variant.response)
        assert after[-1][1] == read_number(variant.answer)
        assert variant.response.endswith(f" #### {variant.answer}")
        for (_, old), (_, new) in zip(before, after, strict=True):
            assert new > 0
            assert isinstance(new, int) or isinstance(old, Fraction)
            assert old / 6 <= new <= max(12, old * 6)
        texts = [n.text for n in numerals(variant.prompt)]
        assert len(texts) == len(numerals(original.prompt))
        assert variant.index == original.index


def test_the_original_numbers_give_the_original_back() -> None:
    for original in PROBLEMS:
        template = template_of(original.prompt, original.response, original.answer)
        values = [number.value for number in template.loose]
        assert plausible(template, values) is None, "it is no variant of itself"
        operands = [result for _, result in calculated(original.response)]
        assert write(template, values, operands, original) == original


def test_every_plausible_choice_is_drawn_and_no_other() -> None:
    """Against an enumeration of all choices."""
    small = problem("Al has 3 cats and 4 dogs. How many?", "<<3+4=7>> #### 7")
    template = template_of(small.prompt, small.response, small.answer)
    assert [number.value for number in template.loose] == [3, 4]
    possible = [sorted({v for choice in number.choices for v in choice} | {number.value}) for number in template.loose]
    assert possible == [list(range(2, 13)), list(range(2, 17))]
    expected = {
        f"Al has {a} cats and {b} dogs. How many?" for a, b in product(*possible) if (a, b) != (3, 4) and a + b <= 42
    }
    assert {variant.prompt for variant in variants(small, 6000)} == expected


def test_a_variant_depends_on_seed_and_number_alone() -> None:
    first = [substitute(CLIPS, 3, k) for k in range(30)]
    assert [substitute(CLIPS, 3, k) for k in reversed(range(30))] == first[::-1]
    assert [substitute(CLIPS, 4, k) for k in range(30)] != first
    assert len(set(first)) > 10
    other = [substitute(replace(CLIPS, index=8), 3, k) for k in range(30)]
    assert [v and v.prompt for v in other] != [v and v.prompt for v in first], "problems do not vary in step"


def test_negative_results_stay_negative() -> None:
    made = variants(problem("It is 3 degrees and gets 10 degrees colder.", "<<3-10=-7>> #### -7"))
    assert made
    for variant in made:
        warm, colder = (n.value for n in numerals(variant.prompt))
        assert calculated(variant.response) == [([warm, colder], warm - colder)]
        assert read_number(variant.answer) == warm - colder < 0


def test_percentages_stay_linked_to_what_was_made_of_them() -> None:
    for variant in variants(DISCOUNT):
        price, percent = (n.value for n in numerals(variant.prompt))
        (first, saved), (second, left), (third, paid) = calculated(variant.response)
        assert first == [price, Fraction(percent, 100)]
        assert (saved, second, left) == (price * percent / 100, [1, Fraction(percent, 100)], 1 - Fraction(percent, 100))
        assert (third, paid) == ([price, left], price - saved)
        assert 0 < percent < 100
    assert any("," in variant.prompt for variant in variants(DISCOUNT))


def test_equal_numbers_change_together() -> None:
    for variant in variants(TIED):
        large, small, _, _ = (n.value for n in numerals(variant.prompt))
        assert large == small


def test_a_result_that_equals_a_constant_may_be_either() -> None:
    """60 minutes of work in an hour of 60: no variant can tell which of the two is divided by which."""
    walls = problem("He paints 5 walls of 2 by 3 meters, a meter in 10 minutes. How many hours?",
                    "<<2*3=6>> <<6*10=60>> <<60/60=1>> <<5*1=5>> #### 5")  # fmt: skip
    found = variants(walls)
    assert found
    assert all(calculated(variant.response)[2] == ([60, 60], 1) for variant in found)


def test_of_them_is_no_more_than_all() -> None:
    found = variants(problem("Of 30 birds 20 of them eat 5 worms.", "<<30*2=60>> <<20*5=100>> <<60+100=160>> #### 160"))
    pairs = {tuple(n.value for n in numerals(variant.prompt))[:2] for variant in found}
    assert len(pairs) > 5
    assert all(some < every for every, some in pairs)


def test_where_sizes_are_compared_all_stay_on_their_side_of_a_number_that_stays() -> None:
    said = (
        "A bus holds up to 50 people. 20 boys and 10 girls get on.",
        "Up to 50 people: 20 boys and 10 girls get on.",
    )
    made = [variant for prompt in said for variant in variants(problem(prompt, "<<20+10=30>> #### 30"))]
    assert len(made) > 200
    for variant in made:
        places, boys, girls = (n.value for n in numerals(variant.prompt))
        assert places == 50
        assert girls < boys < boys + girls < places


def test_where_nothing_is_compared_a_number_that_stays_is_no_bound() -> None:
    made = variants(problem("He has 20 pens and 6 cups and buys 8 pens.", "<<20+8=28>> #### 28"))
    found = [[n.value for n in numerals(variant.prompt)] for variant in made]
    assert {cups for _, cups, _ in found} == {6}
    assert min(bought for *_, bought in found) < 6 < max(bought for *_, bought in found)


def test_an_answer_is_written_as_the_original_was() -> None:
    made = variants(problem("Of 50 eggs 20 are brown. What percentage?", "<<20/50*100=40>> #### 40%"))
    assert len(made) > 50
    assert all(variant.answer == f"{calculated(variant.response)[-1][1]}%" for variant in made)


def test_what_one_place_has_no_decimals_for_is_no_variant() -> None:
    """The result would be written with three decimals, and the operand that it is with two."""
    made = variants(problem("He shares 4 pies among 8 for 20 people.", "<<4/8=0.500>> <<0.5*20=10>> #### 10"))
    assert len(made) > 50
    assert all(100 * calculated(variant.response)[0][1] % 1 == 0 for variant in made)


def test_where_much_is_implausible_less_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def noted(template: Template, rng: random.Random, share: float) -> list[Number]:
        shares.append(share)
        return [number.value for number in template.loose]

    monkeypatch.setattr(number_substitution, "drawn", noted)
    assert substitute(CLIPS, 0, 0) is None
    assert shares[0] == 1.0
    assert shares == sorted(set(shares), reverse=True)
    assert 0.25 < shares[-1] < 0.3


def test_three_shares_that_make_up_a_whole_stay() -> None:
    """And are used as they were: as hundredths."""
    made = variants(problem("20% are boys, 30% girls and 50% adults, of 200. How many boys?", "<<200*.2=40>> #### 40"))
    assert len(made) > 10
    for variant in made:
        *shares, people = (n.value for n in numerals(variant.prompt))
        assert shares == [20, 30, 50]
        assert calculated(variant.response) == [([people, Fraction(1, 5)], people * Fraction(1, 5))]


def test_number_words_and_fractions() -> None:
    assert {numerals(v.prompt)[1].text for v in variants(WORDS)} >= {"two", "three", "five", "six", "seven"}
    assert all(numerals(v.prompt)[1].value <= 31 for v in variants(WORDS)), "days"
    shares = {(n[1].value, n[2].value) for v in variants(SHARE) if (n := numerals(v.prompt))}
    assert len(shares) > 10
    assert all(a < b <= 12 and Fraction(a, b).denominator == b for a, b in shares)


@pytest.mark.parametrize(
    ("prompt", "response", "kept"),
    [
        # A number that the equations do not use, and one that plays a second role.
        ("He is in grade 5 and has 20 pens, 6 of them red. He buys 8.", "<<20+8=28>> #### 28", [20, 8]),
        ("On May 8 he had 8 pens and bought 20.", "<<8+20=28>> #### 28", [20]),
        # "twice" is 2 as well, and so may the other 2 be.
        ("He has 2 cats, and twice as many of the 30 dogs.", "<<2*2=4>> <<30+4=34>> #### 34", [30]),
        ("He walks 7 miles a day for a week and 30 more.", "<<7*7=49>> <<49+30=79>> #### 79", [30]),
        # Shares of a whole, parts of a sum.
        ("40% are boys, 60% are girls, of 200. How many?", "<<40*200/100=80>> <<60*200/100=120>> #### 120", [200]),
        ("Of 50 pens 20 are red and the other 30 cost $2.", "<<50-20=30>> <<30*2=60>> #### 60", [2]),
        # A number from nowhere may be one of these and one more.
        ("His 5 friends and he pay $40 each.", "<<6*40=240>> #### 240", [40]),
        # A quarter of 32 in the head, which is also what a gallon has of something; a third of 90, and a month's days.
        ("A tank is 3/4 full. He adds 32 gallons and 50.", "<<32+8=40>> <<40+50=90>> #### 90", [50]),
        ("He earned twice what he paid in 5 months, $90 in all.", "<<90-30=60>> <<60/5=12>> #### 12", [5]),
        # Of 20 people one is left over, and no equation says so.
        ("Of 20 people 19 caught 400 fish each.", "<<400*19=7600>> #### 7600", [400]),
        # Ten percent in the head; two people that nobody counts, and six more than that.
        ("He pays a fee of 10% of 20 and 10 dollars, and $50.", "<<20+10=30>> <<30-3=27>> <<50-3=47>> #### 47", [50]),
        (
            "A date: tickets cost $10, a combo of 2 drinks $30.",
            "<<10*2=20>> <<20/2=10>> <<20+30=50>> #### 50",
            [10, 30],
        ),
        ("Jo, Al and Ed buy three more cups than 20.", "<<3*1=3>> <<20+3=23>> <<23+3=26>> #### 26", [20]),
        # The numbers of a fraction go together or not at all.
        ("He ate 3/4 of 40 pies. How many are left?", "<<40*1/4=10>> #### 10", [40]),
        ("He ate 3/4 of 40 pies.", "<<40*0.75=30>> #### 30", [40]),
        ("He has twice her 40 eggs and eats 2/5.", "<<40*2=80>> <<80*2/5=32>> #### 32", [40]),
        ("He has 5/4 of the 40 pies.", "<<40*5/4=50>> #### 50", [40]),
        ("One costs $1 and he buys 30.", "<<1*30=30>> #### 30", [30]),
        ("He ate 1/4 of 40 pies.", "<<40*1/4=10>> #### 10", [4, 40]),
        ("He ate 3/14 of the 28 pies.", "<<28*3/14=6>> #### 6", [28]),
        # One that may be the result instead, which would leave it unused; and a word that is used twice.
        ("Half of the 24 pens are red. The 12 cups cost $4 each.", "<<24/2=12>> <<12*4=48>> #### 48", [24, 4]),
        ("He runs 20 miles on six days, and bikes 30.", "<<6*20=120>> <<6*30=180>> <<120+180=300>> #### 300", [20, 30]),
        # Small parts and their sum may be chance.
        ("Of 9 pens 4 are red, and 5 others cost $20 each.", "<<9-4=5>> <<5*20=100>> #### 100", [9, 4, 20]),
        # Beside the people who are said: one less, one more than no equation uses.
        ("Of his 5 friends one is away; the others pay $40 each.", "<<4*40=160>> #### 160", [40]),
        ("She invited 20 people, and 21 came with 400 coins each.", "<<21*400=8400>> #### 8400", [400]),
        # A quarter, in the head, of what two equations have made of three numbers; and 60/20.
        (
            "Jo has 20 pens and loses 13, gets 5, breaks some, and buys 50.",
            "<<20-13=7>> <<7+5=12>> <<12-3=9>> <<9+50=59>> #### 59",
            [50],
        ),
        ("She has 60 figs and 20 nuts. He has bags for $7.", "<<60+20=80>> <<3*7=21>> <<80+21=101>> #### 101", [7]),
        # Of the two 60 one is a result, and the minutes of an hour come from nowhere else.
        (
            "He paints 5 walls of 2 by 3 meters, a meter in 10 minutes. How many hours?",
            "<<2*3=6>> <<6*10=60>> <<60/60=1>> <<5*1=5>> #### 5",
            [5, 10],
        ),
    ],
)
def test_what_must_not_change_stays(prompt: str, response: str, kept: list[int]) -> None:
    found = trace(prompt, response, response.rpartition("#### ")[2])
    assert list(found.kept) == kept
    original = problem(prompt, response)
    for variant in variants(original, 40):
        for old, new in zip(numerals(prompt), numerals(variant.prompt), strict=True):
            assert old.value == new.value or (old.value in kept and not old.fixed)


def test_one_reading_uses_up_more_than_the_other() -> None:
    """12 is the number of the question or the result: read otherwise, the result would be of no use."""
    found = trace("Of 24 pens he sells 12 for $4 each.", "<<24-12=12>> <<12*4=48>> #### 48", "48")
    assert [source.kind for source in found.readings[0][1]] == ["result", "number"]
    assert len(found.readings) == 1


def test_a_number_that_is_said_twice_is_used_twice() -> None:
    """Of the three operands one is the result, whichever; that two are would leave one 6 of the question unused."""
    found = trace("He has 6 pens and 6 cups and gets 3 twice.", "<<3*2=6>> <<6+6=12>> <<12+6=18>> #### 18", "18")
    kinds = [tuple(source.kind for source in (*reading[1], reading[2][1])) for reading in found.readings]
    assert sorted(kinds) == sorted(set(permutations(["result", "number", "number"])))
    assert found.kept == (6, 3)


def test_readings_have_to_agree() -> None:
    """Either 6 may be the number of the question, and the difference tells: both have to be the same again."""
    pens = problem("He has 6 pens and gets 3 twice.", "<<3*2=6>> <<6-2=4>> <<4+6=10>> #### 10")
    found = trace(pens.prompt, pens.response, pens.answer)
    assert len(found.readings) == 2
    made = variants(pens)
    assert made
    for variant in made:
        (_, result), (operands, _), _ = calculated(variant.response)
        assert result == operands[0] == numerals(variant.prompt)[0].value


@pytest.mark.parametrize(
    ("prompt", "response", "why"),
    [
        ("He has 3.", "#### 3", "no equations"),
        ("He has 3.", "<<3+x=4>> #### 4", "no plain arithmetic"),
        ("He has 10 and 3.", "<<10/3=3.33>> #### 3.33", "not exact"),
        ("He has 40 and 4.", "<<10=10>> #### 10", "calculates nothing"),
        ("He has 10 and 0.", "<<10/0=0>> #### 0", "not exact"),
        ("He has 3 and 4.", "Add: <<3+4=7>> #### 7", "more than equations"),
        ("He has 3 and 4.", "<<3+4=7>> #### 8", "not the result of one equation"),
        ("He has 3 and 4.", "<<3+4=7>> <<4+3=7>> <<7+4=11>> #### 7", "not the result of one equation"),
        ("He has some.", "<<3+4=7>> #### 7", "no number in the question"),
        ("He has 8 and eats 2. What share is it?", "<<2/8=0.25>> #### 1/4", "the answer is a fraction"),
        ("He has 300 and 4.", "<<300+57=357>> #### 357", "comes from nowhere"),
        ("Her 30 friends and she pay $40.", "<<31*40=1240>> #### 1240", "comes from nowhere"),
        ("It takes 1% of 400.", "<<400*.99=396>> #### 396", "comes from nowhere"),
        ("First 120% of 50, then 20% more.", "<<50*1.2=60>> #### 60", "comes from nowhere"),  # either percentage
        ("He has $44 in fives and 8.", "<<44/5=8.8>> <<8*5=40>> <<44-40=4>> #### 4", "may have been rounded"),
        ("He has 4 cats and 4 dogs.", "<<4+1=5>> #### 5", "traced into the equations"),
        ("Her 8 cats, 30 dogs and 70 pigs.", "<<30+70=100>> <<100*9=900>> #### 900", "comes from nowhere"),
        # Half of what is left, calculated in the head; it happens to be one more than 8.
        ("Two cost $8. Of 30 he sold 60/5.", "<<60/5=12>> <<8*9=72>> <<72+60=132>> #### 132", "comes from nowhere"),
        ("He has 2, 2 and 2.", " ".join(["<<2+2=4>> <<4-2=2>>"] * 4) + " <<2+2=4>> #### 4", "too many ways"),
    ],
)
def test_refusals_say_why(prompt: str, response: str, why: str) -> None:
    with pytest.raises(UntraceableError, match=why):
        template_of(prompt, response, response.rpartition("#### ")[2])
    assert substitute(problem(prompt, response), 0, 0) is None


def test_comparisons_keep_their_order() -> None:
    overtime = problem(
        "He is paid $18 an hour, and $9 more after 8 hours. He works 10 hours. How much over the limit?",
        "<<10-8=2>> <<2*9=18>> <<8*18=144>> <<18+144=162>> #### 162",
    )
    for variant in variants(overtime):
        values = [n.value for n in numerals(variant.prompt)]
        assert values[2] < values[1] < values[3] < values[0]


@pytest.mark.parametrize(
    ("value", "percent", "expected"),
    [(2000, False, (100, 0)), (120, False, (10, 0)), (100, False, (10, 0)), (7, False, (1, 0)), (20, False, (1, 0)),
     (15, True, (5, 0)), (Fraction(3, 2), False, (Fraction(1, 2), 0)),
     (Fraction(1299, 100), False, (1, Fraction(99, 100))),
     (Fraction(12, 5), False, (Fraction(1, 10), 0)),
     (Fraction(33, 4), False, (Fraction(1, 4), 0))],
)  # fmt: skip
def test_numbers_stay_as_round_as_they_are(value: int, percent: bool, expected: tuple[int, int]) -> None:
    assert roundness(value, percent) == expected


@pytest.mark.parametrize(
    ("question", "least", "most"),
    [
        ("He has 20 pens.", 5, 80),  # a quarter of it to four times as many
        ("Tom is 20 years old.", 14, 32),  # two thirds to half as many again and two more
        ("She works 20 minutes.", 5, 59),
        ("She works 90 minutes.", 23, 360),  # more than an hour has, as before
        ("He works 20 hours a week.", 5, 80),
        ("He works 5 days a week.", 2, 7),
        ("He works 7 days a week.", 2, 7),  # no more than there are
        ("This week he runs on 4 days.", 2, 7),
        ("The tree is 120 years old.", 30, 480),  # nobody is
        ("He gets 30% off.", 10, 95),
        ("It grows by 120%.", 30, 480),
    ],
)
def test_what_a_number_may_become(question: str, least: int, most: int) -> None:
    (found,) = numerals(question)
    may = {value for choice in choices([found], [], question) for value in choice}
    assert (min(may), max(may)) == (least, most)


def values_of(question: str) -> set[Number]:
    """What the one number of a question may become, however often it is said."""
    return {value for choice in choices(numerals(question), [], question) for value in choice}


def test_a_number_changes_as_all_its_mentions_may() -> None:
    assert values_of("He walks 6 miles on six days.") == {*range(2, 13), 20}, "in words, and no more than there are"
    assert all(value % 5 == 0 for value in values_of("He has 30 pens and gets 30% off."))
    assert values_of("He walks 1.5 miles.") == {Fraction(k, 2) for k in range(1, 13)} - {1}, "one mile, but two miles"


def test_what_a_result_may_become() -> None:
    assert result_bounds(3, []) == Bounds(1, 18, True)
    assert result_bounds(5, []) == Bounds(2, 30, True)
    assert result_bounds(-5, []) == Bounds(-30, -2, True)
    assert result_bounds(1, []) == Bounds(1, 12, True)
    assert result_bounds(Fraction(3, 2), []) == Bounds(Fraction(1, 4), 9, False)
    assert result_bounds(0, []) == Bounds(0, 0, True)
    assert [n for n in range(12) if same_side(5, [3, 9]).hold(n)] == [4, 5, 6, 7, 8]


def test_drawing_changes_something_and_may_change_little() -> None:
    template = template_of(TIED.prompt, TIED.response, TIED.answer)
    rng = random.Random(0)
    original = [number.value for number in template.loose]
    changed = Counter(sum(a != b for a, b in zip(drawn(template, rng, 0.0), original, strict=True)) for _ in range(300))
    assert set(changed) <= {0, 1}
    assert changed[1] > 200


@needs_real
def test_most_real_problems_have_fifty_variants() -> None:
    variants_of = load_script("gsm8k_scratch", "variants")
    data = GSM8K(str(REAL), vocab_size=600, measure_problems=10)
    sample = list(data.training().sample(0))[::70]
    assert len(sample) == 100
    assert variants_of.ENOUGH == 50
    assert sum(variants_of.count(original, 0) == 50 for original in sample) > 50
    for original in sample:
        for variant in variants(original, 3):
            calculated(variant.response)
            assert data.grade(variant, variant.response).correct
