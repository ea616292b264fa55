"""The frontier inside Lightning's loops: which weights decode, what is decoded again, what is written."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.runs import denoiser_of, file_hash, place_of, weights_hash, wrapped_in
from lightning_mdm.data.hop_chain import HopChainProblems
from lightning_mdm.data.word_problems import WordProblems
from lightning_mdm.decoding import options as options_module
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import IID, P2, Blocks, ConfidenceThreshold, EntropyBounded, LeftToRight, TopMargin
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.outcomes import OutcomeStore, read_outcomes, read_rows
from lightning_mdm.report import display_name
from lightning_mdm.trainer import Trainer
from runs import FEW, N_TEST, N_VALIDATION, Answering, Omniscient, few_problems, program, tiny, trainer

NET = TransformerConfig(layers=1, width=16, heads=2, mlp_width=16)
BUDGETS = [1, 4]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int], str, int]]:
    """Every decode run from now on: hash of the weights, problems, policy and budget."""
    calls: list[tuple[str, list[int], str, int]] = []
    decode = options_module.decode

    def spy(denoiser: Any, policy: Any, canvas: Any, space: Any, **options: Any) -> Any:
        calls.append((weights_hash(denoiser), canvas.index_B.tolist(), policy.name, options["steps"]))
        return decode(denoiser, policy, canvas, space, **options)

    monkeypatch.setattr(options_module, "decode", spy)
    return calls


def network(vocab_size: int = 280, seed: int = 0) -> DenoiserModule:
    torch.manual_seed(seed)
    return DenoiserModule(vocab_size, NET, warmup_steps=1, learning_rate=1e-2)


def test_a_budget_below_one_and_a_policy_given_twice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frontier.budgets=\[0\]: a step budget is at least 1"):
        Frontier([TopMargin()], [0])
    with pytest.raises(ValueError, match=r"frontier.fit_budgets=\[-1\]"):
        Frontier(fit_policies=[TopMargin()], fit_budgets=[-1])
    with pytest.raises(ValueError, match=r"frontier.budgets=\[4, 1, 4\]: give each once"):
        Frontier([TopMargin()], [4, 1, 4])
    with pytest.raises(ValueError, match=r"frontier.seeds=\[0, 0\]: give each once"):
        Frontier([TopMargin()], [4], seeds=[0, 0])
    for option in ("fit_problems", "examples"):
        with pytest.raises(ValueError, match=rf"frontier.{option}=-1: give a number of problems, at least 0"):
            Frontier([TopMargin()], [4], **{option: -1})
    with pytest.raises(ValueError, match=r"frontier.policies: a policy occurs twice"):
        Frontier([ConfidenceThreshold(0.9), ConfidenceThreshold(0.9)], [1])


# Which weights decode.


class DecodesTooLate(L.Callback):
    """What a naive callback does: it decodes once validation has ended."""

    def __init__(self) -> None:
        self.hashes: list[str] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.hashes.append(weights_hash(denoiser_of(pl_module)))


def hash_of(state: dict[str, torch.Tensor]) -> str:
    module = network()
    module.load_state_dict(state)
    return weights_hash(module.denoiser)


@pytest.mark.parametrize("averaged_first", [True, False])
def test_fit_decodes_the_averaged_weights_whatever_the_order_of_callbacks(
    tmp_path: Path, decoded: list[tuple[str, list[int], str, int]], averaged_first: bool
) -> None:
    frontier = Frontier(fit_policies=[TopMargin()], fit_budgets=[1], fit_problems=N_VALIDATION)
    average, naive = EMAWeightAveraging(decay=0.5), DecodesTooLate()
    callbacks = [average, frontier] if averaged_first else [frontier, average]
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    run = trainer(tmp_path, *callbacks, naive, saving, enable_checkpointing=True, max_steps=4, val_check_interval=2)
    run.fit(network(), few_problems())
    for place, step in enumerate((2, 4)):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        averaged, raw = hash_of(saved["state_dict"]), hash_of(saved["current_model_state"])
        assert averaged != raw
        # Two batches of at most three problems per validation.
        assert [call[0] for call in decoded[2 * place : 2 * place + 2]] == [averaged] * 2
        assert naive.hashes[place] == raw, "the trap is gone: this test no longer shows anything"
    assert len(decoded) == 4


@pytest.mark.parametrize("fit_problems", [2, 4, 64])
def test_fit_decodes_the_first_problems_and_the_sanity_check_none(
    tmp_path: Path, decoded: list[tuple[str, list[int], str, int]], fit_problems: int
) -> None:
    frontier = Frontier(
        [LeftToRight()], [2], fit_policies=[TopMargin(), IID()], fit_budgets=BUDGETS, fit_problems=fit_problems
    )
    data = few_problems()
    run = trainer(tmp_path, frontier, max_steps=2, val_check_interval=2, num_sanity_val_steps=2)
    run.fit(network(), data)
    first = [problem.index for problem in data.problems("validation")][:fit_problems]
    expected = {(policy, T): Counter(first) for policy in ("top_margin", "iid") for T in BUDGETS}
    found: dict[tuple[str, int], Counter[int]] = {}
    for _, problems, policy, T in decoded:
        found.setdefault((policy, T), Counter()).update(problems)
    assert found == expected
    keys = {f"val/{metric}@T={T}/{policy}" for metric in ("accuracy", "nfe") for policy, T in expected}
    assert keys == {key for key in run.callback_metrics if "@" in key}
    assert run.callback_metrics["val/nfe@T=4/top_margin"] == 4
    assert not (tmp_path / "cells").exists()


def test_the_first_problems_are_meant_not_those_of_low_index(
    tmp_path: Path, decoded: list[tuple[str, list[int], str, int]]
) -> None:
    # Of GSM8K a problem's index is its line: the first of a held-out split may be line 17.
    class Lines(WordProblems):
        def load_problems(self, split: str) -> list[Any]:
            return [replace(problem, index=17 + 8 * k) for k, problem in enumerate(super().load_problems(split))]

    data = Lines(n_test=N_TEST, **FEW)
    frontier = Frontier(fit_policies=[TopMargin()], fit_budgets=[1], fit_problems=2, examples=1)
    trainer(tmp_path, frontier, max_steps=2, val_check_interval=1).fit(network(), data)
    assert [problems for _, problems, _, _ in decoded] == [[17, 25]] * 2, "at both validations"
    assert [example.problem for example in frontier.examples] == [17], "of the last one"
    decoded.clear()
    trainer(tmp_path, Frontier([TopMargin()], [1])).sweep(Answering(Omniscient(data)), data)
    (row,) = read_rows(tmp_path / "frontier.csv")
    assert "source" in json.loads(row.options), "a task of one's own"


def test_nothing_is_left_of_an_earlier_loop(tmp_path: Path, decoded: list[tuple[str, list[int], str, int]]) -> None:
    """With the same callback, a training that asks for no policies decodes nothing."""
    data, callback = few_problems(), Frontier([TopMargin()], [1])
    trainer(tmp_path, callback).sweep(Answering(Omniscient(data)), data)
    assert decoded
    decoded.clear()
    trainer(tmp_path, callback, max_steps=1, val_check_interval=1).fit(network(), data)
    assert not decoded


# What is decoded, and what is not decoded again.


def sweep(
    run_dir: Path,
    denoiser: torch.nn.Module,
    data: WordProblems,
    split: Any = "test",
    budgets: Any = BUDGETS,
    **options: Any,
) -> None:
    callback = Frontier(options.pop("policies", [TopMargin(), IID()]), budgets, **options)
    trainer(run_dir, callback).sweep(Answering(denoiser), data, split=split)


@pytest.mark.parametrize("right", [True, False])
def test_rows_are_right_by_hand(tmp_path: Path, right: bool) -> None:
    data = few_problems()
    sweep(tmp_path, Omniscient(data, right=right), data)
    rows = {(row.policy, row.T): row for row in read_rows(tmp_path / "frontier.csv")}
    assert set(rows) == {(policy, T) for policy in ("top_margin", "iid") for T in BUDGETS}
    tokens = sum(len(data.tokenizer.encode(p.response).ids) for p in data.problems("test")) if right else 0
    for (policy, T), row in rows.items():
        assert (row.task, row.split, row.seed, row.n, row.left_out) == ("word_problems", "test", 0, N_TEST, 0)
        assert json.loads(row.options) == {
            "end_of_sequence": "as_tokens",
            "isolate_rows": False,
            "precision": "32-true",
            "token_temperature": 0,
        }
        assert row.correct == (N_TEST if right else 0)
        assert row.accuracy == row.correct / N_TEST
        assert (row.accuracy_low, row.accuracy_high) == pytest.approx(tuple(wilson(row.correct, N_TEST)))
        assert (row.nfe_mean, row.nfe_min, row.nfe_max) == (T, T, T)
        assert row.tokens_per_forward == pytest.approx(tokens / (T * N_TEST))
        assert row.forward_passes == 3 * T, f"{policy}: {N_TEST} problems in batches of 3"
        assert row.seconds > 0
        assert row.device == "cpu"
        assert row.commit
        assert row.software.startswith(f"torch {torch.__version__}, lightning ")
        assert len(row.checkpoint) == 12
        assert row.score is None
        assert row.problems == data.problems_hash("test")
    outcomes = read_outcomes(tmp_path / "outcomes.csv")
    assert len(outcomes) == N_TEST * len(rows)
    answers = {problem.index: problem.answer for problem in data.problems("test")}
    assert {o.problem for o in outcomes} == set(answers)
    assert all(o.correct == right and o.answer == (answers[o.problem] if right else None) for o in outcomes)
    with open(tmp_path / "frontier.csv", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    assert columns == [
        "task", "split", "checkpoint", "policy", "options", "T", "seed", "n", "correct", "accuracy", "accuracy_low",
        "accuracy_high", "nfe_mean", "nfe_min", "nfe_max", "tokens_per_forward", "forward_passes", "seconds", "device",
        "commit", "left_out", "adaptive", "score", "score_sem", "problems",
        "software",
    ]  # fmt: skip


def test_everything_is_left_in_the_run_directory(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = few_problems()
    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    callback = Frontier([TopMargin(), IID()], BUDGETS[::-1], seeds=[0, 1], examples=2)  # curves are sorted by T
    run = trainer(tmp_path, callback, logger=logger)
    run.sweep(Answering(Omniscient(data)), data, split="validation")
    logger.finalize("success")
    for name in ("frontier.csv", "frontier.png", "frontier.svg", "outcomes.csv", "report.md"):
        assert (tmp_path / name).stat().st_size > 0, name
    assert "T=4" in (tmp_path / "report.md").read_text(encoding="utf-8")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    names = [f"T={T}/{policy}{seed}" for T in BUDGETS for policy in ("top_margin", "iid") for seed in ("", "/seed=1")]
    assert {f"val/{metric}@{name}" for metric in ("accuracy", "nfe") for name in names} <= scalars
    assert [(event.step, event.value) for event in events.Scalars("accuracy_over_T/validation/top margin")] == [
        (1, 1.0),
        (4, 1.0),
    ]
    assert events.Tags()["images"] == ["frontier"]
    texts = {tag for tag in events.Tags()["tensors"] if tag.startswith("decoded/")}
    assert texts == {f"decoded/{name}/text_summary" for name in names}
    text = events.Tensors("decoded/T=4/top_margin/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("right") == 2
    assert "|step|" in text
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == len(names)
    for cell in cells:
        assert len(list(cell.glob("events.out.tfevents.*"))) == 1, "one HPARAMS row per cell"
        own = EventAccumulator(str(cell))
        own.Reload()
        assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(own.summary_metadata)
        assert own.Scalars("accuracy")[0].value == 1.0


def changed_options(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    return Omniscient(data), data, {"decoding": DecodingOptions(end_of_sequence="close")}


def changed_temperature(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    return Omniscient(data), data, {"decoding": DecodingOptions(token_temperature=0.5)}


def changed_seed(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    return Omniscient(data), data, {"seeds": [1]}


def changed_budget(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    return Omniscient(data), data, {"budgets": [2, 3]}


def changed_split(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    return Omniscient(data), data, {"split": "validation"}


def changed_weights(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    denoiser = Omniscient(data)
    denoiser.skill.data += 1e-3
    return denoiser, data, {}


def changed_problems(data: WordProblems, run_dir: Path) -> tuple[Any, WordProblems, dict[str, Any]]:
    more = few_problems(N_TEST + 1)
    return Omniscient(more), more, {}


@pytest.mark.parametrize(
    "change",
    [
        changed_options,
        changed_temperature,
        changed_seed,
        changed_budget,
        changed_split,
        changed_weights,
        changed_problems,
    ],
)
def test_what_is_decoded_already_is_decoded_again_only_where_anything_changed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[WordProblems, Path], tuple[Any, WordProblems, dict[str, Any]]],
) -> None:
    data = few_problems()
    first, second = Omniscient(data), Omniscient(data)
    sweep(tmp_path, first, data)
    assert first.calls > 0
    assert "Found" not in capsys.readouterr().out
    written = [(tmp_path / name).read_bytes() for name in ("frontier.csv", "outcomes.csv")]
    sweep(tmp_path, second, data)
    assert second.calls == 0
    assert f"Found {4 * N_TEST} decoded outcomes in {tmp_path / 'cells'}" in capsys.readouterr().out
    assert [(tmp_path / name).read_bytes() for name in ("frontier.csv", "outcomes.csv")] == written
    third, other, options = change(data, tmp_path)
    warns = pytest.warns(UserWarning, match="which give way") if change is changed_problems else nullcontext()
    with warns:
        sweep(tmp_path, third, other, **options)
    fresh, _, options = change(data, tmp_path)
    sweep(tmp_path / "fresh", fresh, other, **options)
    assert third.calls == fresh.calls > 0
    assert "Found" not in capsys.readouterr().out


def test_outcomes_of_other_code_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a policy is what it was then nobody can tell; of a commit that may be other code it is always said."""
    data = few_problems()

    def said(commit: str) -> str:
        monkeypatch.setattr("lightning_mdm.callbacks.frontier.commit_hash", lambda: commit)
        sweep(tmp_path, Omniscient(data), data)
        return capsys.readouterr().out

    assert "They are of commit" not in said("1111111")
    assert "They are of commit" not in said("1111111")
    assert "They are of commit 1111111: if policies, task or grading are other ones now, remove" in said("2222222")
    shutil.rmtree(tmp_path)
    said("3333333-dirty")
    assert "They are of commit 3333333-dirty: " in said("3333333-dirty")


