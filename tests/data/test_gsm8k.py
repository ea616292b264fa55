"""GSM8K in all its forms: parsing, errors that name file and line, splits, the iCoT files, the hub."""

from __future__ import annotations

import json
from contextlib import nullcontext
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lightning_mdm.data import gsm8k_origins
from lightning_mdm.data.answers import parse_number
from lightning_mdm.data.gsm8k import GSM8K, Variants
from lightning_mdm.data.gsm8k_rows import key, parse_line, parse_record, read_rows
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import MixedSource, StreamSource
from lightning_mdm.data.stream import Progress, Replica, StreamLoader

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real GSM8K files are not beside the repository")

NATURAL = {"question": "How many?", "answer": "First 2+3 = <<2+3=5>>5.\nThen 5*2 = <<5*2=10>>10.\n#### 10"}
ICOT = "How many?||<<2+3=5>> <<5*2=10>> #### 10"
COT = {"question": "How many?", "cot": "<<2+3=5>> <<5*2=10>>", "answer": "10"}


def record(k: int) -> dict[str, str]:
    return {"question": f"What is {k} and  1?", "answer": f"It is <<{k}+1={k + 1}>>{k + 1}.\n#### {k + 1}"}


def line(k: int) -> str:
    return f"What is {k} and 1?||<<{k}+1={k + 1}>> #### {k + 1}"


def write(folder: Path, train: int = 60, valid: int = 0, test: int = 7) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(record(k)) + "\n" for k in range(train)))
    (folder / "test.jsonl").write_text("".join(json.dumps(record(1000 + k)) + "\n" for k in range(test)))
    if valid:
        (folder / "icot_valid.txt").write_text("".join(line(3 * k) + "\n" for k in range(valid)))
    return folder


def tiny(path: Path | None, **options: Any) -> GSM8K:
    return GSM8K(None if path is None else str(path), **{"batch_size": 4, "vocab_size": 300, **options})


def training_questions(data: GSM8K) -> list[str]:
    return [key(p.prompt) for p in data.training().sample(10**6)]


@pytest.mark.parametrize(
    "row",
    [
        parse_record(NATURAL),
        parse_line(json.dumps(NATURAL)),
        parse_line(f"  {json.dumps(NATURAL)}"),
        parse_line(ICOT),
        parse_record(COT),
        parse_record({**COT, "answer": "#### 10"}),
    ],
)
def test_every_form_gives_the_same_problem(row) -> None:
    problem = row.problem(3, "equations")
    assert problem.prompt == "How many?"
    assert problem.response == "<<2+3=5>> <<5*2=10>> #### 10"
    assert (problem.index, problem.answer) == (3, "10")


def test_the_answer_stands_behind_the_last_marker() -> None:
    for row in (parse_record({"question": "q", "answer": "#### 3\n#### 5"}), parse_line("q||#### 3 #### 5")):
        assert (row.solution, row.answer) == ("#### 3", "5")


