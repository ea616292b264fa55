"""The analysis of subproblems inside Lightning's loops, for denoisers whose strengths are known."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_mdm.callbacks import subproblems
from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.runs import Run
from lightning_mdm.callbacks.subproblems import Subproblems, bins_of, commit_rows, predicted, subproblem_rows
from lightning_mdm.data.batch import Batch, collate
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.nae_sat import NaeSatProblems
from lightning_mdm.data.sudoku import SudokuProblems
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import IID, POLICIES, GivenOrder, LeftToRight, Oracle, ReMDM, TopMargin
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.metrics.subproblems import SubproblemMetric
from lightning_mdm.modules.autoregressive import AutoregressiveModule
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.nets.laws import law_denoiser
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.objectives.denoising import mask_tokens, response_query
from lightning_mdm.outcomes import CommitRow, SubproblemRow, read_commits, read_rows, read_subproblems
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.puzzles.sudoku import from_text
from lightning_mdm.trainer import Trainer
from runs import Answering, few_problems, trainer
from sudokus import sees
from test_subproblem_report import COMMIT, LOSS

SURE = 3.0  # logit of the digit that it says, others 0


def data(**options: Any) -> SudokuProblems:
    defaults: dict[str, Any] = {
        "side": 4, "min_clues": 4, "max_clues": 6, "difficulty": "any", "n_validation": 4, "n_test": 12, "pool": 4,
        "batch_size": 2, "eval_batch_size": 5,
    }  # fmt: skip
    return SudokuProblems(**{**defaults, **options})


class LoneSingles(nn.Module):
    """Knows the digit of every cell that has one candidate left, and says another digit of any other cell."""

    vocab_size = 4

    def __init__(self, problems: SudokuProblems) -> None:
        super().__init__()
        every = [*problems.problems("validation"), *problems.problems("test")]
        self.grids = [from_text(problem.answer) for problem in every]
        self.skill = nn.Parameter(torch.ones(1))

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        said_BL = torch.zeros_like(tokens_BL)
        for row, tokens in enumerate(tokens_BL.tolist()):
            board = [0 if token == self.vocab_size else token + 1 for token in tokens]
            grids = [g for g in self.grids if all(digit in (0, own) for digit, own in zip(board, g, strict=True))]
            for cell in range(16):
                candidates = {1, 2, 3, 4} - {board[other] for other in sees(16)[cell]}
                true = grids[0][cell] if grids else 1  # nothing is known after a mistake
                said_BL[row, cell] = (true if len(candidates) == 1 else true % 4 + 1) - 1
        said_BQ = said_BL.gather(1, query_BQ)
        return DenoiserOutput(SURE * self.skill * nn.functional.one_hot(said_BQ, self.vocab_size).float())


def analyse(
    run_dir: Path, module: L.LightningModule, problems: ProblemDataModule, split: Any = "test", logger: Any = False,
    **options: Any,
) -> tuple[list[SubproblemRow], list[CommitRow]]:  # fmt: skip
    trainer(run_dir, Subproblems(**options), logger=logger).analyse(module, problems, split=split)
    return read_subproblems(run_dir / "subproblems.csv"), read_commits(run_dir / "commits.csv")


def test_the_loss_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = data()
    monkeypatch.setattr(problems, "split_name", lambda split: f"hard {split}")
    rows, _ = analyse(tmp_path, Answering(LoneSingles(problems)), problems, policies=[TopMargin()], masks=16)
    right, wrong = (math.log(math.exp(SURE) + 3) - said for said in (SURE, 0.0))
    assert {row.kind for row in rows} > {"lone single", "hidden single"}
    for row in rows:
        expected = right if row.kind == "lone single" else wrong
        assert row.nats == pytest.approx(expected, abs=1e-5)
        assert row.nats_sem is None or row.nats_sem < 1e-3
        assert row.accuracy == float(row.kind == "lone single")
        assert row.ready == (row.kind not in ("other cells first", "beyond the strategies"))
        assert (row.task, row.split, row.device) == ("sudoku", "hard test", "cpu")
    # Mask probabilities are spread over (0, 1): half of all tokens are asked for.
    tokens = sum(len(problem.response) for problem in problems.problems("test"))
    assert sum(row.n for row in rows) == pytest.approx(16 * tokens / 2, rel=0.1)


def test_what_is_unmasked_up_to_the_first_mistake(tmp_path: Path) -> None:
    """Against the same counts from an observer of the loop."""
    problems = data()
    denoiser = LoneSingles(problems)
    policies: list[UnmaskingPolicy] = [IID(), LeftToRight(), GivenOrder()]
    _, rows = analyse(tmp_path, Answering(denoiser), problems, policies=policies, budgets=[5, 12], seeds=[0, 3])
    canvas = collate([problems.encoder(problem) for problem in problems.problems("test")], 0)  # type: ignore[misc]
    by_index = {problem.index: problem for problem in problems.problems("test")}
    for policy, T, seed in ((policy, T, seed) for policy in policies[:2] for T in (5, 12) for seed in (0, 3)):
        counted: Counter[tuple[str, int, bool]] = Counter()
        failed: set[int] = set()

        def watch(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
            for row, index in enumerate(state.noise.index_B.tolist()):
                if index in failed:  # noqa: B023
                    continue
                grid = from_text(by_index[index].answer)
                board = [0 if token == 4 else token + 1 for token in state.tokens_BL[row].tolist()]
                for cell in chosen_AL[row].nonzero()[:, 0].tolist():
                    lone = len({1, 2, 3, 4} - {board[other] for other in sees(16)[cell]}) == 1
                    wrong = int(prediction.best_token_BL[row, cell]) + 1 != grid[cell]
                    counted["lone single" if lone else "other", board.count(0), wrong] += 1  # noqa: B023
                    if wrong:
                        failed.add(index)  # noqa: B023

        decode(denoiser, policy, canvas, problems.token_space, steps=T, seed=seed, observers=[watch])
        own = [row for row in rows if (row.policy, row.T, row.seed) == (policy.name, T, seed)]
        assert {(row.problems, row.failed) for row in own} == {(12, len(failed))}
        assert sum(row.first_mistakes for row in own) == pytest.approx(len(failed))
        for lone in (True, False):
            mine = [row for row in own if (row.kind == "lone single") == lone]
            name = "lone single" if lone else "other"
            assert sum(row.n for row in mine) == sum(n for (kind, _, _), n in counted.items() if kind == name)
            assert sum(row.wrong for row in mine) == sum(
                n for (k, _, wrong), n in counted.items() if k == name and wrong
            )
        for first, last in {(row.fewest_masked, row.most_masked) for row in own}:
            inside = sum(n for (_, masked, _), n in counted.items() if first <= masked <= last)
            assert inside == sum(row.n for row in own if row.fewest_masked == first)
    assert len({row.policy for row in rows}) == 3
    solver = [row for row in rows if (row.policy, row.T) == ("given_order", 12)]
    assert {row.kind for row in solver} == {"lone single"}
    assert sum(row.wrong for row in solver) == 0, "the solver's order meets nothing that this denoiser does not know"


def test_all_policies_with_a_step_per_token(tmp_path: Path) -> None:
    problems = data()
    _, rows = analyse(tmp_path, Answering(LoneSingles(problems)), problems, n_problems=2)
    assert {row.T for row in rows} == {max(len(problem.response) for problem in problems.problems("test"))}
    assert {row.adaptive for row in rows if row.policy == "iid"} == {False}
    able = [kind() for kind in POLICIES if not kind().sequential and not kind().learned]
    expected = [policy.name for policy in able if "response" not in policy.reads and not policy.revises]
    assert list(dict.fromkeys(row.policy for row in rows)) == expected
    assert {row.problems for row in rows} == {2}
    assert all("token_frequency" in json.loads(row.options) for row in rows if row.policy == "pc_sampler")
    for given in ({"policies": [ReMDM()]}, {"fit_policies": [TopMargin(), ReMDM()]}):
        with pytest.raises(ValueError, match="subproblems: policy ReMDM may mask tokens again"):
            Subproblems(**given)


def test_the_oracle_trusts_what_is_right_alone(tmp_path: Path) -> None:
    """Of cells with several candidates every digit said is wrong: left to the end, where one is, and all is known."""
    problems = data()
    run = trainer(tmp_path, Frontier([Oracle(), TopMargin()], [12]))
    run.sweep(Answering(LoneSingles(problems)), problems)
    oracle, margin = read_rows(tmp_path / "frontier.csv")
    assert (oracle.policy, json.loads(oracle.options)["told"], oracle.adaptive) == ("oracle", "response", True)
    assert "told" not in json.loads(margin.options)
    assert margin.correct < oracle.correct == 12, "with these clues lone singles are enough"
    assert oracle.nfe_max < 12
    _, rows = analyse(tmp_path, Answering(LoneSingles(problems)), problems, policies=[Oracle()])
    assert {(row.wrong, row.adaptive) for row in rows} == {(0, True)}
    facts = SplitFacts(problems, "test")
    for problem in problems.problems("test"):
        assert "".join(str(token + 1) for token in facts.response(problem.index) or ()) == problem.response
    assert facts.response(-1) is None, "the second part of problem 0 in tasks that have some"


def test_a_law_with_many_answers_has_losses_only(tmp_path: Path) -> None:
    law = NaeSat(5, 10)
    losses, commits = analyse(tmp_path, Answering(law_denoiser(law)), NaeSatProblems(law, n_test=20))
    assert commits == []
    nats = {
        kind: sum(row.nats * row.n for row in losses if row.kind == kind)
        / sum(row.n for row in losses if row.kind == kind)
        for kind in {row.kind for row in losses}
    }
    assert nats["observation, decided by known latents"] < 1e-5
    assert min(nats["observation, not decided yet"], nats["latent"]) > 0.05
    assert (tmp_path / "subproblems.png").stat().st_size > 0
    with pytest.raises(
        ValueError, match=r"subproblems\.policies: a problem of nae_sat has several right .*; leave them"
    ):
        analyse(tmp_path, Answering(law_denoiser(law)), NaeSatProblems(law, n_test=20), policies=[TopMargin()])


class Wishing(nn.Module):
    """Another denoiser, except that it thinks some tokens likelier than all others everywhere."""

    def __init__(self, denoiser: nn.Module, wished: Sequence[int]) -> None:
        super().__init__()
        self.denoiser, self.wished = denoiser, list(wished)

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        logits_BQV = self.denoiser(tokens_BL, valid_BL, query_BQ).logits_BQV.clone()
        logits_BQV[..., self.wished] = 20.0
        return DenoiserOutput(logits_BQV)


def test_a_forbidden_token_is_never_predicted(tmp_path: Path) -> None:
    """Neither does it take probability from the true token, nor is it ever the likeliest."""
    law = NaeSat(5, 10, padding=2)
    problems, denoiser = NaeSatProblems(law, n_test=10), law_denoiser(law)
    forbidden = problems.token_space.forbidden
    assert forbidden == (2,)
    plain, _ = analyse(tmp_path / "plain", Answering(denoiser), problems)
    wishing, _ = analyse(tmp_path / "wishing", Answering(Wishing(denoiser, forbidden)), problems)
    assert [replace(row, checkpoint="") for row in wishing] == [replace(row, checkpoint="") for row in plain]
    assert max(row.nats for row in wishing) < 2.0, "between two tokens"
    assert {row.accuracy for row in wishing if row.kind == "observation, decided by known latents"} == {1.0}

    batch = collate([problems.encoder(problem) for problem in problems.problems("test")], 0)  # type: ignore[misc]
    masked_BL = torch.where(batch.response_BL, problems.token_space.mask_id, batch.tokens_BL)
    true_BQ = batch.tokens_BL.gather(1, response_query(batch.response_BL))
    for wished in (0, 1):  # the other one is all that is left
        nats_BQ, right_BQ, _ = predicted(Wishing(denoiser, [wished]), batch, masked_BL, [wished, 2])
        assert torch.equal(right_BQ, true_BQ == 1 - wished)
        assert torch.equal(nats_BQ == 0.0, right_BQ)


@pytest.mark.long
def test_the_other_split_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = data()
    module = Answering(LoneSingles(problems))
    analyse(tmp_path, module, problems, split="validation", policies=[TopMargin()])
    for again in range(2):
        losses, commits = analyse(tmp_path, module, problems, policies=[TopMargin()])
        assert list(dict.fromkeys(row.split for row in losses)) == ["test", "validation"], again
        assert {(row.split, row.problems) for row in commits} == {("test", 12), ("validation", 4)}
    assert "top margin" in capsys.readouterr().out
    hint = "had an analysis of test problems with top_margin, which gives way to this one"
    with pytest.warns(UserWarning, match=hint):
        _, commits = analyse(tmp_path, module, problems, policies=[IID()])
    assert {(row.split, row.policy) for row in commits} == {("test", "iid"), ("validation", "top_margin")}
    assert (tmp_path / "subproblems.svg").stat().st_size > 0


def test_while_fitting_it_shows_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    module = DenoiserModule(4, TransformerConfig(layers=1, width=8, heads=2, mlp_width=8, positions=16))
    callback = Subproblems(fit_policies=[TopMargin()], fit_problems=3)
    trainer(tmp_path, callback, logger=logger, max_steps=1, val_check_interval=1).fit(module, data())
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["subproblems"]
    scalars = set(events.Tags()["scalars"])
    assert {"val/subproblem_nats/lone_single", "val/subproblem_accuracy/hidden_single"} <= scalars
    assert {name.split("@")[0] for name in scalars if "top_margin" in name} >= {
        "val/ready_share", "val/mistakes_per_token", "val/unready_first_mistakes",
    }  # fmt: skip
    assert not (tmp_path / "commits.csv").exists(), "rows are for `analyse`"


def test_a_training_analyses_what_is_meant_for_it_and_nothing_at_its_sanity_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = TransformerConfig(layers=1, width=8, heads=2, mlp_width=8, positions=16)
    masked: list[int] = []
    denoise = Subproblems.denoise

    def noted(self: Subproblems, trainer: L.Trainer, module: L.LightningModule, batch: Batch, draw: int) -> None:
        masked.extend(batch.index_B.tolist())
        denoise(self, trainer, module, batch, draw)

    monkeypatch.setattr(Subproblems, "denoise", noted)
    problems = data()
    longest = max(len(problem.response) for problem in problems.problems("validation"))
    asked: dict[str, Any] = {"budgets": [5], "seeds": [3], "n_problems": 1, "masks": 1, "fit_problems": 3}
    for policies, fit_policies, expected in (
        ([IID()], [TopMargin()], [f"T={longest}/top_margin"]),
        (None, [Oracle()], [f"T={longest}/oracle"]),
    ):
        masked.clear()
        callback = Subproblems(policies, fit_policies=fit_policies, **asked)
        run = trainer(tmp_path, callback, max_steps=1, val_check_interval=1, num_sanity_val_steps=1)
        run.fit(DenoiserModule(4, net), problems)
        assert [run.name for run in callback.runs] == expected
        assert masked == [problem.index for problem in problems.problems("validation")[:3]]
    law = NaeSat(5, 10)
    callback = Subproblems([TopMargin()], **asked)
    run = trainer(tmp_path, callback, max_steps=1, val_check_interval=1, num_sanity_val_steps=0)
    run.fit(DenoiserModule(law.n_tokens, net), NaeSatProblems(law, n_validation=4, batch_size=2))
    assert callback.runs == []


def test_every_problem_is_masked_in_ways_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its tokens are counted by how many are masked with them."""
    shares: list[float] = []
    places: list[tuple[float, ...]] = []
    counts: list[int] = []

    def noted(tokens_BL: Tensor, response_BL: Tensor, t_B: Tensor, uniform_BL: Tensor, mask_id: int) -> Tensor:
        shares.extend(t_B.tolist())
        places.extend(map(tuple, uniform_BL.tolist()))
        masked_BL = mask_tokens(tokens_BL, response_BL, t_B, uniform_BL, mask_id)
        counts.extend((masked_BL == mask_id).sum(-1).tolist())
        return masked_BL

    monkeypatch.setattr(subproblems, "mask_tokens", noted)
    problems = data()
    for again in (1, 2):
        rows, _ = analyse(tmp_path, Answering(LoneSingles(problems)), problems, policies=(), masks=3)
        assert len(shares) == again * 3 * 12
        assert len(set(shares)) == len(set(places)) == 3 * 12, "the same ones at every evaluation"
    for first, last in {(row.fewest_masked, row.most_masked) for row in rows}:
        inside = sum(masked for masked in counts[: 3 * 12] if first <= masked <= last)
        assert inside == sum(row.n for row in rows if row.fewest_masked == first)