OWN_POLICY = """
from dataclasses import dataclass
from lightning_mdm.decoding.policies import LeftToRight

@dataclass(frozen=True)
class {name}(LeftToRight):
    {option}: int = 1

    def score(self, state, prediction):
        return {sign}super().score(state, prediction)
"""


def own_policy(path: Path, name: str = "Mine", option: str = "width", sign: str = "") -> Any:
    """A policy from a file that a user has written, and may have edited since the last time."""
    path.write_text(OWN_POLICY.format(name=name, option=option, sign=sign))
    sys.modules.pop(path.stem, None)
    file_hash.cache_clear()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)()


def test_a_policy_of_ones_own_is_decoded_again_when_its_file_has_changed(
    tmp_path: Path, decoded: list[tuple[str, list[int], str, int]]
) -> None:
    """The commit is that of the package and says nothing of it."""
    data, run_dir = few_problems(), tmp_path / "run"

    def sweep(*policies: UnmaskingPolicy) -> list[tuple[str, int]]:
        decoded.clear()
        trainer(run_dir, Frontier(policies, [4])).sweep(Answering(Omniscient(data)), data)
        return [(row.policy, row.T) for row in read_rows(run_dir / "frontier.csv")]

    mine = own_policy(tmp_path / "mine_a.py")
    assert sweep(mine, LeftToRight(), Blocks(mine)) == [("mine", 4), ("left_to_right", 4), ("blocks", 4)]
    n = len(decoded) // 3
    assert sweep(own_policy(tmp_path / "mine_a.py"), LeftToRight())
    assert not decoded, "the same file"
    edited = own_policy(tmp_path / "mine_a.py", sign="-")
    assert sweep(edited, LeftToRight(), Blocks(edited)) == [("mine", 4), ("left_to_right", 4), ("blocks", 4)]
    assert [call[2] for call in decoded] == [name for _ in range(n) for name in ("mine", "blocks")]
    namesake = own_policy(tmp_path / "mine_b.py", name="LeftToRight", sign="-")
    assert sweep(namesake)
    assert len(decoded) == n, "a namesake is another policy"


