"""GSM8K-Aug: three parts on a canvas of one length, two examples of a problem, and where the next part begins."""

from __future__ import annotations

import json
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lightning_mdm.data.gsm8k_aug import GSM8KAug, PartOfProblem
from lightning_mdm.data.gsm8k_rows import key
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import ListSource, StreamSource
from llama import REHEARSAL, files

EOS, START = 2, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files(tmp_path_factory.mktemp("aug"))


def made(folder: Path, **options: Any) -> GSM8KAug:
    given = {
        "path": str(folder), "tokenizer_path": str(folder / "tokenizer.json"), "start_token": "<s>", "batch_size": 4,
        **options,
    }  # fmt: skip
    return GSM8KAug(**{name: value for name, value in given.items() if value is not None})


def taken(data: GSM8KAug, n: int) -> list[Problem]:
    return list(islice(data.training().sample(10**6), n))


def shown(data: GSM8KAug, tokens: list[int]) -> str:
    return data.tokenizer.decode(tokens, skip_special_tokens=False)


def test_a_problem_gives_two_examples(folder: Path) -> None:
    data = made(folder)
    source = data.training()
    assert isinstance(source, ListSource)
    assert len(source.problems) == 2 * REHEARSAL["SIZES"]["train"]
    assert len({problem.index for problem in source.problems}) == len(source.problems)
    for thought, answer in zip(source.problems[::2], source.problems[1::2], strict=True):
        assert isinstance(thought, PartOfProblem)
        assert isinstance(answer, PartOfProblem)
        assert (thought.part, answer.part) == ("thought", "answer")
        assert (thought.prompt, thought.response) == (answer.prompt, answer.response)
        assert answer.index == thought.index + 1
    assert [p.index for p in taken(made(folder, stages="one"), 3)] == [1, 2, 3]  # lines of the file


def test_what_stands_on_the_canvas(folder: Path) -> None:
    data = made(folder)
    problem = Problem(7, "Ann has 12 eggs and 3 more?", "<<12+3=15>> <<15-1=14>> #### 14", "14")
    part = {
        name: PartOfProblem(7, problem.prompt, problem.response, "14", None, name) for name in ("thought", "answer")
    }
    encode = data.encoder
    thought, answer, evaluated = encode(part["thought"]), encode(part["answer"]), encode(problem)
    whole = made(folder, stages="one").encoder(problem)
    assert thought is not None
    assert answer is not None
    assert whole is not None
    assert evaluated == thought, "the thought is generated first"
    question, solution, end = (
        [START, *data.tokenizer.encode(text, add_special_tokens=False).ids]
        for text in ("Question: Ann has 12 eggs and 3 more?", "Answer: <<12+3=15>> <<15-1=14>>", "#### 14")
    )
    for example, given, response in (
        (thought, question, solution),
        (answer, question + solution, end),
        (whole, question, solution + end),
    ):
        assert len(example.tokens) == len(example.given) == 256
        filling = [EOS] * (256 - len(given) - len(response))
        assert example.tokens == given + response + filling
        assert example.given == [True] * len(given) + [False] * (256 - len(given))
        assert example.index == 7
    assert shown(data, solution) == "<s> Answer: <<12+3=15>> <<15-1=14>>"
    assert sum(data.tokenizer.id_to_token(token).strip("▁").isdigit() for token in solution) == 10, "single digits"
    assert data.decode([*solution, EOS, 9]) == "Answer: <<12+3=15>> <<15-1=14>>"
    assert data.decode([*solution, *end, EOS]) == "Answer: <<12+3=15>> <<15-1=14>> #### 14"
    assert data.grade(problem, "Answer: <<1+1=2>> #### 14").correct
    without = encode(PartOfProblem(7, problem.prompt, "#### 14", "14", None, "answer"))
    assert without is not None
    said = without.tokens[len(question) : sum(without.given)]
    assert said == [START, *data.tokenizer.encode("Answer:", add_special_tokens=False).ids]


def test_a_problem_is_trained_on_with_all_its_parts_and_decoded_where_its_question_fits(folder: Path) -> None:
    problem = Problem(0, "How many?", "<<2+3=5>> #### 5", "5")
    example = made(folder, stages="one").encoder(problem)
    assert example is not None
    needed = len(example.tokens) - example.tokens.count(EOS) + 1  # one end-of-sequence
    for stages in ("one", "two"):
        for part in ("thought", "answer", "whole"):
            one = PartOfProblem(0, problem.prompt, problem.response, "5", None, part)
            assert made(folder, stages=stages, canvas_tokens=needed).encoder(one) is not None
            assert made(folder, stages=stages, canvas_tokens=needed - 1).encoder(one) is None
            decoded = made(folder, stages=stages, canvas_tokens=needed - 1).encoder(problem)
            assert decoded is not None
            assert len(decoded.tokens) == needed - 1
    question = len(example.given) - example.given[::-1].index(True)  # its length
    cut = made(folder, stages="one", canvas_tokens=question + 3).encoder(problem)
    assert cut is not None
    assert cut.tokens == example.tokens[: question + 3], "decoded, with as much of its reference as there is room for"
    assert made(folder, canvas_tokens=question + 1).encoder(problem) is not None
    assert made(folder, canvas_tokens=question).encoder(problem) is None
    data = made(folder, canvas_tokens=30)
    with pytest.raises(ValueError, match=r"none of the 800 training problems fits the canvas: raise data\.canvas_tok"):
        data.train_dataloader()