def test_one_process_writes_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    problems = data()
    run = trainer(tmp_path, Subproblems([TopMargin()], [5], masks=1, n_problems=2))
    run.analyse(Answering(LoneSingles(problems)), problems)
    assert "test/ready_share@T=5/top_margin" in run.callback_metrics
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fitted", [False, True])
def test_nothing_where_there_is_nothing_to_tell(tmp_path: Path, fitted: bool) -> None:
    """Silence while fitting, words in an analysis."""
    net = TransformerConfig(layers=1, width=8, heads=2, mlp_width=8)
    cases: Sequence[tuple[L.LightningModule, ProblemDataModule, str]] = [
        (AutoregressiveModule(4, net), data(layout="moves"), "a causal net sees no sequence with gaps"),
        (DenoiserModule(280, net), few_problems(), "word_problems tells none apart as configured"),
    ]
    for module, problems, message in cases:
        if fitted:
            options = {"max_steps": 1, "val_check_interval": 1}
            trainer(tmp_path, Subproblems(fit_problems=2), **options).fit(module, problems)
        else:
            with pytest.raises(ValueError, match=message):
                analyse(tmp_path, module, problems)


@pytest.mark.parametrize("name", ["subproblems.csv", "commits.csv"])
def test_a_damaged_file_stops_an_analysis_before_it_begins_and_no_training(tmp_path: Path, name: str) -> None:
    problems = data()
    analyse(tmp_path, Answering(LoneSingles(problems)), problems, policies=[TopMargin()], budgets=[5])
    with open(tmp_path / name, "a") as file:
        file.write("half a li")
    asked = LoneSingles(problems)
    asked.forward = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match=f"{name}, line"):
        analyse(tmp_path, Answering(asked), problems, policies=[TopMargin()], budgets=[5])
    module = DenoiserModule(4, TransformerConfig(layers=1, width=8, heads=2, mlp_width=8, positions=16))
    trainer(tmp_path, Subproblems(fit_problems=2), max_steps=1, val_check_interval=1).fit(module, problems)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"subproblems.budgets=\[0\]: give step budgets of at least 1, or null"):
        Subproblems(budgets=[0])
    with pytest.raises(ValueError, match=r"subproblems.masks=0: give at least 1"):
        Subproblems(masks=0)
    problems = data()
    twice = Subproblems([TopMargin(), TopMargin()])
    with pytest.raises(ValueError, match=r"subproblems.policies: a policy occurs twice"):
        trainer(Path("nowhere"), twice).analyse(Answering(LoneSingles(problems)), problems)