def test_natural_thoughts() -> None:
    assert parse_record(NATURAL).problem(0, "natural").response == NATURAL["answer"]
    with pytest.raises(ValueError, match="equations only"):
        parse_line(ICOT).problem(0, "natural")
    no_equation = parse_record({"question": "q", "answer": "Let x be 3.\n#### 3"})
    assert no_equation.problem(0, "equations").response == "#### 3"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("no bars", r"neither a JSON object nor"),
        ("q||<<1+1=2>> 2", r"neither a JSON object nor"),
        ("q||<<1+1=2>> #### two", r"the answer 'two' is no number"),
        ("||<<1+1=2>> #### 2", r"the question is empty"),
        ('{"question": "q"', r"no JSON"),
        ('{"question": "q"}', r"no text in field 'answer'"),
        ('{"question": "q", "answer": 2}', r"no text in field 'answer'"),
        ('{"question": "q", "answer": "2"}', r"no #### before an answer"),
        ('{"question": "q", "answer": "#### "}', r"the answer '' is no number"),
        ("", r"the line is empty"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path: Path, bad: str, message: str) -> None:
    file = tmp_path / "train.txt"
    file.write_text(f"{line(1)}\n{bad}\n{line(2)}\n")
    with pytest.raises(ValueError, match=rf"train.txt:2: .*{message}"):
        read_rows(file, "error")
    with pytest.warns(UserWarning, match=r"train.txt: 1 bad line\(s\) skipped, the first: .*train.txt:2"):
        rows = read_rows(file, "skip")
    assert [number for number, _ in rows] == [1, 3]


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_byte_order_mark_belongs_to_no_question(tmp_path: Path, json_lines: bool) -> None:
    record = json.dumps({"question": "How many?", "answer": "#### 2"})
    text = record if json_lines else "How many?||<<1+1=2>> #### 2"
    for name, before in (("plain.txt", ""), ("marked.txt", "\ufeff")):
        (tmp_path / name).write_bytes(f"{before}{text}\r\n\r\n".encode())
    plain, marked = (read_rows(tmp_path / name, "error") for name in ("plain.txt", "marked.txt"))
    assert marked == plain
    assert [(number, row.question) for number, row in plain] == [(1, "How many?")]


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        tiny(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no train file, but nothing: need one of train.jsonl"):
        tiny(tmp_path)
    folder = write(tmp_path / "data")
    (folder / "test.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"test.jsonl: no problem in it"):
        tiny(folder).problems("test")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.json").write_text("")
    with pytest.raises(ValueError, match=r"holds no train file, but train.json: need one of train.jsonl"):
        tiny(tmp_path / "other")
    with pytest.raises(ValueError, match=r"train.jsonl' is a file: give its directory"):
        tiny(folder / "train.jsonl")
    for given in ({"train": "x"}, {"train": "x", "test": "x", "dev": "x"}):
        with pytest.raises(ValueError, match="give train, test and perhaps validation"):
            GSM8K(given)
    with pytest.raises(ValueError, match=r"data.path.test='none': no such file"):
        GSM8K({"train": str(folder / "train.jsonl"), "test": "none"})
    (folder / "test.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8"):
        tiny(folder).problems("test")


def test_validation_file_is_taken_out_of_training(tmp_path: Path) -> None:
    data = tiny(write(tmp_path / "data", valid=10))
    validation = data.problems("validation")
    questions = {key(p.prompt) for p in validation}
    assert questions == {f"What is {3 * k} and 1?" for k in range(10)}
    assert sorted(training_questions(data)) == sorted({f"What is {k} and 1?" for k in range(60)} - questions)
    assert [p.index for p in validation] == list(range(1, 11))
    assert tiny(tmp_path / "data", thoughts="natural").problems("validation")[0].response.startswith("It is")
    assert len(tiny(tmp_path / "data", n_validation=4, n_test=2).problems("validation")) == 4
    assert len(training_questions(tiny(tmp_path / "data", n_validation=4))) == 50


def test_validation_problems_missing_from_training_are_reported(tmp_path: Path) -> None:
    data = tiny(write(tmp_path / "data", train=20, valid=10))
    with pytest.warns(UserWarning, match=r"3 of 10 problems of .*icot_valid.txt \(the first is line 8\)"):
        assert len(data.problems("validation")) == 10


@pytest.mark.parametrize("hub", [False, True])
def test_test_problems_are_never_trained_on(tmp_path: Path, hub: bool) -> None:
    folder = write(tmp_path / "data")
    with (folder / "train.jsonl").open("a") as file:
        file.writelines(json.dumps(record(1000 + k)) + "\n" for k in (2, 5))
    data = tiny(None, dataset=str(folder), config=None) if hub else tiny(folder)
    heard = nullcontext() if hub else pytest.warns(UserWarning, match=r"^2 problems of .*train.jsonl are test problems")
    with heard:
        questions = training_questions(data)
    assert questions
    assert not {key(p.prompt) for p in data.problems("test")} & set(questions)
    assert not {key(p.prompt) for p in data.problems("validation")} & set(questions)


def test_a_data_set_without_a_test_split_can_be_trained_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / "test.jsonl").unlink()
    assert training_questions(tiny(None, dataset=str(folder), config=None))


@pytest.mark.parametrize("hub", [False, True])
def test_problems_given_twice_are_said(tmp_path: Path, hub: bool) -> None:
    folder = write(tmp_path / "data")
    with (folder / "test.jsonl").open("a") as file:
        file.writelines(json.dumps(record(1000 + k)) + "\n" for k in (2, 5))
    data = tiny(None, dataset=str(folder), config=None) if hub else tiny(folder)
    with pytest.warns(UserWarning, match=r"2 of 9 test problems ask what another one does: intervals and tests"):
        data.problems("test")


def test_without_a_file_validation_is_held_out(tmp_path: Path) -> None:
    data = tiny(write(tmp_path / "data", train=200))
    held = {key(p.prompt) for p in data.problems("validation")}
    assert 10 < len(held) < 50
    assert not held & set(training_questions(data))
    assert len(held) + len(training_questions(data)) == 200
    with pytest.raises(ValueError, match="too small to hold out"):
        tiny(write(tmp_path / "small", train=1)).problems("validation")


def test_as_many_as_are_wanted_are_held_out_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny(write(tmp_path / "data", train=200)).problems("validation")
    monkeypatch.setattr(gsm8k_origins, "N_HELD_OUT", 5)
    data = tiny(tmp_path / "data")
    assert data.problems("validation") == whole[:5]
    assert len(training_questions(data)) == 195


def test_of_several_files_of_a_split_the_first_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", valid=3)
    for name in ("icot_train.txt", "valid.txt", "test.txt"):
        (folder / name).write_text(line(7) + "\n")
    data = tiny(folder)
    assert (len(data.problems("validation")), len(data.problems("test"))) == (3, 7)
    assert len(training_questions(data)) == 57


def test_validation_problems_of_equations_need_be_in_no_training_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", valid=3)
    (folder / "train.jsonl").unlink()
    (folder / "train.txt").write_text("".join(line(k) + "\n" for k in range(100, 110)))
    data = tiny(folder)
    assert len(data.problems("validation")) == 3
    assert len(training_questions(data)) == 10


def test_a_training_file_of_validation_problems_alone_is_refused(tmp_path: Path) -> None:
    data = tiny(write(tmp_path / "data", train=1, valid=1))
    with pytest.raises(ValueError, match=r"train.jsonl: no training problem is left beside those of validation"):
        data.training()


def test_files_by_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", valid=10)
    data = GSM8K({"train": str(folder / "train.jsonl"), "test": str(folder / "icot_valid.txt")})
    assert len(data.problems("test")) == 10


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"thoughts": "none"}, "data.thoughts='none': give one of equations, natural"),
        ({"on_bad_line": "ignore"}, "data.on_bad_line='ignore'"),
        ({"n_test": 0}, "data.n_test=0"),
        ({"shuffle_buffer": 0}, "data.shuffle_buffer=0"),
    ],
)
def test_wrong_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GSM8K(**option)