@dataclass(frozen=True)
class Wrapping(LeftToRight):
    """A policy of one's own that holds another."""

    inner: UnmaskingPolicy = Blocks(TopMargin(), 4)  # noqa: RUF009 (frozen)


def test_policies_are_found_however_deep_they_are_wrapped() -> None:
    assert wrapped_in(Wrapping()) == [Wrapping().inner, TopMargin()]


def test_an_option_that_rows_call_something_else_is_refused(tmp_path: Path) -> None:
    data, policy = few_problems(), own_policy(tmp_path / "mine_c.py", option="token_temperature")
    with pytest.raises(ValueError, match=r"policy Mine: rows of results call something else token_temperature; give"):
        trainer(tmp_path, Frontier([policy], [4])).sweep(Answering(Omniscient(data)), data)


def test_where_what_is_unmasked_stays_no_policy_masks_tokens_again(tmp_path: Path) -> None:
    data = few_problems()
    module, searching, closing = Answering(Omniscient(data)), DecodingOptions(search=True), DecodingOptions("close")
    found: list[set[str]] = []
    for number, decoding in enumerate((DecodingOptions(), searching, closing)):
        run_dir = tmp_path / str(number)
        trainer(run_dir, Frontier(budgets=[2], decoding=decoding)).sweep(module, data)
        found.append({row.policy for row in read_rows(run_dir / "frontier.csv")})
    assert found[0] - found[1] == found[0] - found[2] == {"p2", "remdm"}
    assert "top_margin" in found[1] & found[2]
    with pytest.raises(ValueError, match="policy P2, search=True: looking back follows an order in which"):
        Frontier([TopMargin(), P2()], [4], decoding=searching)
    with pytest.raises(ValueError, match="policy P2, end_of_sequence='close': what an end closes is closed for good"):
        Frontier([], [4], decoding=closing, fit_policies=[P2()])


