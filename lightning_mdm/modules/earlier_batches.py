"""What the estimator of an order's gradient takes from earlier batches with the same budget.

Kept out of the batch at hand, on whose draws it would otherwise depend.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mdm.objectives.order_elbo import OrderElbo

MEMORY = 0.95  # per batch with the same budget
LEAST_VARIANCE = 1e-6


def fade_in(sum_2: Tensor, value: Tensor) -> None:
    """Add a value to a sum that fades, and one to the number of values in it, which fades alike: ``[2]``, in place."""
    sum_2.lerp_(torch.stack((value, torch.ones_like(value))).to(sum_2), 1.0 - MEMORY)


class EarlierBatches(nn.Module):
    """Averages over earlier batches, by budget, that fade; saved with the weights.

    Loaded with weights of other budgets or of another focus, what no longer applies starts anew.

    Args:
        largest_budget: T of the largest.
        focus: what examples are weighed by, see ``objectives/variance.py``.
    """

    focus: Tensor
    control_moments: Tensor
    usual_success: Tensor

    def __init__(self, largest_budget: int, focus: float) -> None:
        super().__init__()
        self.weighs = focus > 0.0
        self.register_buffer("focus", torch.tensor(focus))
        # Covariance and variance by budget and step, for the control variate.
        self.register_buffer("control_moments", torch.zeros(largest_budget + 1, largest_budget, 2))
        # By budget: the logarithm of what its examples weigh, summed over batches and fading, and how many that were.
        self.register_buffer("usual_success", torch.zeros(largest_budget + 1, 2))

    def terms(self, budget: int) -> dict[str, Any]:
        """Control variate and usual weight, as ``all_steps`` takes them."""
        moments_T2 = self.control_moments[budget]
        control = (moments_T2[:, 0] / moments_T2[:, 1].clamp(min=LEAST_VARIANCE)).tolist()
        log_sum, seen = self.usual_success[budget].tolist() if self.weighs else (0.0, 0.0)
        return {"control": control, "usual_log_success": log_sum / seen if seen else 0.0}

    def add(self, budget: int, batch: OrderElbo) -> None:
        """Remember the objective of a batch."""
        seen_T2 = self.control_moments[budget, : len(batch.control_moments)]
        seen_T2.lerp_(batch.control_moments.to(seen_T2.dtype), 1.0 - MEMORY)
        if self.weighs:
            log_mean = batch.log_success_BK.flatten().logsumexp(0) - math.log(batch.log_success_BK.numel())
            fade_in(self.usual_success[budget], log_mean)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        focus = state_dict.get(f"{prefix}focus")
        other_focus = focus is None or float(focus) != float(self.focus)
        for name, own in self.named_buffers():
            saved = state_dict.get(prefix + name)
            if saved is None or saved.shape != own.shape or (name == "usual_success" and other_focus):
                state_dict[prefix + name] = torch.zeros_like(own)
        state_dict[f"{prefix}focus"] = self.focus.clone()
        super()._load_from_state_dict(state_dict, prefix, *args)
