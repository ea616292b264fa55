"""What orders cost, inside Lightning's loops: which rows come out, and what stays in the run directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_mdm.callbacks.order_nats import OrderNats
from lightning_mdm.callbacks.runs import planned, runs_of
from lightning_mdm.data.batch import collate
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.hop_chain import HopChainProblems
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.policies import IID, P2, POLICIES, ConfidenceThreshold, Oracle, TopMargin
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.laws import law_denoiser
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.outcomes import OrderRow, read_order_rows
from lightning_mdm.trainer import Trainer
from runs import N_TEST, Answering, Omniscient, few_problems, trainer

LAW = HopChain(chain=6, free=2, given=2)
N = 7


def data(eval_batch_size: int = 3, **options: Any) -> HopChainProblems:
    return HopChainProblems(LAW, n_validation=4, n_test=N, batch_size=2, eval_batch_size=eval_batch_size, **options)


def order_module(seed: int = 0, **options: Any) -> OrderModule:
    torch.manual_seed(seed)
    net = SelectorConfig(width=8, heads=2, mlp_width=8)
    return OrderModule(LAW.n_tokens, LAW, selector=net, budgets=[2, 3], samples=2, validation_samples=1, **options)


@dataclass(frozen=True)
class OptimalOrder(UnmaskingPolicy):
    """The order that the law knows to be the best one of so many steps."""

    steps: int = 2

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        order_L = torch.tensor(LAW.optimum_order(self.steps, LAW.fixed_roles))
        return state.masked_BL & (order_L == state.step)


def evaluate(
    run_dir: Path, policies: Sequence[UnmaskingPolicy] | None = None, budgets: Sequence[int] = (1, 2), *,
    module: L.LightningModule | None = None, problems: ProblemDataModule | None = None, split: Any = "test",
    logger: Any = False, **options: Any,
) -> list[OrderRow]:  # fmt: skip
    callback = OrderNats(policies, budgets, **options)
    module = module or Answering(law_denoiser(LAW))
    trainer(run_dir, callback, logger=logger).sweep(module, problems or data(), split=split)
    return read_order_rows(run_dir / "order_nats.csv")


@dataclass(frozen=True)
class Precise(TopMargin):
    """Of a user's own, with an option that rows call something else."""

    precision: float = 0.25


@dataclass(frozen=True)
class Own(TopMargin):
    """Of a user's own."""


def test_rows_say_the_source_of_a_policy_of_ones_own_and_refuse_options_that_they_call_something_else(
    tmp_path: Path,
) -> None:
    rows = evaluate(tmp_path / "own", [Own(), TopMargin()], [2])
    assert ["source" in json.loads(row.options) for row in rows] == [True, False]
    assert all(row.software.startswith(f"torch {torch.__version__}") for row in rows)
    with pytest.raises(ValueError, match="policy Precise: rows of results call something else precision; give"):
        evaluate(tmp_path / "precise", [Precise()], [2])


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"order_nats.budgets=\[0\]: a step budget is at least 1"):
        OrderNats(budgets=[0])
    with pytest.raises(ValueError, match=r"order_nats.n_problems=0: give at least 1, or null for all"):
        OrderNats(n_problems=0)
    with pytest.raises(ValueError, match=r"order_nats.policies: a policy occurs twice"):
        OrderNats([TopMargin(), TopMargin()], [1])