def test_only_missing_cells_are_decoded(tmp_path: Path) -> None:
    data = few_problems()
    sweep(tmp_path, Omniscient(data), data, budgets=[1, 4], policies=[TopMargin()])
    denoiser = Omniscient(data)
    sweep(tmp_path, denoiser, data, budgets=[1, 2, 4], policies=[TopMargin()])
    assert denoiser.calls == 3 * 2, "three batches, two steps each"
    assert [row.T for row in read_rows(tmp_path / "frontier.csv")] == [1, 2, 4]
    denoiser = Omniscient(data)
    sweep(tmp_path, denoiser, data, budgets=[1, 4], policies=[TopMargin(), IID()])
    assert denoiser.calls == 3 * (1 + 4)
    found = {(row.policy, row.T) for row in read_rows(tmp_path / "frontier.csv")}
    assert found == {("top_margin", 1), ("top_margin", 2), ("top_margin", 4), ("iid", 1), ("iid", 4)}


def test_one_process_speaks_and_writes_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, callback = few_problems(), Frontier([TopMargin()], [1, 2])
    sweep(tmp_path, Omniscient(data), data, policies=[TopMargin()], budgets=[1])
    (tmp_path / "frontier.csv").unlink()
    capsys.readouterr()
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    run = trainer(tmp_path, callback)
    run.sweep(Answering(Omniscient(data)), data)
    assert run.callback_metrics["test/accuracy@T=2/top_margin"] == 1.0
    assert not callback.examples
    assert not (tmp_path / "frontier.csv").exists()
    assert capsys.readouterr().out == ""


