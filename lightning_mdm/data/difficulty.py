"""The dial of the built-in word problems.

Knows nothing of how a story is told.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_STEPS = 6
OPERATIONS = "+-*/"


@dataclass(frozen=True)
class Difficulty:
    """How hard the built-in word problems are.

    Args:
        min_steps: fewest equations of a problem (1 to 6).
        max_steps: most equations of a problem (1 to 6).
        max_value: every number, given or computed, lies in [1, max_value].
        max_operand: every number a story gives lies in [1, max_operand], except for how many items people start with,
            which is at most twice that. At least 2, as * and / take nothing smaller.
        operations: which of ``+-*/`` the steps draw from; / is always exact. Beside them, joining two quantities adds,
            comparing them at the end subtracts and a sale multiplies.
        comparisons: probability that a step is told by comparison with a second person.
        branches: probability that a problem of three or more steps opens a second quantity that joins the first later.
        doubles: probability that a + or - step takes in two numbers (``16-3-4=9``).
        sales: probability that the last step turns items into dollars.
        distractors: probability that a sentence is followed by one that does not matter.

    Raises:
        ValueError: a value out of its range.
    """

    min_steps: int = 2
    max_steps: int = 3
    max_value: int = 20
    max_operand: int = 9
    operations: str = "+-*"
    comparisons: float = 0.3
    branches: float = 0.0
    doubles: float = 0.0
    sales: float = 0.0
    distractors: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= MAX_STEPS:
            raise ValueError(
                f"min_steps={self.min_steps}, max_steps={self.max_steps}: "
                f"need 1 <= min_steps <= max_steps <= {MAX_STEPS}"
            )
        if not self.operations or set(self.operations) - set(OPERATIONS):
            raise ValueError(f"operations={self.operations!r}: give one or more of {OPERATIONS}")
        if len(set(self.operations)) < len(self.operations):
            raise ValueError(f"operations={self.operations!r}: give each operation once")
        if self.max_value < 4 or self.max_operand < 2:
            raise ValueError(
                f"max_value={self.max_value}, max_operand={self.max_operand}: need max_value >= 4 and max_operand >= 2"
            )
        for name in ("comparisons", "branches", "doubles", "sales", "distractors"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: a probability lies between 0 and 1")