def hub(folder: Path, **options: Any) -> GSM8K:
    """A directory of files in the hub's format, opened by the code that opens the hub."""
    return tiny(None, dataset=str(folder), config=None, shuffle_buffer=16, **options)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_hub_streams_the_same_problems(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", train=200)
    local, stream = tiny(folder), hub(folder)
    assert isinstance(stream.training(), StreamSource)
    assert training_questions(local) == training_questions(stream)
    for split in ("validation", "test"):
        assert [p.response for p in stream.problems(split)] == [p.response for p in local.problems(split)]


def test_the_hub_stream_is_sharded_and_resumes_exactly(tmp_path: Path) -> None:
    """Two processes of two workers over one file, which ``datasets`` alone would give to one worker."""
    data = hub(write(tmp_path / "data", train=50))
    questions = training_questions(data)

    def loader(rank: int, start: int, workers: int) -> StreamLoader:
        return StreamLoader(
            data.training(),
            data.encoder,
            Progress(start),
            batch_size=2,
            pad_id=0,
            num_workers=workers,
            replica=Replica(rank, 2),
        )

    n = len(questions)
    first = [[b.index_B.tolist() for b in islice(loader(rank, 0, 2), n // 2)] for rank in range(2)]
    order = [index for pair in zip(*first, strict=True) for batch in pair for index in batch]
    assert len(order) >= n
    assert sorted(order[:n]) == sorted({p.index for p in data.training().sample(10**6)})
    assert order[:n] != sorted(order[:n])
    resumed = [b.index_B.tolist() for b in islice(loader(1, 5 * 4, 0), n // 2 - 5)]
    assert resumed == first[1][5:]


def test_hub_rows_with_a_thought_column_and_a_validation_split(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("validation", 5), ("test", 4)):
        rows = [{"question": f"{split} {k}?", "cot": f"<<{k}+1={k + 1}>>", "answer": str(k + 1)} for k in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = hub(tmp_path)
    assert [p.response for p in data.problems("validation")][:2] == ["<<0+1=1>> #### 1", "<<1+1=2>> #### 2"]
    assert len(training_questions(data)) == 30


def test_bad_hub_rows_and_data_sets(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", train=20)
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"question": "q", "answer": "no number"}) + "\n")
    with pytest.raises(ValueError, match=r"train:20: no #### before an answer"):
        training_questions(hub(folder))
    with pytest.warns(UserWarning, match=r"1 bad line\(s\) skipped"):
        assert len(training_questions(hub(folder, on_bad_line="skip"))) < 20
    with pytest.raises(ValueError, match=r"cannot open data.dataset='.*none'.*data.path"):
        hub(tmp_path / "none").problems("test")


@needs_real
@pytest.mark.parametrize(("natural", "icot"), [("train.jsonl", "icot_valid.txt"), ("test.jsonl", "icot_test.txt")])
def test_extraction_equals_the_icot_files(natural: str, icot: str) -> None:
    """All of them, character by character."""
    by_question = {key(row.question): row for _, row in read_rows(REAL / natural, "error")}
    rows = [row for _, row in read_rows(REAL / icot, "error")]
    same = [
        by_question[key(row.question)].problem(0, "equations").response == row.problem(0, "equations").response
        for row in rows
    ]
    assert (sum(same), len(same)) == ((500, 500) if "valid" in icot else (1319, 1319))


@needs_real
def test_the_real_files() -> None:
    data = GSM8K(str(REAL), vocab_size=600, measure_problems=100)
    train, validation, test = training_questions(data), data.problems("validation"), data.problems("test")
    assert (len(train), len(validation), len(test)) == (7473 - 500, 500, 1319)
    assert not {key(p.prompt) for p in validation} & set(train)
    assert all(parse_number(p.answer) is not None for p in (*validation, *test))
    assert all(data.grade(p, p.response).correct for p in (*validation, *test))


SOLD = {"question": "Al sold 48 pens and half as many cups.", "answer": "<<48/2=24>>24, <<48+24=72>>72.\n#### 72"}


def sold(k: int) -> dict[str, str]:
    """A problem whose numbers can change, and which is another one for every k."""
    return {"question": SOLD["question"].replace("Al", f"Al{'x' * k}"), "answer": SOLD["answer"]}


def write_sold(folder: Path, train: int = 40, validation: int = 5) -> Path:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(sold(k)) + "\n" for k in range(train)))
    for name, first in (("test.jsonl", 1000), ("validation.jsonl", 0)):
        (folder / name).write_text("".join(json.dumps(sold(first + k)) + "\n" for k in range(validation)))
    return folder


def texts(data: GSM8K, slots: Any) -> list[str]:
    """What the slots hold, by the tokens decoded again."""
    examples = data.training().examples(slots, data.encoder)
    return [data.tokenizer.decode(list(example.tokens)) for example, _ in examples]


def test_problems_begin_at_different_variants_and_those_without_any_stay() -> None:
    vary = Variants(1, seed=0)
    problems = [parse_record(sold(0)).problem(k, "equations") for k in range(20)]
    assert {vary(problem, 0) is problem for problem in problems} == {True, False}
    assert all((vary(problem, 0) is problem) != (vary(problem, 1) is problem) for problem in problems)
    constant = Problem(0, "How many?", "<<2+3=5>> #### 5", "5")
    assert all(vary(constant, epoch) is constant for epoch in range(4))


def test_the_seed_decides_the_word_problems_too(tmp_path: Path) -> None:
    folder = write_sold(tmp_path / "data")
    found = [tiny(folder, word_problems_share=0.3, seed=seed).training().sample(20)[35:] for seed in (0, 1)]
    assert len(found[0]) == len(found[1]) == 6
    assert found[0] != found[1]


def test_variants_take_turns_with_the_original(tmp_path: Path) -> None:
    folder = write_sold(tmp_path / "data")
    plain, data = tiny(folder), tiny(folder, variants=4, prompt_tokens=120, response_tokens=60)
    assert training_questions(data) == training_questions(plain), "the tokenizer is trained on the originals"
    per_epoch = 35
    of_problem: dict[str, set[str]] = {}
    for epoch in range(5):
        seen = texts(data, range(epoch * per_epoch, (epoch + 1) * per_epoch))
        assert len({text.split(" sold")[0] for text in seen}) == per_epoch
        for text in seen:
            of_problem.setdefault(text.split(" sold")[0], set()).add(text)
    held_out = {key(p.prompt).split(" sold")[0] for split in ("validation", "test") for p in data.problems(split)}
    assert not held_out & set(of_problem)
    assert all(any(" 48 pens" in text for text in found) for found in of_problem.values())
    assert sum(len(found) >= 4 for found in of_problem.values()) > 30
    assert texts(data, range(20, 60)) == texts(data, range(60))[20:]
    assert texts(tiny(folder, variants=4, seed=1), range(35)) != texts(data, range(35))


def test_a_variant_that_does_not_fit_gives_way_to_its_original(tmp_path: Path) -> None:
    folder = write_sold(tmp_path / "data")
    plain = tiny(folder)
    longest = plain.canvas  # of the originals: numbers of three digits are longer
    data = tiny(folder, variants=30)
    assert data.canvas == longest
    found = texts(data, range(35 * 10))
    assert len(set(found)) > 2 * 35
    prompts = [len(data.tokenizer.encode(text.split("cups.")[0] + "cups.").ids) for text in found]
    assert max(prompts) <= longest[0]


def test_generated_word_problems_are_mixed_in_at_their_share(tmp_path: Path) -> None:
    folder = write_sold(tmp_path / "data")
    options = {"word_problems_share": 0.3, "prompt_tokens": 700, "response_tokens": 200, "measure_problems": 50}
    data = tiny(folder, variants=2, **options)
    assert isinstance(data.training(), MixedSource)
    found = texts(data, range(200))
    generated = [text for text in found if not text.startswith("Al")]
    assert len(generated) == 60
    assert all("<<" in text for text in generated)
    assert len(set(generated)) > 55
    assert len(data.training().sample(50)) == 35 + 15
    # The others are what they are without: the same problems in the same order.
    assert [text for text in found if text.startswith("Al")] == texts_with(data, tiny(folder, variants=2), range(140))
    for share in (Fraction(1, 2), Fraction(1, 1000), Fraction(1, 3)):
        mixed = MixedSource(data.training(), data.training(), share)
        assert sum(map(mixed.is_second, range(3000))) == pytest.approx(3000 * share, abs=1)


def texts_with(encoding: GSM8K, data: GSM8K, slots: Any) -> list[str]:
    """What the slots of one datamodule hold, encoded by another."""
    examples = data.training().examples(slots, encoding.encoder)
    return [encoding.tokenizer.decode(list(example.tokens)) for example, _ in examples]


def test_workers_and_resume_give_the_same_batches(tmp_path: Path) -> None:
    data = tiny(
        write_sold(tmp_path / "data"), variants=3, word_problems_share=0.25, measure_problems=50, prompt_tokens=700,
        response_tokens=200,
    )  # fmt: skip

    def batches(workers: int, start: int, n: int) -> list[list[list[int]]]:
        loader = StreamLoader(
            data.training(), data.encoder, Progress(start), batch_size=4, pad_id=0, num_workers=workers,
            replica=Replica(0, 1),
        )  # fmt: skip
        return [batch.tokens_BL.tolist() for batch in islice(loader, n)]

    whole = batches(0, 0, 20)
    assert batches(2, 0, 20) == whole
    assert batches(1, 4 * 13, 7) == whole[13:]


def test_the_hub_stream_varies_too(tmp_path: Path) -> None:
    data = hub(write_sold(tmp_path / "data"), variants=3, prompt_tokens=120, response_tokens=60)
    found = texts(data, range(4 * 35))
    assert len(set(found)) > 100
    assert sum(" 48 pens" in text for text in found) == pytest.approx(35, abs=10)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"variants": -1}, "data.variants=-1: give a number of variants, or 0"),
        ({"variants": 1, "thoughts": "natural"}, "ask for thoughts=equations"),
        ({"word_problems_share": 1.0}, "data.word_problems_share=1.0: give 0, or a share from 0.001 to 0.999"),
        ({"word_problems_share": -0.1}, "data.word_problems_share=-0.1"),
        ({"word_problems_share": 0.0001}, "data.word_problems_share=0.0001: give 0, or a share from"),
    ],
)
def test_wrong_options_of_enlarging(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GSM8K(**option)


def test_questions_of_ones_own_may_carry_solutions(tmp_path: Path) -> None:
    """GSM8K's own file is one; every answer that its splits take for right is right."""
    folder = write(tmp_path / "data")
    data = GSM8K(path=str(folder), predict_path=str(folder / "test.jsonl"), n_validation=3)
    asked, test = data.problems("predict"), data.problems("test")
    assert [(p.prompt, p.answer) for p in asked] == [(p.prompt, p.answer) for p in test]
    assert all(data.grade(own, problem.response).correct for own, problem in zip(asked, test, strict=True))
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"question": "How many?", "answer": " 1,000 "}) + "\n" + json.dumps({"question": "Why?"}))
    assert [p.answer for p in data.questions(str(own))] == ["1,000", ""]
    for wrong in ("seventy-two", "72 #### ", "5 #### no"):
        own.write_text(json.dumps(NATURAL) + "\n" + json.dumps({"question": "How many?", "answer": wrong}))
        with pytest.raises(ValueError, match=rf"own.jsonl, line 2: the answer '{wrong}' is no number"):
            data.questions(str(own))
