"""Decodes problems in ``lightning predict`` and writes what came out, with the order it came out in."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_mdm.callbacks.frontier import Run, denoiser_of, problems_of, runs_of, selector_of
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import TopMargin
from lightning_mdm.decoding.policy import UnmaskingPolicy


class Predictions(Callback):
    """One line of JSON per problem in ``predictions.rank<r>.jsonl`` of the run directory.

    A line holds problem, prompt, text, answer, nfe, and per canvas token its text and the step that unmasked it; the
    score too where the task knows one.

    Args:
        policy: unmasking policy.
        steps: step budget T.
        seed: seed of the decoding noise.
        decoding: end-of-sequence handling and token sampling.
    """

    def __init__(
        self,
        policy: UnmaskingPolicy = TopMargin(),  # noqa: B008 (frozen)
        steps: int = 32,
        seed: int = 0,
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008 (frozen)
    ) -> None:
        if steps < 1:
            raise ValueError(f"predictions.steps={steps}: a step budget is at least 1")
        self.policy = policy
        self.steps = steps
        self.seed = seed
        self.decoding = decoding

    def path(self, trainer: L.Trainer) -> Path:
        """The file that this process writes."""
        return Path(trainer.default_root_dir) / f"predictions.rank{trainer.global_rank}.jsonl"

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.facts = SplitFacts(problems_of(trainer), "predict")
        runs_of([Run(self.policy, self.steps, self.seed)], False, pl_module, self.facts)  # or says why it cannot
        self.path(trainer).parent.mkdir(parents=True, exist_ok=True)
        self.path(trainer).write_text("")
        self.problems = {problem.index: problem for problem in problems_of(trainer).problems("predict")}

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        data = problems_of(trainer)
        policy = self.policy.bound(selector_of(pl_module, self.steps)).informed(self.facts)
        with trainer.precision_plugin.forward_context():
            trace = self.decoding.decode(denoiser_of(pl_module), policy, batch, data.token_space, self.steps, self.seed)
        response_BL = batch.response_BL
        with open(self.path(trainer), "a", encoding="utf-8") as file:
            for row, index in enumerate(batch.index_B.tolist()):
                problem = self.problems[index]
                ids = trace.tokens_BL[row][response_BL[row]].tolist()
                text = data.decode(ids)
                grade = data.grade(problem, text)
                line = {
                    "problem": index,
                    "prompt": problem.prompt,
                    "text": text,
                    "answer": grade.answer,
                    **({} if grade.score is None else {"score": grade.score}),
                    "nfe": int(trace.nfe_B[row]),
                    "tokens": [data.decode([i]) for i in ids],
                    "steps": trace.order.step_BL[row][response_BL[row]].tolist(),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            print(f"Predictions are in {self.path(trainer)}")
