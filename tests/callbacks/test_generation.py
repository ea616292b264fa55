"""Generation in parts: what is given to the next one, whose evaluations count, and that one part is a plain decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.generation import Generated, generate
from lightning_mdm.callbacks.predictions import Predictions
from lightning_mdm.callbacks.runs import Run, runs_of
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.gsm8k_aug import GSM8KAug, PartOfProblem
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.zebra import ZebraPuzzles
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import Autoregressive, ConfidenceThreshold, LeftToRight, TopMargin
from lightning_mdm.modules.autoregressive import AutoregressiveModule
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.outcomes import read_outcomes, read_rows
from lightning_mdm.output import DenoiserOutput
from llama import files
from runs import Answering, few_problems, trainer

CANVAS = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files(tmp_path_factory.mktemp("aug"))


def made(folder: Path, **options: Any) -> GSM8KAug:
    given: dict[str, Any] = {
        "path": str(folder), "tokenizer_path": str(folder / "tokenizer.json"), "start_token": "<s>",
        "canvas_tokens": CANVAS, "n_test": 6, "n_validation": 3, "eval_batch_size": 4, **options,
    }  # fmt: skip
    return GSM8KAug(**given)


class Knowing(nn.Module):
    """Knows both rows of every problem, told apart by what is given; writes down the rows that it is asked about.

    Args:
        data: the problems.
        wrong: problems whose thought it gets wrong; whatever it does not expect it answers with 0.
    """

    def __init__(self, data: GSM8KAug, wrong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.rows: dict[tuple[int, ...], list[int]] = {}
        for problem in [*data.problems("test"), *data.problems("validation")]:
            for part in ("thought", "answer") if data.stages == "two" else ("whole",):
                example = data.encode(
                    PartOfProblem(problem.index, problem.prompt, problem.response, problem.answer, None, part)
                )
                assert example is not None
                given = tuple(example.tokens[: sum(example.given)])
                self.rows[given] = example.tokens
                if problem.index in wrong and part == "thought":
                    self.rows[given] = data.encoder.row(given, data.encoder.tokens("Answer: <<1+1=3>>"), 0).tokens
        self.mask_id, self.vocab_size = data.vocab_size, data.vocab_size
        self.nothing = data.encoder.row([], data.encoder.tokens("#### 0"), 0).tokens
        self.asked: list[list[int]] = []
        self.skill = nn.Parameter(torch.ones(1))

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        assert tokens_BL.shape[1] == CANVAS
        self.asked += tokens_BL.tolist()
        target_BL = torch.stack([torch.tensor(self.known(tokens)) for tokens in tokens_BL.tolist()])
        one_hot_BQV = nn.functional.one_hot(target_BL.gather(1, query_BQ), self.vocab_size)
        return DenoiserOutput(9.0 * self.skill * one_hot_BQV.float())

    def known(self, tokens: list[int]) -> list[int]:
        """The whole row of which some tokens are known."""
        lengths = [len(given) for given in self.rows if list(given) == tokens[: len(given)]]
        if not lengths:
            raise AssertionError("a question that nobody asked")
        first_mask = tokens.index(self.mask_id)
        untouched = set(tokens[first_mask:]) == {self.mask_id}
        if untouched and first_mask not in lengths:
            return [*tokens[:first_mask], *self.nothing[: CANVAS - first_mask]]
        return self.rows[tuple(tokens[: max(lengths)])]


def batch_of(data: GSM8KAug) -> Batch:
    return next(iter(data.test_dataloader()))


def asked_with(data: GSM8KAug, problem: Problem) -> tuple[int, ...]:
    """What is given of a problem's first part."""
    example = data.encode(problem)
    assert example is not None
    return tuple(example.tokens[: sum(example.given)])


def run(data: GSM8KAug, policy: Any, steps: int, denoiser: Any = None, **options: Any) -> tuple[list[Generated], int]:
    problems = {problem.index: problem for problem in data.problems("test")}
    return generate(
        denoiser or Knowing(data),
        policy,
        batch_of(data),
        problems,
        data,
        DecodingOptions(**options),
        steps=steps,
        seed=0,
    )


