"""One batch seen by the estimators: denoiser, selector and posterior behind the ``OrderModel`` they ask for.

Training scores the selector by the very law that decoding uses.

Shapes: B examples, S states of them, L positions, Q queried positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_mdm.categorical import at_least_float32, positions_of
from lightning_mdm.compilation import compiled
from lightning_mdm.data.batch import Batch
from lightning_mdm.decoding.learned import selector_law
from lightning_mdm.decoding.state import Prediction
from lightning_mdm.nets.denoiser import ReadableDenoiser
from lightning_mdm.nets.order_net import OrderReading
from lightning_mdm.nets.posterior_net import PosteriorNet
from lightning_mdm.nets.selector import Selector
from lightning_mdm.objectives.order_model import States
from lightning_mdm.orders.unmasking_law import UnmaskingLaw


@dataclass(frozen=True)
class StateReading:
    """What one evaluation of the denoiser says about some states.

    Args:
        prediction: distributions at the masked positions, and hidden states.
        true_SL: int64, the true tokens.
        masked_SL: bool, what is masked.
    """

    prediction: Prediction
    true_SL: Tensor
    masked_SL: Tensor

    @cached_property
    def log_prob_SL(self) -> Tensor:
        """log p(x_i | z) of the true tokens; 0 where not masked."""
        return self.prediction.log_prob_BL(self.true_SL, self.masked_SL)

    @cached_property
    def margin_SL(self) -> Tensor:
        """Probability of the true token minus that of the likeliest other one, detached; 0 where not masked."""
        prediction = self.prediction
        with torch.no_grad():
            p_SQV = at_least_float32(prediction.logits_BQV).softmax(-1)
            true_SQ1 = self.true_SL.gather(1, prediction.query_BQ)[:, :, None]
            other_SQ = p_SQV.scatter(-1, true_SQ1, 0.0).amax(-1)
            margin_SQ = p_SQV.gather(-1, true_SQ1).squeeze(-1) - other_SQ
            return prediction.spread(margin_SQ).masked_fill(~self.masked_SL, 0.0)


@dataclass(frozen=True)
class BatchModel:
    """An ``OrderModel``.

    Args:
        batch: clean examples.
        denoiser: gives log-likelihoods and hidden states.
        frozen: whether no gradient is wanted of it.
        selector: pi.
        posterior: q.
        budget: T.
        price: nats per step.
        forbidden: ids that are never generated.
        compile: compute statistics of the logits, and what the nets make of them, through ``torch.compile``.
    """

    batch: Batch
    denoiser: ReadableDenoiser
    frozen: bool
    selector: Selector
    posterior: PosteriorNet
    budget: int
    price: float
    forbidden: Sequence[int] = ()
    compile: bool = False

    @property
    def posterior_reads_states(self) -> bool:
        return self.posterior.reads_states

    @cached_property
    def told(self) -> tuple[int | Tensor, float | Tensor]:
        """Budget and price: as tensors where nets are compiled, or every number would be compiled in."""
        if not self.compile:
            return self.budget, self.price
        device = self.batch.tokens_BL.device
        return torch.tensor(self.budget, device=device), torch.tensor(self.price, dtype=torch.float64, device=device)

    @cached_property
    def scores(self) -> OrderReading:
        """The posterior's one look at the clean sequence."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            embedded_BLD = self.denoiser.embed(self.batch.tokens_BL)
        scores = compiled(self.posterior.scores) if self.compile else self.posterior.scores
        batch = self.batch
        return scores(embedded_BLD, batch.valid_BL, batch.response_BL, *self.told, batch.longest_response)

    @cached_property
    def forbidden_ids(self) -> Tensor:
        """On the batch's device; made once, as a GPU waits for it."""
        return torch.tensor(self.forbidden, device=self.batch.tokens_BL.device)

    def read(self, states: States) -> StateReading:
        """Evaluate the denoiser, once per state."""
        if self.compile:
            _ = self.scores  # here, or every step would compile it along
        clean_SL = self.batch.tokens_BL[states.example_S]
        masked_SL = states.masked_SL
        attend_BL = self.batch.attend_BL
        query_SQ = positions_of(masked_SL, int(masked_SL.sum(-1).max()))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            logits_SQV, hidden_SLD = self.denoiser(
                clean_SL.masked_fill(masked_SL, self.denoiser.vocab_size),
                None if attend_BL is None else attend_BL[states.example_S],
                query_SQ,
            )
            if self.forbidden:
                logits_SQV.index_fill_(-1, self.forbidden_ids, -torch.inf)  # ours to write to, and large
            prediction = Prediction(logits_SQV, query_SQ, masked_SL.shape[1], hidden_SLD, self.compile)
            return StateReading(prediction, clean_SL, masked_SL)

    def selector_law(self, states: States, reading: StateReading) -> UnmaskingLaw:
        """pi(U | z)."""
        return selector_law(
            self.selector, reading.prediction, states.masked_SL, self.batch.valid_BL[states.example_S],
            states.steps_left_S, self.told[1],
        )  # fmt: skip

    def posterior_law(self, states: States, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None) -> UnmaskingLaw:
        """q(U | M, x)."""
        example_S = states.example_S
        read = OrderReading(self.scores.value_BL[example_S], self.scores.mean_BD[example_S])
        return self.posterior.law(read, states.masked_SL, log_prob_SL, pi, states.steps_left_S, *self.told)