def test_rows_by_hand() -> None:
    """Numbers of masked tokens up to twelve are in bins of two."""
    one, two = kinds = data().subproblem_kinds[:2]
    metric = SubproblemMetric(["a"], len(kinds), 12)
    metric.update(
        torch.tensor([0, 0, 0, 1]), torch.tensor([1, 2, 2, 12]), torch.tensor([1.0, 2.0, 6.0, 4.0]),
        torch.tensor([True, False, True, True]),
    )  # fmt: skip
    metric.add_commits("a", [[(0, 4, False), (0, 4, False)], [(0, 2, True), (1, 2, True)]])
    metric.add_commits("a", [[(1, 1, False)]])
    denoised, committed = metric.compute()
    where = ("sudoku", "test", "1f0c")
    assert [
        (r.kind, r.ready, r.fewest_masked, r.most_masked, r.n, r.nats, r.nats_sem, r.accuracy)
        for r in subproblem_rows(where, "cpu", kinds, denoised)
    ] == [
        (one.name, one.ready, 1, 2, 3, 3.0, pytest.approx(statistics.stdev([1.0, 2.0, 6.0]) / 3**0.5), 2 / 3),
        (two.name, two.ready, 11, 12, 1, 4.0, None, 1.0),
    ]
    rows = commit_rows(where, "cpu", kinds, "{}", True, Run(IID(), 3, 7), committed["a"])
    assert [(r.kind, r.fewest_masked, r.most_masked, r.n, r.wrong, r.first_mistakes) for r in rows] == [
        (one.name, 1, 2, 1, 1, 0.5), (one.name, 3, 4, 2, 0, 0.0), (two.name, 1, 2, 2, 1, 0.5),
    ]  # fmt: skip
    assert {(r.policy, r.T, r.seed, r.problems, r.failed, r.adaptive) for r in rows} == {("iid", 3, 7, 2, 1, True)}


