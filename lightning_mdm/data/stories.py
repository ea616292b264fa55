"""Word problems told step by step: a small graph of exact integer steps as an English story.

Quantities change, are compared between people, branch off and join again. Knows nothing of splits, tokens or models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.wordings import (
    CHANGES,
    COMPARISONS,
    DISTRACTORS,
    DOUBLE_CHANGES,
    ITEMS,
    JOINS,
    MEN,
    SALES,
    STARTS,
    WOMEN,
)


@dataclass(frozen=True)
class Quantity:
    """How many items somebody has at a point of the story."""

    owner: str  # a name, or "Anna and Ben" after a join
    value: int
    depth: int  # dependent steps behind the value


@dataclass
class Story:
    """A problem while it is being told."""

    rng: random.Random
    item: str  # singular
    people: list[str]  # not yet in the story
    sentences: list[str] = field(default_factory=list)
    equations: list[str] = field(default_factory=list)
    mentioned: str = ""  # whom a pronoun of the next sentence would mean; nobody where that is not clear
    distractors: list[str] = field(default_factory=lambda: list(DISTRACTORS))  # not yet told

    def add(self, template: str, *, subject: str = "", mentioned: str | None = None, **words: object) -> None:
        """Tell one sentence about ``subject``; ``mentioned`` is who a pronoun may mean next (default: the subject)."""
        plural = " and " in subject
        pronoun, objective = ("they", "them") if plural else ("she", "her") if subject in WOMEN else ("he", "him")
        known = subject == self.mentioned
        many = f"{self.item}s"
        items = self.item if words.get("c") == 1 else many
        text = template.format(
            item=self.item,
            i=items,
            p=many,
            m="" if known else f" {items}",
            T="them" if known else f"the {many}",
            S=pronoun if known and self.rng.random() < 0.75 else subject,
            O=objective if known else subject,
            s="" if plural else "s",
            has="have" if plural else "has",
            **words,
        )
        self.sentences.append(text[0].upper() + text[1:])
        # A friend who brings something could be "she" as well.
        self.mentioned = ("" if "{O}" in template else subject) if mentioned is None else mentioned

    def distract(self, difficulty: Difficulty) -> None:
        """Perhaps one sentence that does not matter; what follows it names its subject again."""
        if self.distractors and self.rng.random() < difficulty.distractors:
            template = self.distractors.pop(self.rng.randrange(len(self.distractors)))
            text = template.format(
                X=self.rng.choice(self.people) if self.people else "The shopkeeper",
                k=self.rng.randint(2, min(difficulty.max_operand, difficulty.max_value)),
                j=self.rng.choice([f"{item}s" for item in ITEMS if item != self.item]),
            )
            self.sentences.append(text)
            self.mentioned = ""

    def solve(self, operation: str, *operands: int) -> int:
        """Write the equation that applies ``operation`` from left to right; returns its result."""
        value = operands[0]
        for operand in operands[1:]:
            value = apply(operation, value, operand)
        self.equations.append(f"<<{operation.join(map(str, operands))}={value}>>")
        return value


def apply(operation: str, a: int, b: int) -> int:
    """``a operation b`` for one of ``+-*/``, division exact."""
    if operation == "+":
        return a + b
    if operation == "-":
        return a - b
    if operation == "*":
        return a * b
    quotient, rest = divmod(a, b)
    assert rest == 0, "the generator divides exactly"
    return quotient


def choices(value: int, difficulty: Difficulty) -> list[tuple[str, list[int] | range]]:
    """The operations open to ``value``, each with its operands, never none."""
    top, most = difficulty.max_operand, difficulty.max_value
    spans: dict[str, list[int] | range] = {
        "+": range(1, min(top, most - value) + 1),
        "-": range(1, min(top, value - 1) + 1),
        "*": range(2, min(top, most // value) + 1),
        "/": [c for c in range(2, min(top, value) + 1) if value % c == 0] if "/" in difficulty.operations else [],
    }
    return [(operation, spans[operation]) for operation in difficulty.operations if spans[operation]]


def begin(story: Story, difficulty: Difficulty) -> Quantity:
    """Somebody and a number of items."""
    owner = story.people.pop()
    value = story.rng.randint(2, min(difficulty.max_value - 1, 2 * difficulty.max_operand))
    story.add(story.rng.choice(STARTS), N=owner, c=value, mentioned=owner)
    story.distract(difficulty)
    return Quantity(owner, value, 0)


def extend(story: Story, quantity: Quantity, steps: int, difficulty: Difficulty) -> Quantity | None:
    """``steps`` more steps on ``quantity``; ``None`` where its value leaves no operation open."""
    for _ in range(steps):
        open_to_it = choices(quantity.value, difficulty)
        if not open_to_it:
            return None
        quantity = step(story, quantity, *story.rng.choice(open_to_it), difficulty)
        story.distract(difficulty)
    return quantity


def step(
    story: Story, quantity: Quantity, operation: str, operands: list[int] | range, difficulty: Difficulty
) -> Quantity:
    """A change of ``quantity``, or a second person compared with its owner."""
    rng, owner = story.rng, quantity.owner
    c = rng.choice(operands)
    rest = operands[-1] - c
    if operation in DOUBLE_CHANGES and rest >= 1 and rng.random() < difficulty.doubles:
        d = rng.randint(1, rest)
        story.add(rng.choice(DOUBLE_CHANGES[operation]), subject=owner, c=c, d=d)
        return Quantity(owner, story.solve(operation, quantity.value, c, d), quantity.depth + 1)
    if story.people and " and " not in owner and rng.random() < difficulty.comparisons:
        other = story.people.pop()
        # "He" after a sentence about two men could be either.
        clear = (other in WOMEN) != (owner in WOMEN)
        story.add(rng.choice(COMPARISONS[operation]), N=other, M=owner, c=c, mentioned=other if clear else "")
        owner = other
    else:
        story.add(rng.choice(CHANGES[operation]), subject=owner, c=c)
    return Quantity(owner, story.solve(operation, quantity.value, c), quantity.depth + 1)


def join(story: Story, first: Quantity, second: Quantity, difficulty: Difficulty) -> Quantity | None:
    """Both quantities together; ``None`` where they are too many."""
    if first.value + second.value > difficulty.max_value:
        return None
    together = f"{first.owner} and {second.owner}"
    story.add(story.rng.choice(JOINS), A=first.owner, B=second.owner, mentioned=together)
    return Quantity(together, story.solve("+", first.value, second.value), max(first.depth, second.depth) + 1)


def sell(story: Story, quantity: Quantity, difficulty: Difficulty) -> Quantity | None:
    """The quantity in dollars; ``None`` where no price is low enough."""
    high = min(difficulty.max_operand, difficulty.max_value // quantity.value)
    if high < 2:
        return None
    price = story.rng.randint(2, high)
    story.add(story.rng.choice(SALES), subject=quantity.owner, c=price)
    return Quantity(quantity.owner, story.solve("*", quantity.value, price), quantity.depth + 1)


def tell(rng: random.Random, difficulty: Difficulty) -> tuple[Story, Quantity] | None:
    """One story and the quantity asked for; ``None`` where the drawn numbers leave no way to go on."""
    story = Story(rng, rng.choice(ITEMS), rng.sample(WOMEN + MEN, 8))
    steps = rng.randint(difficulty.min_steps, difficulty.max_steps)
    sale = rng.random() < difficulty.sales
    # A branch needs a step of its own and the step that joins it.
    branch = steps - sale >= 3 and rng.random() < difficulty.branches
    own = steps - sale - branch
    second_steps = rng.randint(1, own - 1) if branch else 0
    before = rng.randint(1, own - second_steps) if branch else own

    quantity = extend(story, begin(story, difficulty), before, difficulty)
    if branch and quantity is not None:
        first, second = quantity, extend(story, begin(story, difficulty), second_steps, difficulty)
        if second is None:
            return None
        after = own - second_steps - before
        if after == 0 and not sale and first.value > second.value and rng.random() < 0.5:
            story.sentences.append(f"How many more {story.item}s does {first.owner} have than {second.owner}?")
            difference = story.solve("-", first.value, second.value)
            return story, Quantity(first.owner, difference, max(first.depth, second.depth) + 1)
        joined = join(story, first, second, difficulty)
        quantity = joined and extend(story, joined, after, difficulty)
    if sale and quantity is not None:
        quantity = sell(story, quantity, difficulty)
    if quantity is None:
        return None
    do = "do" if " and " in quantity.owner else "does"
    asked = f"How many dollars {do} {quantity.owner} get?"
    story.sentences.append(asked if sale else f"How many {story.item}s {do} {quantity.owner} have now?")
    return story, quantity