def test_an_answer_follows_the_thought_that_was_generated(folder: Path) -> None:
    data = made(folder)
    problem = Problem(5, "How many?", "<<2+3=5>> #### 5", "5")
    first = data.encoder(problem)
    assert first is not None
    region = [token for token, given in zip(first.tokens, first.given, strict=True) if not given]
    follows = data.continued(problem, region)
    reference = data.encoder(PartOfProblem(11, problem.prompt, problem.response, "5", None, "answer"))
    assert follows is not None
    assert reference is not None
    given = sum(reference.given)
    assert follows.given == reference.given
    assert follows.tokens[:given] == reference.tokens[:given]
    assert follows.tokens[given:] == [EOS] * (256 - given)
    assert follows.index == -6
    full = data.continued(problem, [17] * len(region))
    assert full is None, "no room for an answer"
    other = data.continued(problem, [17, EOS, 18])
    assert other is not None
    assert sum(other.given) == sum(first.given) + 1


def test_questions_of_a_users_own(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "questions.txt").write_text("How many are 2 and 3?\n")
    for stages in ("one", "two"):
        data = made(folder, stages=stages, predict_path=str(tmp_path / "questions.txt"))
        (problem,) = data.problems("predict")
        example = data.encode(problem)
        assert example is not None
        assert shown(data, example.tokens[: sum(example.given)]) == "<s> Question: How many are 2 and 3?"
        assert len(example.tokens) == 256


def test_budgets_of_the_stages(folder: Path) -> None:
    assert made(folder).budgets(5) == (4, 1)
    assert made(folder, answer_steps=3).budgets(10) == (7, 3)
    each = made(folder)
    each.answer_steps = None
    assert each.budgets(5) == (5, 5)
    assert made(folder, stages="one").budgets(1) == (1,)
    with pytest.raises(ValueError, match=r"a budget of 2 leaves no step for the thought beside data.answer_steps=2"):
        made(folder, answer_steps=2).budgets(2)
    assert made(folder).decoding_options == {"stages": "two", "answer_steps": 1}
    assert made(folder, stages="one").decoding_options == {"stages": "one"}
    others = [made(folder, stages="one"), made(folder, start_token=None), made(folder, canvas_tokens=200)]
    assert len({data.fingerprint("test") for data in (made(folder), *others)}) == 4


def test_validation_problems_are_not_trained_on(folder: Path) -> None:
    data = made(folder)
    validation = {key(problem.prompt) for problem in data.problems("validation")}
    assert len(validation) == REHEARSAL["SIZES"]["validation"]
    in_file = {key(json.loads(line)["question"]) for line in (folder / "train.jsonl").read_text().splitlines()}
    assert validation < in_file
    assert {key(p.prompt) for p in data.training().sample(1)} == in_file - validation


def test_the_hub_and_parquet_files_are_the_same_data(tmp_path: Path, folder: Path) -> None:
    train = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    problems = REHEARSAL["problems"]("validation", 20)
    splits = {"train": train, "validation": [REHEARSAL["aug_record"](problem) for problem in problems]}
    splits["test"] = [REHEARSAL["aug_record"](problem) for problem in REHEARSAL["problems"]("test", 3)]
    hub = tmp_path / "hub"
    hub.mkdir()
    for split, rows in splits.items():
        table = datasets.Dataset.from_list(rows)
        table.to_parquet(str(tmp_path / f"{split}.parquet"))
        table.to_json(str(hub / f"{split}.jsonl"))
    local = made(folder, path=str(tmp_path))
    streamed = made(folder, path=None, dataset=str(hub))
    source = streamed.training()
    assert isinstance(source, StreamSource)
    assert pickle.loads(pickle.dumps(source)).sample(2) == source.sample(2)
    assert list(source.sample(10**6)) == list(local.training().sample(1))
    assert local.problems("test") == streamed.problems("test")
    assert [p.prompt for p in local.problems("validation")] == [p.prompt for p in problems]
    broken = tmp_path / "test.parquet"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"test.parquet: no parquet file"):
        made(folder, path=str(tmp_path)).problems("test")


def test_training_batches_hold_both_kinds(folder: Path) -> None:
    data = made(folder, batch_size=200)
    batch = next(iter(data.train_dataloader()))
    assert batch.tokens_BL.shape == (200, 256)
    assert bool(batch.valid_BL.all()), "end-of-sequence is a token like any"
    answers_B = batch.index_B % 2 == 1
    assert 60 < int(answers_B.sum()) < 140
    given_B = batch.prompt_BL.sum(-1)
    assert given_B[answers_B].float().mean() > given_B[~answers_B].float().mean() + 10
    assert bool((batch.tokens_BL[:, -1] == EOS).all())
    assert bool(batch.response_BL[:, -1].all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "three"}, r"data.stages='three': give one of one, two"),
        ({"answer_steps": 0}, r"data.answer_steps=0: give at least 1, or null"),
        ({"start_token": "<bos>"}, r"data.start_token='<bos>': the tokenizer has no such token"),
        ({"tokenizer_path": None}, r"data.start_token names a token of a file: give data.tokenizer_path too"),
        ({"variants": 3}, r"data.variants=3: this set is enlarged already"),
        ({"word_problems_share": 0.5}, r"data.word_problems_share=0.5: this set is enlarged already"),
        ({"canvas_tokens": 1}, r"data.canvas_tokens=1: give at least 2"),
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(folder, **options)


@pytest.mark.parametrize("joined", ["12", "2024", "100"])
def test_a_tokenizer_that_joins_digits_is_refused(tmp_path: Path, folder: Path, joined: str) -> None:
    tokenizer = Tokenizer(models.BPE({token: k for k, token in enumerate([*"0123456789", "</s>", "<s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens([joined])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=rf"makes one token of '{joined}'; arithmetic is learned digit by digit"):
        made(folder, tokenizer_path=str(tmp_path / "tokenizer.json"))
