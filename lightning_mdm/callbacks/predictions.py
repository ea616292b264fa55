"""Decodes problems in ``lightning predict`` and writes what came out, with the order it came out in."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.generation import generate
from lightning_mdm.callbacks.runs import Run, denoiser_of, problems_of, ready, runs_of, selector_of
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.places import Autoregressive
from lightning_mdm.decoding.policies import TopMargin
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.nets.causal import CausalDenoiser


class Predictions(Callback):
    """One line of JSON per problem in ``predictions.rank<r>.jsonl`` of the run directory.

    A line holds problem, prompt, text, answer, nfe, and per canvas token its text and the step that unmasked it; the
    score too where the task knows one.

    Args:
        policy: unmasking policy; the learned order at the lowest of its prices where the module has learned one, else
            top margin, where not given.
        steps: step budget T.
        seed: seed of the decoding noise.
        decoding: how policies are decoded: end-of-sequence handling, token sampling, guidance, looking back; as those
            of the frontier where not given.
    """

    def __init__(
        self,
        policy: UnmaskingPolicy | None = None,
        steps: int = 32,
        seed: int = 0,
        decoding: DecodingOptions | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"predictions.steps={steps}: a step budget is at least 1")
        if policy is not None and decoding is not None:
            decoding.check(policy)
        self.policy = policy
        self.steps = steps
        self.seed = seed
        self.decoding = decoding

    def path(self, trainer: L.Trainer) -> Path:
        """The file that this process writes."""
        return Path(trainer.default_root_dir) / f"predictions.rank{trainer.global_rank}.jsonl"

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.facts = SplitFacts(problems_of(trainer), "predict")
        self.options = self.decoding or of_frontier(trainer)
        self.run = Run(self.policy or own_policy(pl_module, self.steps), self.steps, self.seed)
        self.options.check(self.run.policy)
        runs_of([self.run], False, pl_module, self.facts)  # or says why it cannot
        self.path(trainer).parent.mkdir(parents=True, exist_ok=True)
        self.path(trainer).write_text("")
        if trainer.is_global_zero:
            for path in self.path(trainer).parent.glob("predictions.rank*.jsonl"):  # of an earlier run on more of them
                if int(path.stem.removeprefix("predictions.rank")) >= trainer.world_size:
                    path.unlink()
        self.problems = {problem.index: problem for problem in problems_of(trainer).problems("predict")}

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        data = problems_of(trainer)
        policy = ready(self.run, pl_module, self.facts)
        with trainer.precision_plugin.forward_context():
            generated, _ = generate(
                denoiser_of(pl_module), policy, batch, self.problems, data, self.options, steps=self.steps,
                seed=self.seed,
            )  # fmt: skip
        with open(self.path(trainer), "a", encoding="utf-8") as file:
            for index, found in zip(batch.index_B.tolist(), generated, strict=True):
                problem = self.problems[index]
                grade = data.grade(problem, found.graded)
                line = {
                    "problem": index,
                    "prompt": problem.prompt,
                    "text": found.text,
                    "answer": grade.answer,
                    "correct": grade.correct if problem.answer else None,  # of a question without a reference: unknown
                    **({} if grade.score is None else {"score": grade.score}),
                    "nfe": found.nfe,
                    "tokens": [data.decode([token]) for token in found.tokens],
                    "steps": found.steps,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            path = self.path(trainer)
            each = path.with_name(path.name.replace("rank0", "rank*")) if trainer.world_size > 1 else path
            drawn = self.options.token_temperature
            tokens = f"tokens drawn at a temperature of {drawn}" if drawn else "the likeliest tokens"
            print(f"Predictions are in {each}: {self.run.policy.label}, at most {self.steps} steps, {tokens}")


def own_policy(module: L.LightningModule, steps: int) -> UnmaskingPolicy:
    """What a module decodes with if nothing else is asked for."""
    if isinstance(denoiser_of(module), CausalDenoiser):
        return Autoregressive()
    return Learned(price=min(module.prices)) if selector_of(module, steps) is not None else TopMargin()  # type: ignore[arg-type]


def of_frontier(trainer: L.Trainer) -> DecodingOptions:
    """How the frontier decodes, where there is one."""
    frontiers = [c for c in trainer.callbacks if isinstance(c, Frontier)]  # type: ignore[attr-defined]
    return frontiers[0].decoding if frontiers else DecodingOptions()