def test_rows_are_the_means_of_the_problems(tmp_path: Path) -> None:
    policies = [IID(), ConfidenceThreshold(0.9)]
    rows = evaluate(tmp_path, policies, (1, 2, 4), seeds=(0, 5))
    assert [(row.policy, row.T, row.seed) for row in rows] == [
        (policy.name, T, seed) for policy in policies for T in (1, 2, 4) for seed in (0, 5)
    ]
    problems = data()
    canvas = collate([problems.encoder(problem) for problem in problems.problems("test")], 0)  # type: ignore[misc]
    for row, (policy, T, seed) in zip(
        rows, [(policy, T, seed) for policy in policies for T in (1, 2, 4) for seed in (0, 5)], strict=True
    ):
        nats_B, trace = true_token_nats(law_denoiser(LAW), policy, canvas, problems.token_space, steps=T, seed=seed)
        assert row.n == N
        assert row.nats == pytest.approx(float(nats_B.mean()), abs=1e-9)
        assert row.nats_sem == pytest.approx(float(nats_B.std() / N**0.5), abs=1e-9)
        assert row.nats_per_token == pytest.approx(float(nats_B.mean()) / LAW.length)
        assert row.nfe_mean == pytest.approx(float(trace.nfe_B.double().mean()))
        assert (row.nfe_min, row.nfe_max) == (int(trace.nfe_B.min()), int(trace.nfe_B.max()))
        assert row.optimum == LAW.optimum_nats(T) <= row.nats + 1e-5
        assert (row.task, row.split, row.device, row.adaptive) == ("hop_chain", "test", "cpu", policy.adaptive)
        assert json.loads(row.options) == {**policy.options, "precision": "32-true"}


def test_the_best_order_costs_the_optimum(tmp_path: Path) -> None:
    for steps in (2, 3):
        (row,) = evaluate(tmp_path / str(steps), [OptimalOrder(steps)], [steps])
        assert row.nats == pytest.approx(LAW.optimum_nats(steps), abs=1e-5)
        assert row.nats_sem == pytest.approx(0.0, abs=1e-5)


def test_the_batch_size_changes_nothing(tmp_path: Path) -> None:
    found = [
        evaluate(tmp_path / str(size), [IID(), TopMargin()], problems=data(eval_batch_size=size)) for size in (1, 7)
    ]
    for one, seven in zip(*found, strict=True):
        assert one.nats == pytest.approx(seven.nats, abs=1e-12)
        assert replace(one, nats=0.0, nats_per_token=0.0, nats_sem=0.0) == replace(
            seven, nats=0.0, nats_per_token=0.0, nats_sem=0.0
        )


def test_the_first_problems_only(tmp_path: Path) -> None:
    (row,) = evaluate(tmp_path / "one", [TopMargin()], [2], n_problems=1)
    assert (row.n, row.nats_sem) == (1, None)
    (row,) = evaluate(tmp_path / "two", [IID()], [2], n_problems=2)
    problems = data()
    canvas = collate([problems.encoder(problem) for problem in problems.problems("test")], 0)  # type: ignore[misc]
    nats_B, _ = true_token_nats(law_denoiser(LAW), IID(), canvas, problems.token_space, steps=2)
    assert row.nats == pytest.approx(float(nats_B[:2].mean()), abs=1e-9)
    assert abs(row.nats - float(nats_B[-2:].mean())) > 1.0, "the last ones would show"


def test_all_policies_are_compared_the_learned_ones_where_there_is_a_selector(tmp_path: Path) -> None:
    anywhere = [
        policy for policy in (kind() for kind in POLICIES)
        if not policy.sequential and not policy.reads & {"order", "response"} and not policy.revises
    ]  # fmt: skip
    heuristics = [policy.name for policy in anywhere if not policy.learned]
    assert [row.policy for row in evaluate(tmp_path / "law", None, [2])] == heuristics
    rows = evaluate(tmp_path / "order", None, [2], module=order_module())
    assert [row.policy for row in rows] == [policy.name for policy in anywhere]
    assert ["selector" in json.loads(row.options) for row in rows] == [row.policy == "learned" for row in rows]
    frequency = [row.policy for row in rows if "token_frequency" in json.loads(row.options)]
    assert frequency == ["pc_sampler"]
    with pytest.raises(ValueError, match="policy Learned: this module has no selector"):
        evaluate(tmp_path / "none", [Learned()], [2])
    with pytest.raises(
        ValueError, match=r"order_nats.policies=\['oracle'\]: an order that reads the answer gives it no"
    ):
        OrderNats([TopMargin(), Oracle()], [2])
    with pytest.raises(ValueError, match=r"order_nats.policies=\['p2'\]: tokens that are masked again have no"):
        OrderNats([TopMargin(), P2()], [2])


