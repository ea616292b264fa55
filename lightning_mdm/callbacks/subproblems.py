"""How hard the subproblems are that a policy meets, and where it errs, inside the validation and test loops.

Two questions (Kim et al. 2025, arXiv 2502.06768): how well does the denoiser predict tokens of each kind, whatever
is masked; and which kinds does each policy unmask, up to its first mistake? Kinds are the task's: see
``ProblemDataModule.subproblems``. While fitting, figure and curves go to TensorBoard; in ``lightning analyse`` rows are
written too. Nothing is kept for a later run: a stopped one begins again.

Shapes: B rows, L positions, Q response positions per row, N masked tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.callbacks.evaluation import EvaluationCallback
from lightning_mdm.callbacks.order_log import log_subproblems
from lightning_mdm.callbacks.runs import (
    Run,
    decoding_options,
    denoiser_of,
    device_name,
    planned,
    problems_of,
    ready,
    runs_of,
    software,
    weights_hash,
)
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.problem import Problem, SubproblemKind
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.metrics.subproblems import Committed, Denoised, SubproblemMetric
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.denoising import fixed_t, mask_tokens, response_query
from lightning_mdm.outcomes import (
    COMMITS,
    SUBPROBLEMS,
    CommitRow,
    SubproblemRow,
    canonical_json,
    commit_hash,
    read_commits,
    read_subproblems,
    write_commits,
    write_subproblems,
)
from lightning_mdm.report import report_subproblems

LEAST_MASKED = 1e-3  # the smallest mask probability
MOST_BINS = 10  # of the number of masked tokens, in rows and figures


class Subproblems(EvaluationCallback):
    """Denoising by kind of subproblem, and the kinds that policies unmask.

    Args:
        policies: unmasking policies to analyse; all that the module and the task can run, with their default options,
            where not given (see ``runs_of``). Of a task with several right answers per problem, where there is no
            telling which token is wrong, none; those given are refused.
        budgets: step budgets T; where not given, one step per token.
        seeds: seeds of the decoding noise; one run each.
        decoding: how policies are decoded: end-of-sequence handling, token sampling, guidance, looking back.
        n_problems: how many problems of the split, the first ones; all where not given.
        masks: masked versions of each problem on which the denoiser is asked.
        fit_policies: policies analysed at every validation while fitting, in one step per token.
        fit_problems: how many validation problems are analysed while fitting, the first ones; 0 for no analysis.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        policies: Sequence[UnmaskingPolicy] | None = None,
        budgets: Sequence[int] | None = None,
        seeds: Sequence[int] = (0,),
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008 (frozen)
        n_problems: int | None = None,
        masks: int = 8,
        fit_policies: Sequence[UnmaskingPolicy] = (),
        fit_problems: int = 0,
    ) -> None:
        if budgets is not None and (not budgets or min(budgets) < 1):
            raise ValueError(f"subproblems.budgets={list(budgets)}: give step budgets of at least 1, or null for one "
                             "step per token")  # fmt: skip
        for name, value, least in (
            ("n_problems", n_problems, 1),
            ("masks", masks, 1),
            ("fit_problems", fit_problems, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"subproblems.{name}={value}: give at least {least}")
        for policy in (*(policies or ()), *fit_policies):
            decoding.check(policy)
            if policy.revises:
                raise ValueError(
                    f"subproblems: policy {type(policy).__name__} may mask tokens again, and what is analysed is an "
                    "order in which they stay; choose others"
                )
        self.policies = policies
        self.budgets = budgets
        self.seeds = seeds
        self.decoding = decoding
        self.n_problems = n_problems
        self.masks = masks
        self.fit_policies = fit_policies
        self.fit_problems = fit_problems
        self.kinds: tuple[SubproblemKind, ...] = ()
        self.runs: list[Run] = []
        self.wanted: dict[int, Problem] = {}

    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        self.wanted, self.runs = {}, []
        if trainer.sanity_checking or (fitting and not self.fit_problems):
            return
        data = problems_of(trainer)
        self.kinds = data.subproblem_kinds
        causal = isinstance(denoiser_of(module), CausalDenoiser)
        if causal or not self.kinds:
            if fitting:
                return
            why = "a causal net sees no sequence with gaps" if causal else f"{data.task} tells none apart as configured"
            raise ValueError(f"there are no subproblems to analyse: {why}; take a masked denoiser of a task that does")
        if self.policies and not fitting and not data.one_answer:
            raise ValueError(
                f"subproblems.policies: a problem of {data.task} has several right answers, so no token of a policy "
                "can be called wrong; leave them out for the denoiser's losses alone"
            )
        if not fitting:
            published(Path(trainer.default_root_dir))  # what cannot be joined with is said before anything is decoded
        self.facts, self.split = SplitFacts(data, split), data.split_name(split)
        longest = self.facts.longest_response
        all_policies = self.policies is None and not fitting
        policies = self.fit_policies if fitting else self.policies
        budgets = [longest] if fitting or self.budgets is None else self.budgets
        seeds = [0] if fitting else self.seeds
        if data.one_answer:
            runs = planned("subproblems.", policies, budgets, seeds)
            self.runs = runs_of(runs, all_policies, module, self.facts, self.decoding.search, unmasked_stays=True)
        self.metric = SubproblemMetric([run.name for run in self.runs], len(self.kinds), longest).to(module.device)
        most = self.fit_problems if fitting else self.n_problems
        self.wanted = {problem.index: problem for problem in data.problems(split)[:most]}

    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        wanted = [row for row, problem in enumerate(batch.index_B.tolist()) if problem in self.wanted]
        if not wanted:
            return
        chosen = torch.tensor(wanted, device=batch.index_B.device)
        rows = Batch(batch.tokens_BL[chosen], batch.prompt_BL[chosen], batch.valid_BL[chosen], batch.index_B[chosen])
        for draw in range(self.masks):
            self.denoise(trainer, module, rows, draw)
        for run in self.runs:
            self.decode(trainer, module, rows, run)

    def denoise(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, draw: int) -> None:
        """Ask for the masked tokens of one masked version of each row: the same ones at every evaluation."""
        noise = RowNoise(0, batch.index_B * self.masks + draw)
        t_B, uniform_BL = (
            fixed_t(noise.index_B, LEAST_MASKED),
            noise.uniform_BL(Stream.MASK, 0, batch.tokens_BL.shape[1]),
        )
        data, denoiser = problems_of(trainer), denoiser_of(module)
        mask_id = data.token_space.mask_id
        tokens_BL = mask_tokens(batch.tokens_BL, batch.response_BL, t_B, uniform_BL, mask_id)
        kind_BL = torch.zeros_like(tokens_BL)
        for row, problem in enumerate(batch.index_B.tolist()):
            response_L = batch.response_BL[row]
            found = [None if token == mask_id else token for token in tokens_BL[row][response_L].tolist()]
            kinds = data.subproblems(self.wanted[problem], found)
            kind_BL[row, response_L] = torch.tensor(kinds, dtype=torch.int64, device=kind_BL.device)
        with trainer.precision_plugin.forward_context():
            nats_BQ, right_BQ, query_BQ = predicted(denoiser, batch, tokens_BL, data.token_space.forbidden)
        masked_BL = tokens_BL == mask_id
        asked_BQ = masked_BL.gather(1, query_BQ)
        masked_BQ = masked_BL.sum(-1, keepdim=True).expand_as(query_BQ)
        kind_BQ = kind_BL.gather(1, query_BQ)
        self.metric.update(kind_BQ[asked_BQ], masked_BQ[asked_BQ], nats_BQ[asked_BQ], right_BQ[asked_BQ])

    def decode(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, run: Run) -> None:
        """Decode the rows, and look at what was unmasked up to the first mistake of each."""
        data = problems_of(trainer)
        with trainer.precision_plugin.forward_context():
            policy = ready(run, module, self.facts)
            trace = self.decoding.decode(denoiser_of(module), policy, batch, data.token_space, run.steps, run.seed)
        response_BL = batch.response_BL.cpu()
        for row, problem in enumerate(batch.index_B.tolist()):
            true, found, step = (
                part_BL[row].cpu()[response_BL[row]].tolist()
                for part_BL in (batch.tokens_BL, trace.tokens_BL, trace.order.step_BL)
            )
            steps = []
            for number in sorted(set(step)):
                known = [token if at < number else None for token, at in zip(true, step, strict=True)]
                kinds = data.subproblems(self.wanted[problem], known)
                places = [place for place, at in enumerate(step) if at == number]
                steps.append([(kinds[place], known.count(None), found[place] != true[place]) for place in places])
                if any(wrong for _, _, wrong in steps[-1]):
                    break
            self.metric.add_commits(run.name, steps)

    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        if not self.wanted:
            return
        denoised, committed = self.metric.compute()  # gathers from all processes, and is the same on each
        for number, kind in enumerate(self.kinds):
            n = float(denoised.n[number].sum())
            if n:
                name = kind.name.replace(",", "").replace(" ", "_")
                # Of equal values: the mean changes nothing, and all processes may monitor it.
                nats, right = float(denoised.nats[number].sum()), float(denoised.right[number].sum())
                module.log(f"{prefix}/subproblem_nats/{name}", nats / n, sync_dist=True)
                module.log(f"{prefix}/subproblem_accuracy/{name}", right / n, sync_dist=True)
        ready_K = torch.tensor([kind.ready for kind in self.kinds])
        for name, sums in committed.items():
            n = max(1.0, float(sums.n.sum()))
            module.log(f"{prefix}/ready_share@{name}", float(sums.n[ready_K].sum()) / n, sync_dist=True)
            module.log(f"{prefix}/mistakes_per_token@{name}", float(sums.wrong.sum()) / n, sync_dist=True)
            if sums.failed:
                unready = float(sums.first[~ready_K].sum()) / sums.failed
                module.log(f"{prefix}/unready_first_mistakes@{name}", unready, sync_dist=True)
        if not trainer.is_global_zero:
            return
        checkpoint, device = weights_hash(denoiser_of(module)), device_name(module.device)
        where = (problems_of(trainer).task, self.split, checkpoint)
        losses = subproblem_rows(where, device, self.kinds, denoised)
        commits: list[CommitRow] = []
        for run in self.runs:
            if run.name in committed:
                options = canonical_json(decoding_options(trainer, module, run, self.decoding, self.facts))
                adaptive = self.decoding.adaptive(run.policy)
                commits += commit_rows(where, device, self.kinds, options, adaptive, run, committed[run.name])
        if trainer.state.fn != TrainerFn.FITTING:
            self.publish(Path(trainer.default_root_dir), losses, commits)
        log_subproblems(trainer.loggers, losses, commits, trainer.global_step)

    def publish(self, run_dir: Path, losses: list[SubproblemRow], commits: list[CommitRow]) -> None:
        """Write rows and figure into the run directory and print the table; other splits of the same weights stay."""
        own = {(row.task, row.checkpoint) for row in losses}
        selectors = {selector_in(row) for row in commits} | {None}
        losses_before, commits_before = published(run_dir)
        losses = losses + [
            row for row in losses_before if (row.task, row.checkpoint) in own and row.split != self.split
        ]
        decoded = set(map(analysed, commits))
        gone = {
            row.policy for row in commits_before
            if (row.task, row.checkpoint) in own and row.split == self.split and analysed(row) not in decoded
        }  # fmt: skip
        if gone:
            rank_zero_warn(
                f"{run_dir} had an analysis of {self.split} problems with {', '.join(sorted(gone))}, which gives "
                "way to this one; to have both, give each a --run_dir of its own"
            )
        commits = commits + [
            row for row in commits_before
            if (row.task, row.checkpoint) in own and row.split != self.split and selector_in(row) in selectors
        ]  # fmt: skip
        write_subproblems(run_dir / SUBPROBLEMS, losses)
        write_commits(run_dir / COMMITS, commits)
        report_subproblems(losses, commits, run_dir)


def published(run_dir: Path) -> tuple[list[SubproblemRow], list[CommitRow]]:
    """What earlier analyses have left in a directory; nothing where one of the two files is missing.

    Raises:
        ValueError: a file is damaged.
    """
    losses, commits = run_dir / SUBPROBLEMS, run_dir / COMMITS
    if not losses.exists() or not commits.exists():
        return [], []
    return read_subproblems(losses), read_commits(commits)


def analysed(row: CommitRow) -> tuple[object, ...]:
    """What a row's policy was, and of how many problems."""
    return row.policy, row.options, row.T, row.seed, row.problems


def selector_in(row: CommitRow) -> str | None:
    """Content hash of the selector that a row was decoded with, if any."""
    selector: str | None = json.loads(row.options).get("selector")
    return selector


def predicted(
    denoiser: nn.Module, batch: Batch, tokens_BL: Tensor, forbidden: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """-log-likelihood of the true response tokens given partly masked ones, nats, float32 ``[B, Q]``.

    Args:
        denoiser: gives logits.
        batch: the true tokens.
        tokens_BL: the same, some of them masked.
        forbidden: ids that are never generated, and have probability 0 as in decoding.

    Returns:
        The nats, whether the likeliest token is the true one, and the positions ``[B, Q]`` that both are of.
    """
    query_BQ = response_query(batch.response_BL, batch.longest_response)
    logits_BQV = denoiser(tokens_BL, batch.valid_BL, query_BQ).logits_BQV.float()
    logits_BQV = logits_BQV.index_fill(
        -1, torch.tensor(forbidden, dtype=torch.int64, device=query_BQ.device), -torch.inf
    )
    true_BQ = batch.tokens_BL.gather(1, query_BQ)
    nats_BQ = F.cross_entropy(logits_BQV.transpose(1, 2), true_BQ, reduction="none")
    return nats_BQ, logits_BQV.argmax(-1) == true_BQ, query_BQ


def bins_of(longest: int) -> list[tuple[int, int]]:
    """Numbers of masked tokens, 1 to ``longest``, in ``MOST_BINS`` equal bins or fewer: first and last of each."""
    width = math.ceil(longest / MOST_BINS)
    return [(first, min(first + width - 1, longest)) for first in range(1, longest + 1, width)]


def subproblem_rows(
    where: tuple[str, str, str], device: str, kinds: Sequence[SubproblemKind], sums: Denoised
) -> list[SubproblemRow]:
    """A row per kind and bin that holds tokens; ``where`` is task, split and checkpoint."""
    rows = []
    for number, kind in enumerate(kinds):
        for first, last in bins_of(sums.n.shape[1] - 1):
            n, nats, squared, right = (float(part[number, first : last + 1].sum()) for part in sums)
            if not n:
                continue
            sem = math.sqrt(max(0.0, squared - nats * nats / n) / (n - 1) / n) if n > 1 else None
            row = SubproblemRow(
                *where, kind.name, kind.ready, first, last, int(n), nats / n, sem, right / n, device, commit_hash(),
                software(),
            )  # fmt: skip
            rows.append(row)
    return rows


def commit_rows(
    where: tuple[str, str, str],
    device: str,
    kinds: Sequence[SubproblemKind],
    options: str,
    adaptive: bool,
    run: Run,
    sums: Committed,
) -> list[CommitRow]:
    """A row of one run per kind and bin that holds tokens; ``where`` is task, split and checkpoint."""
    rows = []
    for number, kind in enumerate(kinds):
        for first, last in bins_of(sums.n.shape[1] - 1):
            parts = (sums.n, sums.wrong, sums.first)
            n, wrong, mistakes = (float(part[number, first : last + 1].sum()) for part in parts)
            if not n:
                continue
            row = CommitRow(
                *where, run.policy.name, options, run.steps, run.seed, sums.problems, sums.failed, kind.name,
                kind.ready, first, last, int(n), int(wrong), mistakes, adaptive, device, commit_hash(), software(),
            )  # fmt: skip
            rows.append(row)
    return rows