def test_the_answer_is_generated_after_the_thought(folder: Path) -> None:
    data = made(folder)
    denoiser = Knowing(data)
    found, forward_passes = run(data, TopMargin(), 5, denoiser)
    assert forward_passes == 5
    assert len(denoiser.asked) == 4 * 5
    for problem, got in zip(data.problems("test"), found, strict=False):
        assert got.text == f"Answer: {problem.response}"
        assert data.grade(problem, got.graded).correct
        assert got.nfe == 5 == max(got.steps)
        # The answer is the second part's, all of it at the fifth step.
        place = got.tokens.index(2)  # the thought's end
        region = sum(step < 5 for step in got.steps)
        assert place < region
        assert got.steps[region:] == [5] * (len(got.steps) - region)
        assert got.length == place + got.tokens[region:].index(2)


@pytest.mark.parametrize("answer_steps", [1, 2, None])
def test_evaluations_of_both_parts_count(folder: Path, answer_steps: int | None) -> None:
    data = made(folder, answer_steps=answer_steps)
    found, _ = run(data, TopMargin(), 6)
    assert {got.nfe for got in found} == {12 if answer_steps is None else 6}
    # An adaptive policy needs one evaluation for each part here.
    found, forward_passes = run(data, ConfidenceThreshold(0.9), 6)
    assert {got.nfe for got in found} == {2}
    assert forward_passes == 2


def test_steps_count_on_from_part_to_part_whatever_was_tried_in_between(folder: Path) -> None:
    """Looking back takes evaluations that are no steps of the order."""
    data = made(folder, answer_steps=None)

    class Wavering(Knowing):
        def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
            return DenoiserOutput(0.2 * super().forward(tokens_BL, valid_BL, query_BQ).logits_BQV)

        def known(self, tokens: list[int]) -> list[int]:
            return next(iter(self.rows.values()))

    found, _ = run(data, ConfidenceThreshold(0.01), 9, Wavering(data), search=True)
    plain, _ = run(data, ConfidenceThreshold(0.01), 9, Wavering(data))
    for got in found:
        assert sorted(set(got.steps)) == list(range(1, max(got.steps) + 1))
    assert any(got.nfe > max(got.steps) for got in found)
    assert all(got.nfe >= before.nfe for got, before in zip(found, plain, strict=True))


def test_what_is_wrong_in_the_thought_reaches_the_answer(folder: Path) -> None:
    data = made(folder)
    problems = data.problems("test")
    found, _ = run(data, TopMargin(), 5, Knowing(data, wrong=(problems[1].index,)))
    right = [data.grade(problem, got.graded).correct for problem, got in zip(problems, found, strict=False)]
    assert right == [True, False, True, True]
    assert data.grade(problems[1], found[1].graded).answer == "0"


@pytest.mark.parametrize("answer", ["I do not know", "#### 11"])
def test_an_answer_in_the_thought_is_none(tmp_path: Path, folder: Path, answer: str) -> None:
    data = made(folder)
    problems = data.problems("test")
    denoiser = Knowing(data)
    given = asked_with(data, problems[0])
    thought = f"Answer: <<1+1=2>> #### {problems[0].answer}"
    denoiser.rows[given] = data.encoder.row(given, data.encoder.tokens(thought), 0).tokens
    denoiser.nothing = data.encoder.row([], data.encoder.tokens(answer), 0).tokens
    found, _ = run(data, TopMargin(), 5, denoiser)
    assert found[0].text == f"{thought} {answer}"
    grade = data.grade(problems[0], found[0].graded)
    assert (grade.correct, grade.answer) == (False, answer.removeprefix("#### ") if "####" in answer else None)
    trainer(tmp_path, Frontier([TopMargin()], [5])).sweep(Answering(denoiser), data)
    trainer(tmp_path, Predictions(steps=5)).predict(Answering(denoiser), data, return_predictions=False)
    (outcome,) = (row for row in read_outcomes(tmp_path / "outcomes.csv") if row.problem == problems[0].index)
    line = json.loads((tmp_path / "predictions.rank0.jsonl").read_text("utf-8").splitlines()[0])
    assert (outcome.correct, outcome.answer) == (line["correct"], line["answer"]) == (False, grade.answer)


def test_a_causal_net_writes_both_parts_token_by_token(folder: Path) -> None:
    module = AutoregressiveModule(600, TransformerConfig(layers=1, width=16, heads=2, mlp_width=16))
    runs = [Run(Autoregressive(), CANVAS, 0)]
    assert runs_of(runs, False, module, SplitFacts(made(folder, answer_steps=None), "test")) == runs
    with pytest.raises(ValueError, match=r"one step per token, and .* to each part of it \(data.answer_steps=null\)"):
        runs_of(runs, False, module, SplitFacts(made(folder), "test"))


