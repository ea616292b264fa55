"""Calculator annotations taken apart, calculated exactly and written again."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mdm.data.equations import parse_equation, read_number, write_number

SIGNS = st.sampled_from(["+", "-", "*", "/"])
NUMBERS = st.sampled_from(["1", "2", "7", "40", "0.5", ".25", "12.50"])


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    """Arithmetic with brackets and signs in front."""
    if depth == 0 or draw(st.booleans()):
        return draw(NUMBERS)
    inside = f"{draw(expressions(depth - 1))}{draw(SIGNS)}{draw(expressions(depth - 1))}"
    return draw(st.sampled_from([inside, f"({inside})", f"-({inside})", f"({inside})*2"]))


@given(expressions())
def test_values_are_those_of_arithmetic(left: str) -> None:
    equation = parse_equation(left, "1")
    assert equation is not None
    exact = {f"F{i}": Fraction(operand) for i, operand in enumerate(equation.operands)}
    text = "".join(a + b for a, b in zip(equation.between, (*exact, ""), strict=True))
    try:
        expected = eval(text, {}, dict(exact))
    except ZeroDivisionError:
        expected = None
    value = equation.value([read_number(operand) for operand in equation.operands])
    assert value == expected
    assert value is None or isinstance(value, int) == (value.denominator == 1)
    assert equation.text(equation.operands, equation.result) == f"<<{left}=1>>"


@pytest.mark.parametrize(
    ("left", "right"),
    [("", "1"), ("2+", "2"), ("*2", "2"), ("(2", "2"), ("2)", "2"), ("()", "2"), ("2 3", "5"), ("2x", "4"),
     ("2(3)", "6"), ("(2)3", "6"), ("2", "x"), ("2", ""), ("2+*3", "5")],
)  # fmt: skip
def test_anything_else_is_no_equation(left: str, right: str) -> None:
    assert parse_equation(left, right) is None


@pytest.mark.parametrize(
    ("value", "like", "fixed", "text"),
    [
        (1200, "2,000", False, "1,200"), (1200, "2000", False, "1200"), (75, "5", False, "75"),
        (150, "144.00", False, "150.00"), (Fraction(1, 4), "0.2", False, "0.25"), (Fraction(3, 4), ".5", False, ".75"),
        (2, "0.5", False, "2"), (Fraction(9, 2), "3.75", False, "4.5"), (Fraction(9, 2), "3.75", True, "4.50"),
        (Fraction(1, 8), "0.2", False, None), (Fraction(1, 8), "0.125", False, "0.125"),
        (Fraction(1, 3), "2", False, None),
        (3, "12.50", True, "3.00"), (Fraction(3, 2), ".5", False, "1.5"), (0, "5", False, "0"), (0, ".5", False, "0"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_the_original(value: int | Fraction, like: str, fixed: bool, text: str | None) -> None:
    assert write_number(value, like, fixed=fixed) == text


@given(st.integers(0, 10**6), st.sampled_from([1, 10, 100]), st.sampled_from(["5", "1,234", ".5", "0.50", "2.125"]))
def test_what_is_written_reads_as_the_same_number(digits: int, scale: int, like: str) -> None:
    value = read_number(str(digits)) if scale == 1 else Fraction(digits, scale)
    text = write_number(value, like)
    assert text is not None
    assert read_number(text) == value