def test_what_is_logged_is_what_the_rows_add_up_to(tmp_path: Path) -> None:
    problems = data()
    run = trainer(tmp_path, Subproblems([IID(), TopMargin()], [9], masks=2))
    run.analyse(Answering(LoneSingles(problems)), problems)
    losses, rows = read_subproblems(tmp_path / "subproblems.csv"), read_commits(tmp_path / "commits.csv")
    expected: dict[str, float] = {}
    for kind in {row.kind for row in losses}:
        own = [row for row in losses if row.kind == kind]
        n, name = sum(row.n for row in own), kind.replace(",", "").replace(" ", "_")
        expected[f"subproblem_nats/{name}"] = sum(row.n * row.nats for row in own) / n
        expected[f"subproblem_accuracy/{name}"] = sum(row.n * row.accuracy for row in own) / n
    some_failed = []
    for policy in ("iid", "top_margin"):
        met = [row for row in rows if row.policy == policy]
        n, unready = sum(row.n for row in met), [row for row in met if not row.ready]
        firsts = sum(row.first_mistakes for row in unready)
        expected[f"ready_share@T=9/{policy}"] = 1.0 - sum(row.n for row in unready) / n
        expected[f"mistakes_per_token@T=9/{policy}"] = sum(row.wrong for row in met) / n
        expected[f"unready_first_mistakes@T=9/{policy}"] = firsts / met[0].failed
        some_failed.append(firsts > 0.0 and 0 < met[0].failed < met[0].problems)
    assert any(some_failed)
    found = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("test/")}
    assert found == {f"test/{name}": pytest.approx(value, rel=1e-6) for name, value in expected.items()}, "in float32"