def test_of_a_later_part_neither_order_nor_response_is_known() -> None:
    facts = SplitFacts(ZebraPuzzles(n_test=2), "test")
    assert facts.order(0) is not None
    assert facts.response(0) is not None
    assert (facts.order(-1), facts.response(-1)) == (None, None)


def test_rows_without_room_for_an_answer_stay_as_they_are(folder: Path) -> None:
    data = made(folder)
    problems = data.problems("test")
    denoiser = Knowing(data)
    given = asked_with(data, problems[2])
    denoiser.rows[given] = [*given, *[40] * (CANVAS - len(given))]
    found, forward_passes = run(data, TopMargin(), 5, denoiser)
    assert [got.nfe for got in found] == [5, 5, 4, 5]
    assert forward_passes == 5
    assert not data.grade(problems[2], found[2].graded).correct
    assert found[2].length == len(found[2].tokens)
    assert [data.grade(p, got.graded).correct for p, got in zip(problems, found, strict=False)].count(True) == 3


def test_parts_share_no_noise(folder: Path) -> None:
    data = made(folder, answer_steps=None)

    class Flat(nn.Module):
        vocab_size = data.vocab_size

        def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
            return DenoiserOutput(torch.zeros(*query_BQ.shape, self.vocab_size))

    found, _ = run(data, LeftToRight(), 1, Flat(), token_temperature=1.0)
    for got in found:
        half = [k for k, step in enumerate(got.steps) if step == 2]
        if half:
            first, second = got.tokens[: half[0]], got.tokens[half[0] :]
            # By chance one in 512; positions of the second part lie at the end of the canvas, as the first's do.
            same = sum(a == b for a, b in zip(first[::-1], second[::-1], strict=False))
            assert same < 0.1 * len(second) + 3


def test_a_task_of_one_part_is_decoded_as_ever() -> None:
    data = few_problems(n_test=3)
    assert data.budgets(4) == (4,)
    assert data.decoding_options == {}
    with pytest.raises(NotImplementedError, match="word_problems generates a response in one part"):
        data.continued(data.problems("test")[0], [])


@pytest.mark.parametrize("stages", ["one", "two"])
def test_sweeps_and_predictions(tmp_path: Path, folder: Path, stages: str) -> None:
    data = made(folder, stages=stages)
    run_ = trainer(tmp_path, Frontier([TopMargin(), ConfidenceThreshold(0.9)], [4]))
    run_.sweep(Answering(Knowing(data)), data)
    rows = read_rows(tmp_path / "frontier.csv")
    assert [(row.task, row.n, row.accuracy) for row in rows] == [("gsm8k_aug", 6, 1.0)] * 2
    assert [(row.nfe_mean, row.forward_passes) for row in rows] == [(4.0, 8), (2.0, 4) if stages == "two" else (1.0, 2)]
    for row in rows:
        options = json.loads(row.options)
        assert options["stages"] == stages
        assert options.get("answer_steps") == (1 if stages == "two" else None)
    assert {row.correct for row in read_outcomes(tmp_path / "outcomes.csv")} == {True}

    run_ = trainer(tmp_path, Predictions(steps=3))
    run_.predict(Answering(Knowing(data)), data, return_predictions=False)
    lines = [json.loads(line) for line in (tmp_path / "predictions.rank0.jsonl").read_text("utf-8").splitlines()]
    for line, problem in zip(lines, data.problems("test"), strict=True):
        assert (line["answer"], line["nfe"]) == (problem.answer, 3)
        assert line["text"] == f"Answer: {problem.response}"
        assert max(line["steps"]) == 3


def test_a_budget_too_small_for_both_stages_is_refused_before_anything_is_decoded(tmp_path: Path, folder: Path) -> None:
    data = made(folder)
    denoiser = Knowing(data)
    with pytest.raises(ValueError, match=r"a budget of 1 leaves no step for the thought"):
        trainer(tmp_path, Frontier([TopMargin()], [4, 1])).sweep(Answering(denoiser), data)
    with pytest.raises(ValueError, match=r"a budget of 1 leaves no step for the thought"):
        trainer(tmp_path, Predictions(steps=1)).predict(Answering(denoiser), data, return_predictions=False)
    assert denoiser.asked == []