def test_processes_wait_until_all_have_read_and_until_all_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one would take what another has just decoded for known, and report what it has not decoded yet."""
    events: list[str] = []
    records, append = OutcomeStore.records, OutcomeStore.append

    def read(self: OutcomeStore, *cell: Any) -> Any:
        events.append("read")
        return records(self, *cell)

    def written(self: OutcomeStore, *record: Any) -> None:
        events.append("written")
        append(self, *record)

    monkeypatch.setattr(OutcomeStore, "records", read)
    monkeypatch.setattr(OutcomeStore, "append", written)
    monkeypatch.setattr(Frontier, "publish", lambda self, trainer: events.append("published"))
    monkeypatch.setattr(SingleDeviceStrategy, "barrier", lambda self, name=None: events.append(str(name)))
    data = few_problems()
    sweep(tmp_path, Omniscient(data), data)
    own = [event for event, _ in itertools.groupby(event for event in events if "None" not in event)]
    first = own.index("read")
    assert own[first : own.index("published") + 1] == [
        "read", "frontier_read", "written", "frontier_written", "published",
    ]  # fmt: skip


def test_a_cell_half_decoded_is_finished(tmp_path: Path) -> None:
    data = few_problems()
    sweep(tmp_path / "whole", Omniscient(data), data)
    sweep(tmp_path / "half", Omniscient(data), data)
    for file in (tmp_path / "half" / "cells").glob("*/outcomes.rank0.jsonl"):
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(lines[0] + lines[1][:20])  # one batch of three, and one torn by a kill
    denoiser = Omniscient(data)
    sweep(tmp_path / "half", denoiser, data)
    assert denoiser.calls == 2 * (2 * (1 + 4))
    assert outcomes_in(tmp_path / "half") == outcomes_in(tmp_path / "whole")


def outcomes_in(run_dir: Path) -> list[Any]:
    return sorted(read_outcomes(run_dir / "outcomes.csv"), key=lambda o: (o.split, o.policy, o.T, o.seed, o.problem))


def results_in(run_dir: Path) -> list[Any]:
    """Rows without what may differ between two runs of one cell."""
    rows = read_rows(run_dir / "frontier.csv")
    return sorted((r.policy, r.T, r.n, r.correct, r.nfe_mean, r.nfe_min, r.nfe_max, r.tokens_per_forward) for r in rows)


def test_a_cell_that_another_sweep_left_half_decoded_is_not_published(tmp_path: Path) -> None:
    data = few_problems()
    sweep(tmp_path, Omniscient(data), data, policies=[TopMargin()])
    (file,) = (tmp_path / "cells").glob("*-T1-*/outcomes.rank0.jsonl")
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    sweep(tmp_path, Omniscient(data), data, policies=[TopMargin()], budgets=[4])
    assert [row.T for row in read_rows(tmp_path / "frontier.csv")] == [4]
    assert {o.T for o in read_outcomes(tmp_path / "outcomes.csv")} == {4}


def test_rows_of_several_sweeps_are_in_one_order_whichever_came_last(tmp_path: Path) -> None:
    """As policies are listed, and numbers by size; those of a single sweep as it was configured."""
    data = few_problems()
    sweeps = [
        [TopMargin(), EntropyBounded(10.0)], [Blocks(TopMargin(), 8), EntropyBounded(2.0), IID()],
        [Blocks(IID(), 16), Blocks(TopMargin(), 16), EntropyBounded(0.5)],
    ]  # fmt: skip
    denoiser, found = Omniscient(data), []
    for given in (sweeps, sweeps[::-1]):
        run_dir = tmp_path / str(len(found))
        for policies in given:
            sweep(run_dir, denoiser, data, policies=policies, budgets=[4, 1], seeds=[1, 0])
            if policies is given[0]:
                cells = [(row.policy, row.T, row.seed) for row in read_rows(run_dir / "frontier.csv")]
                assert cells == [(policy.name, T, seed) for policy in policies for T in (4, 1) for seed in (1, 0)]
        found.append([(row.policy, row.options, row.T, row.seed) for row in read_rows(run_dir / "frontier.csv")])
    assert found[0] == found[1]
    assert [cell[2:] for cell in found[0]] == [(1, 0), (1, 1), (4, 0), (4, 1)] * 8
    assert list(dict.fromkeys(display_name(policy, options) for policy, options, _, _ in found[0])) == [
        "iid", "top margin", "entropy bounded 0.5", "entropy bounded 2", "entropy bounded 10",
        "blocks(8) of top margin", "blocks(16) of iid", "blocks(16) of top margin",
    ]  # fmt: skip


def test_options_of_any_kind_have_an_order() -> None:
    options: list[dict[str, Any]] = [
        {"a": None, "precision": "32"}, {"a": False}, {"a": 0.5, "b": 9}, {"a": 2}, {"a": 10.0, "precision": "16"},
        {"a": 10, "precision": "32"}, {"a": "2"}, {"a": {"name": "iid", "t": 2}}, {"a": {"name": "iid", "t": 10}},
        {"a": [2, "x"]}, {"a": [10]},
    ]  # fmt: skip
    places = [place_of("mine", of) for of in options]
    assert places == sorted(reversed(places))
    assert len(set(places)) == len(places)
    assert place_of("autoregressive", {}) < place_of("another", {}) < places[0]


def test_cells_of_other_problems_are_not_published(tmp_path: Path) -> None:
    """Not even if they hold all of these and more."""
    more, data = few_problems(N_TEST + 1), few_problems()
    sweep(tmp_path, Omniscient(more), more, policies=[TopMargin()])
    denoiser = Omniscient(more)  # the same weights
    with pytest.warns(UserWarning, match="had rows of other test problems of word_problems, which give way to these"):
        sweep(tmp_path, denoiser, data, policies=[TopMargin()])
    assert [(row.T, row.n) for row in read_rows(tmp_path / "frontier.csv")] == [(T, N_TEST) for T in BUDGETS]


def test_the_orders_of_another_selector_go_and_the_heuristics_stay(tmp_path: Path) -> None:
    law = HopChain(chain=6, free=2, given=2)
    data = HopChainProblems(law, n_validation=4, n_test=4, batch_size=2, eval_batch_size=4)

    def sweep(seed: int, split: Any, *policies: UnmaskingPolicy) -> list[tuple[str, str]]:
        torch.manual_seed(seed)
        net = SelectorConfig(width=8, heads=2, mlp_width=8)
        module = OrderModule(law.n_tokens, law, selector=net, budgets=[2], samples=2, validation_samples=1)
        trainer(tmp_path, Frontier(policies, [2])).sweep(module, data, split=split)
        assert {(o.split, o.policy) for o in read_outcomes(tmp_path / "outcomes.csv")} == {
            (row.split, row.policy) for row in read_rows(tmp_path / "frontier.csv")
        }
        return [(row.split, row.policy) for row in read_rows(tmp_path / "frontier.csv")]

    assert sweep(0, "validation", TopMargin(), Learned()) == [("validation", "top_margin"), ("validation", "learned")]
    assert sweep(1, "test", TopMargin()) == [("test", "top_margin"), ("validation", "top_margin")]
    rows = sweep(1, "validation", IID())
    assert rows == [("validation", "iid"), ("validation", "top_margin"), ("test", "top_margin")]


def test_both_splits_stay_and_an_older_checkpoint_goes(tmp_path: Path) -> None:
    data = few_problems()
    sweep(tmp_path, Omniscient(data), data, split="validation")
    sweep(tmp_path, Omniscient(data), data, split="test")
    rows = read_rows(tmp_path / "frontier.csv")
    assert Counter(row.split for row in rows) == {"validation": 4, "test": 4}
    assert {row.n for row in rows if row.split == "validation"} == {N_VALIDATION}
    assert Counter(row.split for row in read_outcomes(tmp_path / "outcomes.csv")) == {
        "validation": 4 * N_VALIDATION,
        "test": 4 * N_TEST,
    }
    newer, _, _ = changed_weights(data, tmp_path)
    sweep(tmp_path, newer, data, split="test")
    rows = read_rows(tmp_path / "frontier.csv")
    assert {row.checkpoint for row in rows} == {weights_hash(newer)}
    assert [row.split for row in rows] == ["test"] * 4
    assert {o.checkpoint for o in read_outcomes(tmp_path / "outcomes.csv")} == {weights_hash(newer)}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_batch_size_changes_no_outcome(tmp_path: Path, temperature: float) -> None:
    found = []
    for size in (1, 3, 7):
        data = few_problems(eval_batch_size=size)
        decoding = DecodingOptions(token_temperature=temperature)
        sweep(tmp_path / str(size), network().denoiser, data, decoding=decoding, seeds=[0, 1])
        found.append(outcomes_in(tmp_path / str(size)))
    assert found[0] == found[1] == found[2]
    noise = [[(o.policy, o.T, o.tokens, o.answer) for o in found[0] if o.seed == seed] for seed in (0, 1)]
    assert len(noise[0]) == len(noise[1]) == 4 * N_TEST
    assert noise[0] != noise[1] or not temperature
    assert len({o.answer for o in found[0]} | {o.tokens for o in found[0]}) > 1, "nothing that could differ"


def test_what_is_searched_with_decides_its_steps_itself(tmp_path: Path) -> None:
    data = few_problems()
    for name, search in (("plain", False), ("searched", True)):
        policies, decoding = [TopMargin(), ConfidenceThreshold()], DecodingOptions(search=search)
        sweep(tmp_path / name, Omniscient(data), data, policies=policies, budgets=[2], decoding=decoding)
        assert [row.adaptive for row in read_rows(tmp_path / name / "frontier.csv")] == [search, True]


def test_problems_that_do_not_fit_are_counted_in_the_rows(tmp_path: Path) -> None:
    data = few_problems()
    longest = max(len(data.tokenizer.encode(problem.prompt).ids) for problem in data.problems("test"))
    short = few_problems(prompt_tokens=longest - 1)
    with pytest.warns(UserWarning, match=r"1 test problem\(s\) do not fit"):
        sweep(tmp_path, Omniscient(short), short)
    assert {(row.n, row.left_out) for row in read_rows(tmp_path / "frontier.csv")} == {(N_TEST - 1, 1)}


def test_another_datamodule_is_refused(tmp_path: Path) -> None:
    class Plain(L.LightningDataModule):
        def test_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.zeros(2), batch_size=1)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="data=Plain: grading answers needs a ProblemDataModule"):
        trainer(tmp_path, Frontier([TopMargin()], [1])).test(Answering(torch.nn.Linear(1, 1)), Plain())


def test_the_hash_is_of_names_types_shapes_and_values() -> None:
    net = torch.nn.Linear(2, 2)
    twin = torch.nn.Linear(2, 2)
    twin.load_state_dict(net.state_dict())
    assert weights_hash(net) == weights_hash(twin)
    assert weights_hash(net) != weights_hash(torch.nn.Sequential(net))
    flat = torch.nn.Linear(2, 2)
    flat.load_state_dict(net.state_dict())
    flat.weight = torch.nn.Parameter(net.weight.detach().reshape(1, 4))
    assert weights_hash(net) != weights_hash(flat), "another shape"
    assert weights_hash(net) != weights_hash(twin.double())
    with torch.no_grad():
        net.bias[0] += 1e-7
    assert weights_hash(net) != weights_hash(twin.float())
    assert weights_hash(net.bfloat16())


# Real processes.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny configuration."""
    folder = tmp_path_factory.mktemp("checkpoint")
    program("fit", *tiny(folder), "--run_dir", folder / "run")
    return folder / "run" / "checkpoints" / "last.ckpt"


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "lightning_mdm", *map(str, args)]