def test_of_another_split_what_other_selectors_unmasked_goes(tmp_path: Path) -> None:
    def rows(split: str, *selectors: str | None) -> list[CommitRow]:
        said = [{"selector": selector} if selector else {} for selector in selectors]
        return [replace(COMMIT, split=split, options=json.dumps(options)) for options in said]

    callback = Subproblems()
    for split, selectors in (("validation", ("aa", "bb", None)), ("test", ("bb", None))):
        callback.split = split
        callback.publish(tmp_path, [replace(LOSS, split=split)], rows(split, *selectors))
    assert read_commits(tmp_path / "commits.csv") == [*rows("test", "bb", None), *rows("validation", "bb", None)]
    callback.publish(tmp_path, [replace(LOSS, split="test", checkpoint="2f0c")], [])
    assert [row.split for row in read_subproblems(tmp_path / "subproblems.csv")] == ["test"], "of older weights"
    (tmp_path / "commits.csv").unlink()
    callback.split = "validation"
    callback.publish(tmp_path, [replace(LOSS, split="validation", checkpoint="2f0c")], [])
    assert [row.split for row in read_subproblems(tmp_path / "subproblems.csv")] == ["validation"], (
        "half of one is none"
    )


def test_nothing_is_left_of_an_earlier_loop(tmp_path: Path) -> None:
    """With the same callback, a training that asks for no analysis has none."""
    problems = data()
    callback = Subproblems([TopMargin()], [5], masks=1, n_problems=2)
    trainer(tmp_path, callback).analyse(Answering(LoneSingles(problems)), problems)
    module = DenoiserModule(4, TransformerConfig(layers=1, width=8, heads=2, mlp_width=8, positions=16))
    run = trainer(tmp_path, callback, max_steps=1, val_check_interval=1)
    run.fit(module, problems)
    assert not any("subproblem" in name for name in run.callback_metrics)


@pytest.mark.parametrize("longest", [1, 9, 10, 12, 64, 300])
def test_bins_cover_every_number_once(longest: int) -> None:
    found = bins_of(longest)
    assert [n for first, last in found for n in range(first, last + 1)] == list(range(1, longest + 1))
    assert len(found) <= 10
