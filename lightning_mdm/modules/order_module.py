"""Learning the order: denoiser, selector and approximate posterior under one variational bound.

Knows nothing of heuristics or of text. What is optimised is in ``objectives/order_elbo.py`` (and before it, where asked
for, in ``imitation.py``), how the laws look in ``nets/selector.py`` and ``nets/posterior_net.py``; decoding with the
selector is ``decoding/learned.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_mdm.data.batch import Batch
from lightning_mdm.modules.budget_curves import BudgetCurves
from lightning_mdm.modules.budget_draws import BudgetDraw, BudgetDraws
from lightning_mdm.modules.denoiser import masked_diffusion, training_t
from lightning_mdm.modules.earlier_batches import EarlierBatches
from lightning_mdm.modules.imitation import imitation
from lightning_mdm.modules.optimization import check_rates, learning_rate_factor, take_configured, total_updates
from lightning_mdm.modules.order_batch import BatchModel
from lightning_mdm.modules.order_bounds import BoundEvaluation
from lightning_mdm.modules.order_draws import STEPS_PER_UPDATE, draw_sets, trajectories
from lightning_mdm.modules.order_options import (
    Estimator,
    Sharing,
    Training,
    check_options,
)
from lightning_mdm.modules.weights import load_denoiser, load_net, save_net
from lightning_mdm.nets.build import NetConfig, build_denoiser, net_from_plain
from lightning_mdm.nets.posterior_net import PosteriorConfig, PosteriorNet, build_posterior, posterior_from_plain
from lightning_mdm.nets.selector import Selector, SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig, compile_blocks
from lightning_mdm.noise import STEPS_DRAWN_AHEAD, RowNoise, Stream
from lightning_mdm.objectives.denoising import Weighting
from lightning_mdm.objectives.order_elbo import OrderElbo, all_steps
from lightning_mdm.objectives.order_one_step import one_step

ORDER_OPTIONS = ("family", "net")  # of the posterior
FORBIDDEN = "forbidden_tokens"  # where a checkpoint says what is never generated


class OrderModule(L.LightningModule):
    """A denoiser, a selector that learns its order of generation, and the posterior it learns from.

    Args:
        vocab_size: tokens that can be predicted; linked to the data by the command line.
        net: shape of the denoiser, or a law whose formula is the denoiser.
        denoiser_ckpt: checkpoint (or safetensors file, here or on the hub) of the trained denoiser to start from.
        init_from: safetensors file of selector and posterior to start from (written by ``save_order``).
        denoiser: ``frozen``, or ``joint``: trained along.
        denoising_weight: with ``joint``, the weight of the plain masked-diffusion objective beside the bound.
        denoising_weighting: likewise, that of its tokens: ``uniform``, or 1 / t as in their own ``bound``.
        selector: shape of the selector.
        posterior: the approximate posterior.
        finishing: whether finishing is a decision of its own, apart from the coins of the positions (see
            ``orders/finishing_law.py``); not of the max-normalised family.
        selectors: one selector and posterior for every budget (``shared``) or one each (``per_budget``).
        budgets: step budgets T >= 2, one drawn for each update.
        budget_draw: ``uniform``, or with probability in proportion to 1 / T (``by_cost``) or to one over the denoiser
            evaluations per trajectory at that budget so far (``by_evaluations``; of ``all_steps`` alone), so that every
            budget gets about as many evaluations, and the small ones, whose orders are hardest to find, the most
            updates. The latter where orders finish early: by 1 / T their large budgets would hardly be learned.
        fewest_first: first updates (after a warm start), all at the smallest budget and without entropy bonus. What
            decides an order there, such as the meaning of a prompt, is learned within few decisions; for larger budgets
            waiting alone gains so much that nobody would look for it.
        prices: nats per step, one drawn for each update; the selector is told which.
        estimator: ``all_steps`` or ``one_step``.
        samples: trajectories K >= 2 of each example.
        focus: examples count in proportion to about exp(-focus x nats): with 0 all alike, with 1 as in a bound of the
            share that is generated exactly. The more, the less an order cares for examples that fail anyhow. Of
            ``all_steps`` alone.
        bound_budgets: budgets at which validation and test report the bounds, which cost as much as training does; all
            ``budgets`` where not given, and none of an empty list, as for a sweep that only decodes.
        validation_samples: trajectories of each example in validation, also of the importance-weighted bound.
        warm_start_steps: first updates, spent on imitating the true token's margin.
        warm_start_margin: the margin at which an imitated probability is 1/2.
        entropy_bonus: weight of q's entropy in the surrogate at the beginning of training, for exploration; it falls
            linearly to 0. Much of it keeps q soft, and from a soft q the selector learns nothing.
        entropy_fades_by: share of training after which it is 0.
        learning_rate: peak of Adam's learning rate.
        denoiser_learning_rate: that of the denoiser with ``joint``: a trained one wants far less than nets that start
            from nothing. The same where not given.
        warmup_steps: updates of linear warm-up.
        final_learning_rate: what the cosine ends at, as a fraction of the peak.
        compile: run the blocks of the denoiser, the statistics of the logits and all that is made of them (selector,
            posterior, laws, draws) through ``torch.compile`` while fitting: minutes at its beginning, and a fraction of
            the time beside the denoiser's passes from then on.
        noise_seed: seed of all draws; with it training is a function of the data's order alone.

    Raises:
        ValueError: an option out of its range, or weights that do not fit.
    """

    def __init__(
        self,
        vocab_size: int,
        net: NetConfig = TransformerConfig(),  # noqa: B008 (frozen)
        denoiser_ckpt: str | None = None,
        init_from: str | None = None,
        denoiser: Training = "frozen",
        denoising_weight: float = 1.0,
        denoising_weighting: Weighting = "uniform",
        selector: SelectorConfig = SelectorConfig(),  # noqa: B008 (frozen)
        posterior: PosteriorConfig = PosteriorConfig(),  # noqa: B008 (frozen)
        finishing: bool = False,
        selectors: Sharing = "shared",
        budgets: Sequence[int] = (2, 3, 4, 5, 6, 8, 10),
        budget_draw: BudgetDraw = "uniform",
        fewest_first: int = 0,
        prices: Sequence[float] = (0.0,),
        estimator: Estimator = "all_steps",
        samples: int = 8,
        focus: float = 0.0,
        bound_budgets: Sequence[int] | None = None,
        validation_samples: int = 8,
        warm_start_steps: int = 0,
        warm_start_margin: float = 0.8,
        entropy_bonus: float = 0.0,
        entropy_fades_by: float = 0.5,
        learning_rate: float = 3e-3,
        denoiser_learning_rate: float | None = None,
        warmup_steps: int = 100,
        final_learning_rate: float = 0.02,
        compile: bool = False,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        net = net_from_plain(net)  # plain where restored from a checkpoint
        selector = SelectorConfig(**selector) if isinstance(selector, dict) else selector
        posterior = posterior_from_plain(posterior)
        check_options(
            denoiser=denoiser, denoising_weighting=denoising_weighting, selector=selector, posterior=posterior,
            finishing=finishing, selectors=selectors,
            budgets=budgets, budget_draw=budget_draw, fewest_first=fewest_first, prices=prices, estimator=estimator,
            samples=samples, focus=focus, bound_budgets=bound_budgets, validation_samples=validation_samples,
            entropy_bonus=entropy_bonus, entropy_fades_by=entropy_fades_by,
            denoiser_learning_rate=denoiser_learning_rate,
        )  # fmt: skip
        check_rates(learning_rate=learning_rate, warmup_steps=warmup_steps, final_learning_rate=final_learning_rate)
        # As plain values, and without the path: a checkpoint has weights of its own and must not need that file. And
        # without the command line's way to build a module, which would lay a law's options over the default net's.
        self.save_hyperparameters(
            ignore=[
                "net", "selector", "posterior", "denoiser_ckpt", "init_from", "budgets", "bound_budgets", "prices",
                "_instantiator",
            ]
        )  # fmt: skip
        self.save_hyperparameters(
            {"net": asdict(net), "selector": asdict(selector), "posterior": asdict(posterior),
             "budgets": list(budgets), "prices": list(prices)}
        )  # fmt: skip
        self.joint = denoiser == "joint"
        self.denoising_weight = denoising_weight
        self.denoising_weighting: Weighting = denoising_weighting
        self.budgets = list(budgets)
        self.fewest_first = fewest_first
        self.prices = list(prices)
        self.estimator: Estimator = estimator
        self.samples = samples
        self.focus = focus
        self.warm_start_steps = warm_start_steps
        self.warm_start_margin = warm_start_margin
        self.entropy_bonus = entropy_bonus
        self.entropy_fades_by = entropy_fades_by
        self.learning_rate = learning_rate
        self.denoiser_learning_rate = denoiser_learning_rate
        self.warmup_steps = warmup_steps
        self.final_learning_rate = final_learning_rate
        self.compile_nets = compile
        self.noise_seed = noise_seed
        self.kept_forbidden: tuple[int, ...] = ()
        self.starts_trained = denoiser_ckpt is not None or not isinstance(net, TransformerConfig)
        self.denoiser = build_denoiser(net, vocab_size)
        if denoiser_ckpt is not None:
            load_denoiser(self.denoiser, denoiser_ckpt, option="model.denoiser_ckpt", net=net)
        self.denoiser.requires_grad_(self.joint)
        names = ["shared"] if selectors == "shared" else [f"T{budget}" for budget in budgets]
        width = self.denoiser.width
        self.selectors = nn.ModuleDict({name: Selector(width, selector, finishing) for name in names})
        self.posteriors = nn.ModuleDict({name: build_posterior(posterior, width, finishing) for name in names})
        if init_from is not None:
            self.take_order(init_from)
        self.earlier = EarlierBatches(max(self.budgets), focus)
        self.budget_draws = BudgetDraws(self.budgets, budget_draw)
        self.budget_drawn = self.budgets[0]  # of the update at hand
        self.bounds = BoundEvaluation(budgets if bound_budgets is None else bound_budgets, prices, validation_samples)
        self.curves = BudgetCurves()

    def setup(self, stage: str) -> None:
        self.bounds.known = {}  # an earlier loop's, perhaps of other weights
        if self.compile_nets and stage == "fit":
            compile_blocks(self.denoiser)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[FORBIDDEN] = list(self.forbidden_tokens)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.starts_trained = True
        self.kept_forbidden = tuple(checkpoint.get(FORBIDDEN, ()))
        for name in ("control_moments", "usual_success"):  # kept by the module itself, and not worth a refusal
            checkpoint["state_dict"].pop(name, None)

    def on_fit_start(self) -> None:  # by now a run that is resumed has its weights
        self.check_precision()
        if not self.joint and not self.starts_trained:
            raise ValueError(
                "model.denoiser_ckpt is missing: a frozen denoiser needs weights; give its checkpoint, or train it "
                "along by --model.denoiser joint"
            )

    def check_precision(self) -> None:
        """Refuse weights of 16 bits, with which bounds and their gradients would be rounded away; decoding may do.

        Raises:
            ValueError: names the precision.
        """
        halves = (torch.float16, torch.bfloat16)
        if any(p.dtype in halves for p in self.order_nets.parameters()):
            raise ValueError(
                f"trainer.precision={self.trainer.precision}, weights of 16 bits: the laws of orders and their moments "
                "want 32; give bf16-mixed, which computes the nets in 16"
            )

    # The two nets of a budget.

    @property
    def order_nets(self) -> nn.ModuleDict:
        """Selectors and posteriors, the part of the module that is the order."""
        return nn.ModuleDict({"selectors": self.selectors, "posteriors": self.posteriors})

    @property
    def order_options(self) -> dict[str, dict[str, Any]]:
        """What the weights of the order do not tell: a temperature belongs to a training."""
        selector, posterior = self.hparams["selector"], self.hparams["posterior"]
        return {"selector": selector, "posterior": {name: posterior[name] for name in ORDER_OPTIONS}}

    def save_order(self, path: str | Path) -> None:
        """Write selectors and posteriors to a safetensors file, for ``init_from``."""
        save_net(self.order_nets, path, self.order_options)

    def take_order(self, path: str | Path) -> None:
        """Take selectors and posteriors from a file that ``save_order`` wrote; selectors alone where q is their law."""
        nets, options = self.order_nets, self.order_options
        left_out: tuple[str, ...] = ()
        if self.hparams["posterior"]["family"] == "selector":
            del nets["posteriors"], options["posterior"]
            left_out = ("posteriors.",)
        load_net(nets, path, option="model.init_from", options=options, left_out=left_out)

    def selector_for(self, budget: int) -> Selector:
        """The selector that decodes in ``budget`` steps.

        Raises:
            ValueError: selectors are per budget, and there is none for this one.
        """
        name = self.net_name(budget)
        selector = self.selectors[name]
        assert isinstance(selector, Selector)
        return selector

    def posterior_for(self, budget: int) -> PosteriorNet:
        """The posterior that goes with it."""
        posterior = self.posteriors[self.net_name(budget)]
        assert isinstance(posterior, PosteriorNet)
        return posterior

    def net_name(self, budget: int) -> str:
        if "shared" in self.selectors or budget == 1:  # in one step there is nothing to select
            return next(iter(self.selectors))
        if f"T{budget}" not in self.selectors:
            raise ValueError(
                f"no selector for T={budget}: this module has one each for T={self.budgets}; decode at those budgets"
            )
        return f"T{budget}"

    @property
    def forbidden_tokens(self) -> tuple[int, ...]:
        """The ids that are never generated: as the data say, or without data as the checkpoint does, if it does."""
        data: Any = getattr(self.trainer, "datamodule", None) if self._trainer is not None else None
        return self.kept_forbidden if data is None else data.token_space.forbidden

    def batch_model(self, batch: Batch, budget: int, price: float) -> BatchModel:
        """The batch as the estimators see it, ``forbidden_tokens`` left out of the denoiser's distributions."""
        return BatchModel(
            batch, self.denoiser, not self.joint, self.selector_for(budget), self.posterior_for(budget), budget, price,
            self.forbidden_tokens, self.compile_nets,
        )  # fmt: skip

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self.global_step
        # The same on every process: they would wait for one another's longer trajectories otherwise.
        which = RowNoise(self.noise_seed, torch.zeros(2, dtype=torch.int64)).uniform_BL(Stream.SELECT, step, 2)[0]
        budget = min(self.budgets) if self.fewest(step) else self.budget_draws.draw(step, float(which[0]))
        self.budget_drawn = budget
        price = self.prices[int(which[1] * len(self.prices))]
        model = self.batch_model(batch, budget, price)
        noise = RowNoise(self.noise_seed, batch.index_B)
        if step < self.warm_start_steps:
            surrogate = imitation(model, noise, step, self.warm_start_margin)
            self.log("train/imitation", surrogate.detach(), prog_bar=True)
        else:
            elbo = self.objective(model, noise, step)
            self.log_objective(elbo, batch, budget)
            self.remember_cost(budget, elbo)
            surrogate = elbo.surrogate
        if self.joint:
            t_B = training_t(noise, step, 1e-3)
            weighting = self.denoising_weighting
            denoising = masked_diffusion(self.denoiser, batch, t_B, noise, step, weighting, compile=self.compile_nets)
            self.log("train/denoising_surrogate", denoising.surrogate.detach())
            surrogate = surrogate + self.denoising_weight * denoising.surrogate
        # Parameters without a part in this update would stop distributed training, which waits for their gradients.
        return surrogate + sum(0.0 * p.sum() for p in self.parameters() if p.requires_grad)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nets of other budgets get no gradient in place of zeros, with which Adam would go on where it was heading."""
        self.curves.write(self.trainer, self.global_step)
        if "shared" in self.selectors:
            return
        own = self.net_name(self.budget_drawn)
        for name, net in (*self.selectors.items(), *self.posteriors.items()):
            if name != own:
                net.zero_grad(set_to_none=True)

    def fewest(self, step: int) -> bool:
        """Whether this update is one of those spent at the smallest budget."""
        return 0 <= step - self.warm_start_steps < self.fewest_first

    def remember_cost(self, budget: int, elbo: OrderElbo) -> None:
        """What a batch at a budget took, where that decides which ones come next."""
        if not self.budget_draws.measures:
            return
        each = torch.tensor(elbo.evaluations / elbo.steps_BK.numel(), device=self.device)
        if self._trainer is not None:  # the mean of all processes: they are to draw the same budgets
            each = self.trainer.strategy.reduce(each, reduce_op="mean")
        self.budget_draws.add(budget, each)

    def objective(self, model: BatchModel, noise: RowNoise, step: int) -> OrderElbo:
        """The bound and its surrogate on one batch."""
        response_BL = model.batch.response_BL
        # A power of two, so that the steps of an update are one block of draws, or a few whole ones.
        ahead = min(1 << (model.budget - 1).bit_length(), STEPS_DRAWN_AHEAD)
        drawn = trajectories(noise, self.samples, ahead)
        choose = partial(draw_sets, drawn, step * STEPS_PER_UPDATE, compile=self.compile_nets)
        left = 0.0 if self.fewest(step) else max(0.0, 1.0 - self.trained(step) / self.entropy_fades_by)
        terms: dict[str, Any] = {
            "budget": model.budget, "price": model.price, "entropy_bonus": self.entropy_bonus * left,
            "samples": self.samples, "choose": choose, "compile": self.compile_nets,
        }  # fmt: skip
        if self.estimator == "all_steps":
            out = all_steps(model, response_BL, focus=self.focus, **self.earlier.terms(model.budget), **terms)
            self.earlier.add(model.budget, out)
            return out
        # Of a stream of its own: that of masks decides at the same update what a joint denoiser is trained on.
        step_B = 1 + (noise.uniform_B(Stream.TOKEN, step) * model.budget).long()
        return one_step(model, response_BL, step_B, **terms)

    def trained(self, step: int) -> float:
        """The share of training done, 1 at the last update."""
        if self._trainer is None:
            return 0.0
        return min(1.0, step / max(1, total_updates(self.trainer) - 1))

    def log_objective(self, elbo: OrderElbo, batch: Batch, budget: int) -> None:
        """The bound and its parts in nats per response token, what q does, and how noisy its gradient is."""
        tokens = batch.response_BL.sum()
        self.log("train/surrogate", elbo.surrogate.detach(), prog_bar=True)
        self.log("train/bound_nats_per_token", elbo.bound_nats_B.sum() / tokens, prog_bar=True)
        self.log("train/token_nats_per_token", elbo.token_nats_B.sum() / tokens)
        self.log("train/order_kl_nats_per_token", elbo.kl_nats_B.sum() / tokens)
        self.log("train/price_nats_per_token", elbo.price_nats_B.sum() / tokens)
        self.curves.add(self, elbo, budget, trajectories=self.estimator == "all_steps")
        if self.focus:
            weight_BK = (elbo.log_success_BK - elbo.log_success_BK.max()).exp()
            self.log("train/effective_share_of_examples", weight_BK.mean().square() / weight_BK.square().mean())
        self.log("train/score_variance", elbo.score_variance)
        self.log("train/score_variance_without_baseline", elbo.score_variance_without_baseline)
        self.log("train/denoiser_evaluations", float(elbo.evaluations))

    # Evaluation: see ``order_bounds.py``.

    def on_validation_epoch_start(self) -> None:
        self.begin_bounds()

    def on_test_epoch_start(self) -> None:
        self.begin_bounds()

    def begin_bounds(self) -> None:
        """A loop begins; without any bound to evaluate, weights may have 16 bits."""
        self.bounds.begin(self.device)
        if self.bounds.metric.cells:
            self.check_precision()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.bounds.add(batch, self.batch_model)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.bounds.add(batch, self.batch_model)

    def on_validation_epoch_end(self) -> None:
        self.bounds.log(self, "val")

    def on_test_epoch_end(self) -> None:
        self.bounds.log(self, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The problems of the batch; the ``Predictions`` callback decodes them."""
        return batch.index_B

    def on_train_start(self) -> None:
        take_configured(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups: list[dict[str, Any]] = [{"params": list(self.order_nets.parameters()), "lr": self.learning_rate}]
        if self.joint:
            own = self.learning_rate if self.denoiser_learning_rate is None else self.denoiser_learning_rate
            groups.append({"params": list(self.denoiser.parameters()), "lr": own})
        optimizer = torch.optim.Adam(groups)
        total = total_updates(self.trainer)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, self.warmup_steps, self.final_learning_rate)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