@pytest.mark.long
def test_two_processes_decode_what_one_decodes(tmp_path: Path, checkpoint: Path) -> None:
    options = ["--ckpt_path", checkpoint, "--data.eval_batch_size", "2", "--frontier.seeds", "[3]"]
    both = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command("sweep", *tiny(tmp_path), *options, *both, "--run_dir", tmp_path / "two"),
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "two")
    program("sweep", *tiny(tmp_path), *options, "--run_dir", tmp_path / "one")
    assert N_TEST % 2 == 1
    assert len(list((tmp_path / "two" / "cells").glob("*/outcomes.rank1.jsonl"))) == 4, "the second process did nothing"
    assert results_in(tmp_path / "two") == results_in(tmp_path / "one")
    assert outcomes_in(tmp_path / "two") == outcomes_in(tmp_path / "one")
    store = OutcomeStore(tmp_path / "two" / "cells")
    for cell in store.cells():
        written = [
            outcome["problem"]
            for file in (store.root / cell.label).glob("outcomes.rank*.jsonl")
            for line in file.read_text().splitlines()
            for outcome in json.loads(line)["outcomes"]
        ]
        assert Counter(written) == Counter(set(written)), "a problem was decoded twice"


def test_a_sweep_that_is_told_to_end_does_not_finish_its_batch(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*tiny(tmp_path), "--ckpt_path", checkpoint, "--frontier.budgets", "[1, 2, 3]"]
    decoded = Frontier.decode_rows
    calls: list[str] = []

    def once(*args: Any) -> Any:
        calls.append(args[-1].name)
        monkeypatch.setattr(Trainer, "received_sigterm", property(lambda self: True))
        return decoded(*args)

    monkeypatch.setattr(Frontier, "decode_rows", once)
    with pytest.raises(SystemExit) as ended:
        program("sweep", *options, "--run_dir", tmp_path / "told")
    assert ended.value.code == 143, "it is not complete"
    assert len(calls) == 1
    store = OutcomeStore(tmp_path / "told" / "cells")
    assert sum(len(store.done(cell)) for cell in store.cells()) > 0, "what was decoded is kept"


