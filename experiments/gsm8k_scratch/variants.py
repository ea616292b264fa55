"""How many variants the training problems of GSM8K have, why some have none, and what variants look like.

python experiments/gsm8k_scratch/variants.py --path path/to/gsm8k [--problems N] [--show 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Sequence

from lightning_mdm.data.gsm8k import GSM8K
from lightning_mdm.data.number_substitution import substitute, template_of
from lightning_mdm.data.number_tracing import UntraceableError
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.question_numbers import numerals

ENOUGH, DRAWS = 50, 200


def count(problem: Problem, seed: int) -> int:
    """How many different variants the first draws give, up to what is enough."""
    found: set[str] = set()
    for k in range(DRAWS):
        variant = substitute(problem, seed, k)
        if variant is not None:
            found.add(variant.prompt)
        if len(found) == ENOUGH or (k == DRAWS // 10 and not found):
            break
    return len(found)


def kind(problem: Problem, seed: int) -> str:
    """The line of the table that a problem belongs to."""
    try:
        template_of(problem.prompt, problem.response, problem.answer)
    except UntraceableError as error:
        return str(error)
    found = count(problem, seed)
    return "no other numbers are plausible" if not found else f"1 to {ENOUGH - 1} variants" if found < ENOUGH else ""


def shown(problem: Problem, variant: Problem) -> str:
    """A variant with the original's numbers in brackets, and its equations."""
    pieces, place = [], 0
    for old, new in zip(numerals(problem.prompt), numerals(variant.prompt), strict=True):
        pieces += [variant.prompt[place : new.end], f"[{old.text}]" * (old.text != new.text)]
        place = new.end
    return f"{''.join(pieces)}{variant.prompt[place:]}\n    {variant.response}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, help="a directory with train.jsonl, test.jsonl, icot_valid.txt")
    parser.add_argument("--problems", type=int, help="of the training problems, this many drawn at random")
    parser.add_argument("--show", type=int, default=0, help="variants to look at")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    problems = list(GSM8K(options.path).training().sample(0))
    rng = random.Random(options.seed)
    rng.shuffle(problems)
    problems = problems[: options.problems]
    began = time.process_time()
    kinds = Counter(kind(problem, options.seed) for problem in problems)
    enough = kinds.pop("", 0)
    print(f"{len(problems)} problems in {time.process_time() - began:.0f} s")
    for n, name in [(enough, f"{ENOUGH} variants or more"), *((n, name) for name, n in kinds.most_common())]:
        print(f"| {name} | {n} | {n / len(problems):.1%} |")
    left = options.show
    while left:
        problem = rng.choice(problems)
        variant = substitute(problem, options.seed, rng.randrange(1000))
        if variant is not None:
            print(shown(problem, variant))
            left -= 1


if __name__ == "__main__":
    main()
