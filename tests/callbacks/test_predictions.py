"""Predictions: what a line holds, and of which problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.predictions import Predictions
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import ConfidenceThreshold, LeftToRight, Oracle
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.trainer import Trainer
from runs import N_TEST, Answering, Omniscient, few_problems, trainer
from toys import ToySelector

FIELDS = ["problem", "prompt", "text", "answer", "correct", "nfe", "tokens", "steps"]


def predict(run_dir: Path, *, right: bool = True, data: Any = None, **options: Any) -> list[dict[str, Any]]:
    data = data or few_problems()
    run = trainer(run_dir, Predictions(**options))
    run.predict(Answering(Omniscient(few_problems(), right=right)), data, return_predictions=False)
    return lines_in(run_dir)


def lines_in(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "predictions.rank0.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("steps", [1, 4, 100])
def test_a_line_per_test_problem_with_text_answer_cost_and_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    problems = few_problems().problems("test")
    lines = predict(tmp_path, steps=steps)
    where = tmp_path / "predictions.rank0.jsonl"
    said = f"Predictions are in {where}: top_margin, at most {steps} steps, the likeliest tokens\n"
    assert said in capsys.readouterr().out
    assert [line["problem"] for line in lines] == [problem.index for problem in problems]
    for line, problem in zip(lines, problems, strict=True):
        assert list(line) == FIELDS
        assert (line["prompt"], line["text"], line["answer"]) == (problem.prompt, problem.response, problem.answer)
        assert line["correct"] is True
        assert "".join(line["tokens"]) == problem.response
        assert len(line["steps"]) == len(line["tokens"])
        # A region of 48 tokens: with 100 steps, one token each and steps to spare.
        assert line["nfe"] == max(line["steps"]) == min(steps, len(line["steps"]))
        assert set(line["steps"]) == set(range(1, line["nfe"] + 1))


@pytest.mark.parametrize(("policy", "nfe"), [(LeftToRight(), 4), (ConfidenceThreshold(0.9), 1)])
def test_the_policy_decides_the_order(tmp_path: Path, policy: UnmaskingPolicy, nfe: int) -> None:
    for line in predict(tmp_path, policy=policy, steps=4):
        assert line["nfe"] == nfe
        assert line["steps"] == sorted(line["steps"])


class Readable(Omniscient):
    """Offers hidden states: the tokens one-hot."""

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        hidden_BLD = nn.functional.one_hot(tokens_BL, self.vocab_size + 1).float()
        return super().forward(tokens_BL, valid_BL, query_BQ)._replace(hidden_BLD=hidden_BLD)


class Ordered(Answering):
    """A module that has learned an order."""

    prices = (0.7, 0.2)

    def selector_for(self, budget: int) -> ToySelector:  # type: ignore[override]
        return ToySelector(offset=9.0)


def test_what_is_not_given_is_that_of_the_module_and_of_the_frontier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = few_problems()
    for k, (module, frontier) in enumerate(
        [(Ordered, []), (Answering, [Frontier([], (), decoding=DecodingOptions(token_temperature=9.0))])]
    ):
        run = trainer(tmp_path / str(k), *frontier, Predictions(steps=2))
        run.predict(module(Readable(data)), data, return_predictions=False)
    learned, drawn = capsys.readouterr().out.splitlines()
    assert learned.endswith(": learned-greedy-1.0-0.2, at most 2 steps, the likeliest tokens")
    assert drawn.endswith(": top_margin, at most 2 steps, tokens drawn at a temperature of 9.0")
    assert {line["nfe"] for line in lines_in(tmp_path / "0")} == {1}
    assert not any(line["correct"] for line in lines_in(tmp_path / "1"))


def test_the_oracle_needs_an_answer_to_read(tmp_path: Path) -> None:
    assert {line["nfe"] for line in predict(tmp_path / "test", policy=Oracle(), steps=4)} == {1}
    (tmp_path / "own.txt").write_text(few_problems().problems("test")[0].prompt + "\n")
    own = few_problems(predict_path=str(tmp_path / "own.txt"))
    with pytest.raises(ValueError, match=r"policy Oracle: the task has no response for the \d+ tokens of problem 0"):
        predict(tmp_path / "own", data=own, policy=Oracle(), steps=4)


def test_the_noise_is_that_of_the_seed(tmp_path: Path) -> None:
    drawn = DecodingOptions(token_temperature=9.0)
    texts = [
        [line["text"] for line in predict(tmp_path / str(k), steps=1, seed=seed, decoding=drawn)]
        for k, seed in enumerate((0, 1, 0))
    ]
    assert texts[0] != texts[1]
    assert texts[0] == texts[2]


def test_an_answer_that_ends_at_once_is_none(tmp_path: Path) -> None:
    closing = DecodingOptions(end_of_sequence="close")
    for line in predict(tmp_path, right=False, steps=48, policy=LeftToRight(), decoding=closing):
        assert (line["text"], line["answer"], line["correct"], line["nfe"]) == ("", None, False, 1)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_questions_of_ones_own(tmp_path: Path, suffix: str) -> None:
    questions = [problem.prompt for problem in few_problems().problems("test")][:3]
    own = tmp_path / f"questions{suffix}"
    written = (json.dumps({"question": question}) if suffix == ".jsonl" else question for question in questions)
    own.write_text("\n".join(written) + "\n\n", encoding="utf-8")
    lines = predict(tmp_path, data=few_problems(predict_path=str(own)), steps=2)
    assert [line["prompt"] for line in lines] == questions
    assert [line["problem"] for line in lines] == [0, 1, 2]
    assert all(line["answer"] is not None and line["correct"] is None for line in lines)


def test_predicting_again_starts_a_new_file(tmp_path: Path) -> None:
    assert len(predict(tmp_path, steps=1)) == len(predict(tmp_path, steps=1)) == N_TEST


def test_files_of_an_earlier_run_on_more_processes_go(tmp_path: Path) -> None:
    for rank in (1, 2):
        (tmp_path / f"predictions.rank{rank}.jsonl").write_text("{}\n")
    predict(tmp_path, steps=1)
    assert [file.name for file in tmp_path.glob("predictions*")] == ["predictions.rank0.jsonl"]


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    """Trainers are those of one process of several from now on; none waits for another."""
    for name, value in (("global_rank", rank), ("world_size", world), ("is_global_zero", rank == 0)):
        monkeypatch.setattr(Trainer, name, property(lambda self, value=value: value))


def test_every_process_writes_a_file_of_its_own_and_the_first_speaks_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = few_problems()
    for rank, there in ((1, [1, 2]), (0, [0, 1])):
        (tmp_path / "predictions.rank2.jsonl").write_text("{}\n")
        as_process(monkeypatch, rank, 2)
        trainer(tmp_path, Predictions(steps=1)).predict(Answering(Omniscient(data)), data, return_predictions=False)
        assert sorted(file.name for file in tmp_path.iterdir()) == [f"predictions.rank{own}.jsonl" for own in there]
        said = capsys.readouterr().out
        assert (f"Predictions are in {tmp_path / 'predictions.rank*.jsonl'}" in said) == (rank == 0)
        assert ("Predictions" in said) == (rank == 0)
    assert lines_in(tmp_path)


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"predictions.steps=0: a step budget is at least 1"):
        Predictions(steps=0)