@pytest.mark.long
def test_a_killed_sweep_loses_nothing_and_decodes_nothing_twice(tmp_path: Path, checkpoint: Path) -> None:
    options = [
        *tiny(tmp_path), "--ckpt_path", checkpoint, "--data.n_test", "40", "--data.eval_batch_size", "1",
        "--frontier.policies", "[TopMargin]", "--frontier.budgets", "[1, 32]",
    ]  # fmt: skip
    cells = tmp_path / "killed" / "cells"
    process = subprocess.Popen(
        command("sweep", *options, "--run_dir", tmp_path / "killed"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while sum(file.stat().st_size for file in cells.glob("*/outcomes.rank0.jsonl")) < 500:
            assert process.poll() is None, "the sweep ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    saved = {file: file.read_bytes() for file in cells.glob("*/outcomes.rank0.jsonl")}
    n_saved = sum(content.count(b"\n") for content in saved.values())
    assert 0 < n_saved < 2 * 40, "killed too late"
    assert not (tmp_path / "killed" / "frontier.csv").exists()
    printed = program("sweep", *options, "--run_dir", tmp_path / "killed")
    assert f"Found {n_saved} decoded outcomes" in printed
    program("sweep", *options, "--run_dir", tmp_path / "whole")
    assert outcomes_in(tmp_path / "killed") == outcomes_in(tmp_path / "whole")
    assert results_in(tmp_path / "killed") == results_in(tmp_path / "whole")
    for file, content in saved.items():
        lines = file.read_bytes()
        assert lines.startswith(content[: content.rfind(b"\n") + 1]), "what was written was not kept"
        assert lines.count(b"\n") == 40, "a problem was decoded twice"