def test_the_learned_order_is_run_at_every_price_it_was_trained_with() -> None:
    module, facts = order_module(prices=[0.5, 0.0, 2.0]), SplitFacts(data(), "test")
    runs = runs_of(planned("", [Learned(), TopMargin()], [2], [0]), True, module, facts)
    assert [run.policy for run in runs] == [*(Learned(price=price) for price in (0.5, 0.0, 2.0)), TopMargin()]


def test_a_task_without_a_known_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = few_problems()
    rows = evaluate(tmp_path, [TopMargin()], [4], module=Answering(Omniscient(problems)), problems=problems)
    assert [(row.n, row.optimum) for row in rows] == [(N_TEST, None)]
    assert 0.0 < rows[0].nats_per_token < 0.1, "an end of the sequence is a token like any other"
    examples = [problems.encode(problem) for problem in problems.problems("test")]
    tokens = sum(len(example.given) - sum(example.given) for example in examples if example is not None)
    assert rows[0].nats_per_token == pytest.approx(rows[0].nats * N_TEST / tokens), "not those of the question"
    assert "optimum" not in capsys.readouterr().out


def test_table_figure_and_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    rows = evaluate(tmp_path, [TopMargin(), IID()], (1, 2), logger=logger, split="validation")
    logger.finalize("success")
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["policy", "T=1", "T=2"] in lines
    assert ["optimum", *(f"{LAW.optimum_nats(T):.2f}" for T in (1, 2))] in lines
    assert all((tmp_path / f"order_nats.{kind}").stat().st_size > 0 for kind in ("png", "svg"))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["order_nats"]
    curve = [(event.step, event.value) for event in events.Scalars("order_nats_over_T/validation/top margin")]
    assert curve == [(row.T, pytest.approx(row.nats)) for row in rows if row.policy == "top_margin"]
    assert [event.step for event in events.Scalars("order_nats_over_T/validation/optimum")] == [1, 2]
    assert {"val/order_nats@T=2/iid", "order_nfe_over_T/validation/iid"} <= set(events.Tags()["scalars"])


def test_nothing_while_fitting_and_nothing_without_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("evaluated")

    callback = OrderNats([TopMargin()], [2])
    trainer(tmp_path / "before", callback).sweep(Answering(law_denoiser(LAW)), data())
    monkeypatch.setattr("lightning_mdm.callbacks.order_nats.true_token_nats", never)
    run = trainer(tmp_path, callback, max_steps=1, val_check_interval=1)
    run.fit(order_module(), data())
    trainer(tmp_path, OrderNats()).sweep(Answering(law_denoiser(LAW)), data())
    assert not (tmp_path / "order_nats.csv").exists()


def test_one_process_writes_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    run = trainer(tmp_path, OrderNats([IID()], [2]))
    run.sweep(Answering(law_denoiser(LAW)), data())
    assert "test/order_nats@T=2/iid" in run.callback_metrics
    assert not list(tmp_path.iterdir())


def test_the_other_split_stays_and_older_weights_go(tmp_path: Path) -> None:
    module = order_module()
    policies = [TopMargin(), Learned()]
    evaluate(tmp_path, policies, [2], module=module, split="validation")
    rows = evaluate(tmp_path, policies, [2], module=module)
    assert [(row.split, row.policy) for row in rows] == [
        (split, policy) for split in ("test", "validation") for policy in ("top_margin", "learned")
    ]
    rows = evaluate(tmp_path, policies, [2], module=order_module(seed=1))
    # The denoiser is the same formula, the selector another one.
    assert [(row.split, row.policy) for row in rows] == [
        ("test", "top_margin"), ("test", "learned"), ("validation", "top_margin"),
    ]  # fmt: skip


def test_what_is_of_another_task_or_denoiser_goes(tmp_path: Path) -> None:
    class Other(HopChainProblems):
        task = "other_chain"

    evaluate(tmp_path, [TopMargin()], [2], split="validation")
    (row,) = evaluate(tmp_path, [TopMargin()], [2], problems=Other(LAW, n_validation=4, n_test=N))
    assert row.task == "other_chain", "with the same formula"
    problems = few_problems()
    rows = evaluate(tmp_path, [TopMargin()], [2], module=Answering(Omniscient(problems)), problems=problems)
    assert [row.task for row in rows] == ["word_problems"]
