"""The options of learning an order: their kinds, and which go together. Builds nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from lightning_mdm.modules.budget_draws import BudgetDraw
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.objectives.denoising import Weighting

Estimator = Literal["all_steps", "one_step"]
Training = Literal["frozen", "joint"]
Sharing = Literal["shared", "per_budget"]


def check_options(
    *,
    denoiser: Training,
    denoising_weighting: Weighting,
    selector: SelectorConfig,
    posterior: PosteriorConfig,
    finishing: bool,
    selectors: Sharing,
    budgets: Sequence[int],
    budget_draw: BudgetDraw,
    fewest_first: int,
    prices: Sequence[float],
    estimator: Estimator,
    samples: int,
    focus: float,
    bound_budgets: Sequence[int] | None,
    validation_samples: int,
    entropy_bonus: float,
    entropy_fades_by: float,
    denoiser_learning_rate: float | None,
) -> None:
    """Refuse options out of their ranges, or that do not go together; what they mean is said at ``OrderModule``.

    Raises:
        ValueError: names the option.
    """
    for name, value, choices in (
        ("denoiser", denoiser, get_args(Training)),
        ("denoising_weighting", denoising_weighting, get_args(Weighting)),
        ("selectors", selectors, get_args(Sharing)),
        ("budget_draw", budget_draw, get_args(BudgetDraw)),
        ("estimator", estimator, get_args(Estimator)),
    ):
        if value not in choices:
            raise ValueError(f"model.{name}={value!r}: choose one of {', '.join(choices)}")
    if not budgets or min(budgets) < 2:
        raise ValueError(f"model.budgets={list(budgets)}: give step budgets of at least 2; one step has no order")
    if bound_budgets and (min(bound_budgets) < 2 or (selectors == "per_budget" and set(bound_budgets) - set(budgets))):
        raise ValueError(
            f"model.bound_budgets={list(bound_budgets)}: give step budgets of at least 2, with selectors per budget "
            f"some of {list(budgets)}, or [] for no bounds"
        )
    if fewest_first < 0:
        raise ValueError(f"model.fewest_first={fewest_first}: give a number of updates, at least 0")
    if not prices or not all(0.0 <= price < math.inf for price in prices):
        raise ValueError(f"model.prices={list(prices)}: give one or more finite prices of at least 0 nats per step")
    if len(set(prices)) < len(prices):
        raise ValueError(f"model.prices={list(prices)}: give each price once")
    if samples < 2 or validation_samples < 1:
        raise ValueError(
            f"model.samples={samples}, model.validation_samples={validation_samples}: the baseline needs at least "
            "2 trajectories, validation at least 1"
        )
    if not 0.0 <= focus < math.inf or (focus and estimator != "all_steps"):
        raise ValueError(
            f"model.focus={focus}, model.estimator={estimator!r}: give a finite number of at least 0, and 0 to "
            "one_step, which follows no trajectory to its end"
        )
    if budget_draw == "by_evaluations" and estimator != "all_steps":
        raise ValueError(
            f"model.budget_draw='by_evaluations', model.estimator={estimator!r}: choose by_cost or uniform for "
            "one_step, whose evaluations do not grow with the budget"
        )
    if not 0.0 <= entropy_bonus < math.inf or not 0.0 < entropy_fades_by <= 1.0:
        raise ValueError(
            f"model.entropy_bonus={entropy_bonus}, model.entropy_fades_by={entropy_fades_by}: give a finite "
            "weight of at least 0 and a share of training in (0, 1]"
        )
    if denoiser_learning_rate is not None and (denoiser == "frozen" or not 0.0 <= denoiser_learning_rate < math.inf):
        raise ValueError(
            f"model.denoiser_learning_rate={denoiser_learning_rate}, model.denoiser={denoiser!r}: give joint a finite "
            "number of at least 0, or leave it out"
        )
    if finishing and posterior.family == "max_normalised":
        raise ValueError(
            "model.finishing=true, model.posterior.family='max_normalised': this family cannot decide about "
            "finishing; choose state_aware, relative or selector"
        )
    if selector.start_stake is not None and selector.start != "entropy_bound" and not finishing:
        raise ValueError(
            f"model.selector.start_stake={selector.start_stake}: with start={selector.start!r} it says when to "
            "finish; give model.finishing=true, or leave it out"
        )
    if len(selector.start_shares) > 1 and posterior.family not in ("relative", "selector"):
        raise ValueError(
            f"model.selector.start_shares={list(selector.start_shares)}, model.posterior.family={posterior.family!r}: "
            "choose relative or selector, the families that draw one of several shares, or give one share"
        )
