"""The data module inside Lightning: exact resume, the checkpoint alone suffices, nothing left out in silence."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lightning_mdm.data.batch import Batch
from lightning_mdm.data.canvas import TextEncoder, ids
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.problem import Grade, Problem
from lightning_mdm.data.sources import GeneratorSource
from lightning_mdm.data.stream import Replica
from lightning_mdm.data.tokenizer import EOS, PAD
from lightning_mdm.data.word_problems import WordProblems

# Lightning's advice on worker processes; the tests have their own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]


def words(**options: Any) -> WordProblems:
    return WordProblems(
        **{"n_validation": 5, "n_test": 4, "batch_size": 4, "eval_batch_size": 2, "measure_problems": 300, **options}
    )


class Recorder(L.LightningModule):
    """Trains one number and remembers which problems it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.index_B.tolist())
        return self.weight * batch.response_BL.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluated += batch.index_B.tolist()

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> list[int]:
        return batch.index_B.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(path: Path, steps: int = 0, **options: Any) -> L.Trainer:
    checkpoint = ModelCheckpoint(path / "checkpoints", save_top_k=-1, every_n_train_steps=1, filename="{step}")
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": steps,
            "default_root_dir": path,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [checkpoint],
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 1,
            **options,
        }
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("epoch", "window"), [(1.0, 1), (3, 1), (3, 3)])
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(
    tmp_path: Path, workers: int, epoch: float, window: int
) -> None:
    """Also over the epochs that ``limit_train_batches`` makes, and though the trainer fetches a batch ahead."""
    limits = {"limit_train_batches": epoch, "val_check_interval": 2}
    unsaved: dict[str, Any] = {"callbacks": [], "enable_checkpointing": False}
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path / "whole", 8, **limits).fit(whole, datamodule=words(num_workers=workers, sort_batches=window))
    trainer(tmp_path / "parts", 4, **limits).fit(first, datamodule=words(num_workers=workers, sort_batches=window))
    resumed = words(num_workers=2 - workers, sort_batches=window)
    path = tmp_path / "parts" / "checkpoints" / "step=4.ckpt"
    with pytest.warns(UserWarning, match="callbacks used to create"):  # that saving one is left out below
        trainer(tmp_path, 8, **limits, **unsaved).fit(second, datamodule=resumed, ckpt_path=path)
    assert first.seen + second.seen == whole.seen
    seen = [index for batch in whole.seen for index in batch]
    assert window > 1 or seen == list(range(8 * 4))
    assert sorted(seen[:24]) == list(range(24)), "of two windows, or of none"
    assert resumed.progress.slots == 8 * 4


def test_training_goes_on_at_a_slot(tmp_path: Path) -> None:
    """A checkpoint of it says by itself where it stands."""
    first, second = Recorder(), Recorder()
    data = words(first_slot=8)
    trainer(tmp_path, 2).fit(first, datamodule=data)
    assert data.progress.slots == 16
    path = tmp_path / "checkpoints" / "step=2.ckpt"
    with pytest.warns(UserWarning, match="callbacks used to create"):  # the one that saves is left out below
        trainer(tmp_path, 3, callbacks=[], enable_checkpointing=False).fit(second, datamodule=words(), ckpt_path=path)
    assert first.seen + second.seen == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]


def process(rank: int, world: int, **options: Any) -> Any:
    """What a task asks of a trainer, as one of several processes has it."""
    shared = {"rank": rank, "num_replicas": world}
    options = {"training": True, "overfit_batches": 0, "fast_dev_run": True, "checkpoint_callback": None, **options}
    return SimpleNamespace(distributed_sampler_kwargs=shared, **options)


def test_a_process_takes_its_share_and_counts_those_of_all() -> None:
    data = words()
    _ = data.encoder
    data.trainer = process(1, 2)
    loader = data.train_dataloader()
    assert loader.replica == Replica(1, 2)
    batch = next(iter(loader))
    assert batch.index_B.tolist() == [4, 5, 6, 7]
    found = [index for batch in data.val_dataloader() for index in batch.index_B.tolist()]
    assert found == [problem.index for problem in data.problems("validation")][1::2]
    for training in (True, False):
        data.trainer.training = training
        data.on_before_batch_transfer(batch, 0)
        assert data.progress.slots == 8, "of both processes, and of training alone"


def test_tokenizer_and_canvas_are_those_of_the_first_process() -> None:
    """All processes ask for them at the same place: later some would wait for others."""
    first, second, asked = words(seed=3), words(seed=4), list[Any]()

    def broadcast(value: Any) -> Any:
        asked.append(value)
        return first.tokenizer.to_str() if isinstance(value, str) else (70, 9)

    second.trainer = process(1, 2, strategy=SimpleNamespace(broadcast=broadcast))
    second.setup("fit")
    assert len(asked) == 2
    assert asked[0] != first.tokenizer.to_str()
    assert (second.tokenizer.to_str(), second.canvas) == (first.tokenizer.to_str(), (70, 9))
    assert len(asked) == 2


def test_one_process_leaves_the_tokenizer_and_a_dry_run_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, saving = words(), SimpleNamespace(dirpath=tmp_path)
    _ = data.encoder
    for rank, dry in ((1, False), (0, True), (0, False)):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        data.trainer = process(rank, 2, fast_dev_run=dry, checkpoint_callback=saving)
        data.train_dataloader()
        assert (tmp_path / "tokenizer.json").exists() == (rank == 0 and not dry)


def test_misfits_of_an_endless_training_are_said_again_when_they_have_doubled() -> None:
    data, heard = words(), list[int]()
    data.trainer = process(0, 1)
    for left_out in range(8):
        data.progress.left_out = left_out
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data.on_before_batch_transfer(Batch(*torch.ones(3, 1, 1, dtype=torch.int64).bool(), torch.zeros(1)), 0)
        heard += [left_out] * len(caught)
    assert heard == [1, 3, 7]


def test_a_second_fit_starts_over_and_overfitting_stays_in_place(tmp_path: Path) -> None:
    data, again, over = words(), Recorder(), Recorder()
    trainer(tmp_path, 2).fit(Recorder(), datamodule=data)
    trainer(tmp_path, 2, callbacks=[], enable_checkpointing=False).fit(again, datamodule=data)
    assert again.seen[0] == [0, 1, 2, 3]
    options = {"overfit_batches": 2, "callbacks": [], "enable_checkpointing": False, "val_check_interval": None}
    with pytest.warns(UserWarning, match="requested to overfit"):
        trainer(tmp_path, 4, **{**options, "check_val_every_n_epoch": 1}).fit(over, datamodule=words())
    assert over.seen == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


def test_the_checkpoint_alone_is_enough(tmp_path: Path) -> None:
    """Another seed trains another tokenizer; a test from the checkpoint must use the checkpoint's."""
    trained, model = words(seed=3, vocab_size=400), Recorder()
    trainer(tmp_path, 2).fit(model, datamodule=trained)
    beside = (tmp_path / "checkpoints" / "tokenizer.json").read_text()
    assert Tokenizer.from_str(beside).to_str() == trained.tokenizer.to_str()

    other = words(seed=4, vocab_size=400)
    assert other.tokenizer.to_str() != trained.tokenizer.to_str()
    tested = words(seed=4, vocab_size=400)
    model = Recorder()
    trainer(tmp_path).test(model, datamodule=tested, ckpt_path=tmp_path / "checkpoints" / "step=2.ckpt")
    assert sorted(model.evaluated) == sorted(p.index for p in tested.problems("test"))
    assert tested.tokenizer.to_str() == trained.tokenizer.to_str()
    assert tested.canvas == trained.canvas
    assert tested.fingerprint("test") == trained.fingerprint("test") != other.fingerprint("test")


def test_loading_before_or_after_setup_is_the_same() -> None:
    trained = words(seed=3)
    state = json.loads(json.dumps(trained.state_dict()))
    before, after, longer = words(seed=4), words(seed=4), words(seed=4, response_tokens=90)
    wider = words(seed=4, prompt_tokens=300)
    before.load_state_dict(state)
    before.setup("test")
    after.setup("test")
    assert after.token_space.eos_id is not None
    after.load_state_dict(state)
    longer.load_state_dict(state)
    assert before.encoding == after.encoding == trained.encoding
    wider.load_state_dict(state)
    assert (longer.canvas, wider.canvas) == ((trained.canvas[0], 90), (300, trained.canvas[1]))
    with pytest.raises(ValueError, match=r"data.vocab_size=300, but the checkpoint was trained with 512"):
        words(vocab_size=300).load_state_dict(state)


def test_predict_and_validate(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("How many?\n\nAnd 3 more?\n")
    (tmp_path / "mine.jsonl").write_text(
        '\ufeff{"question": "How many?", "answer": 3}\n{"question": "Some?", "answer": null}\n', encoding="utf-8"
    )
    model = Recorder()
    data = words(predict_path=str(tmp_path / "mine.txt"))
    assert trainer(tmp_path).predict(model, datamodule=data) == [[0, 1]]
    own = words(predict_path=str(tmp_path / "mine.jsonl")).problems("predict")
    assert [(p.index, p.prompt, p.answer) for p in own] == [(0, "How many?", "3"), (1, "Some?", "")]
    plain = words()
    assert trainer(tmp_path).predict(model, datamodule=plain) == [
        [p.index for p in plain.problems("test")[k : k + 2]] for k in (0, 2)
    ]
    trainer(tmp_path).validate(model, datamodule=plain)
    assert model.evaluated == [p.index for p in plain.problems("validation")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", b"\n\n", "holds no question"),
        ("bad.jsonl", b'{"question": "a"}\n{"q": 1}\n', "bad.jsonl, line 2: need a JSON object with a question"),
        ("bad.jsonl", b"[]\n", "bad.jsonl, line 1: need a JSON object with a question"),
        ("bad.jsonl", b'{"question": " "}\n', "bad.jsonl, line 1: the question is empty"),
        ("latin.txt", b"one\x0cpage\r\ncaf\xe9\n", "latin.txt, line 2, byte 4: no UTF-8"),
    ],
)
def test_wrong_questions(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        words(predict_path=str(tmp_path / name)).problems("predict")


def test_canvas_and_encoding_come_back_as_text() -> None:
    data = words()
    space, (prompt_tokens, response_tokens) = data.token_space, data.canvas
    for problem in data.problems("test"):
        example = data.encode(problem)
        assert example is not None
        assert len(example.tokens) == sum(example.given) + response_tokens
        assert sum(example.given) <= prompt_tokens
        assert example.given == sorted(example.given, reverse=True)
        assert example.tokens[-1] == space.eos_id
        response = [token for token, given in zip(example.tokens, example.given, strict=True) if not given]
        assert data.decode(response) == problem.response
        assert data.grade(problem, data.decode(response)).correct
        assert not set(example.tokens) & set(space.forbidden)
    assert data.decode([space.eos_id or 0, 5]) == ""
    assert data.decode([space.pad_id]) == PAD, "special tokens included"


def test_the_canvas_is_as_long_as_its_problems_need() -> None:
    data = words()
    problems = [*data.training().sample(300), *data.problems("validation"), *data.problems("test")]
    lengths = [[len(ids(data.tokenizer, text)) for text in (p.prompt, p.response)] for p in problems]
    prompt, response = map(max, zip(*lengths, strict=True))
    assert data.canvas == (prompt, response + 1)
    for less in ((0, 0), (1, 0), (0, 1)):
        encode = TextEncoder(data.tokenizer, data.special_ids[0], prompt - less[0], response + 1 - less[1])
        for problem, (given, generated) in zip(problems, lengths, strict=True):
            assert (encode(problem) is not None) == (given <= prompt - less[0] and generated <= response - less[1])


class Lengthy(WordProblems):
    """One problem of a split is several times as long as any other."""

    of: str

    def load_problems(self, split: str) -> list[Problem]:
        first, *others = super().load_problems(split)
        return [replace(first, prompt=first.prompt * 9) if split == self.of else first, *others]


def test_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many training problems as are asked for, and every other one."""
    asked, sample = list[int](), GeneratorSource.sample

    def noted(source: GeneratorSource, n: int) -> Any:
        asked.append(n)
        return sample(source, n)

    monkeypatch.setattr(GeneratorSource, "sample", noted)
    plain = words(measure_problems=37)
    plain.tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert plain.canvas[0] > 0
    assert asked == [37, 37]
    for split in ("validation", "test"):
        data = Lengthy(n_validation=5, n_test=4, measure_problems=37, tokenizer_path=str(tmp_path / "tokenizer.json"))
        data.of = split
        assert data.canvas[0] > 3 * plain.canvas[0]


def test_every_digit_is_a_token_and_unused_ids_are_forbidden() -> None:
    data = words(vocab_size=5000)
    pieces = data.tokenizer.encode("1234 and 56").tokens
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("123456")
    space = data.token_space
    assert data.vocab_size == space.vocab_size == space.mask_id == 5000
    assert space.pad_id in space.forbidden
    assert 4999 in space.forbidden
    assert len(space.forbidden) == 1 + 5000 - data.tokenizer.get_vocab_size()


def test_what_does_not_fit_is_reported_and_left_out() -> None:
    data = words(prompt_tokens=40, n_validation=40)
    with pytest.warns(UserWarning, match=r"word_problems: \d+ validation problem\(s\) do not fit the canvas"):
        loader = data.val_dataloader()
    kept = [index for batch in loader for index in batch.index_B.tolist()]
    assert data.left_out["validation"] == 40 - len(kept) > 0
    with (
        pytest.warns(UserWarning, match="4 test problem"),
        pytest.raises(ValueError, match="none of the 4 test problems fits the canvas"),
    ):
        words(prompt_tokens=3).test_dataloader()


def test_what_does_not_fit_the_canvas_of_a_checkpoint_is_told_whose_it_is() -> None:
    state = {**words().state_dict(), "canvas": [3, 9]}
    asked = "canvas is the checkpoint's, of 3 prompt and 9 response tokens; raise data.prompt_tokens"
    for options, hint in (
        ({}, asked),
        ({"prompt_tokens": 3, "response_tokens": 9}, "canvas: raise data.prompt_tokens"),
    ):
        data = words(**options)
        data.load_state_dict(state)
        with pytest.warns(UserWarning, match="4 test problem"), pytest.raises(ValueError, match=hint):
            data.test_dataloader()


def test_training_misfits_reach_the_main_process(tmp_path: Path) -> None:
    data = words(prompt_tokens=40, n_validation=40, num_workers=2)
    with pytest.warns(UserWarning, match=r"training|train problem\(s\) do not fit"):
        trainer(tmp_path, 6, limit_val_batches=0, callbacks=[], enable_checkpointing=False).fit(
            Recorder(), datamodule=data
        )
    assert data.left_out["train"] > 0
    assert data.progress.left_out >= data.left_out["train"]


class OwnGrades(WordProblems):
    """Grades some of its own responses as wrong."""

    wrong: set[int]

    def grade(self, problem: Problem, text: str) -> Grade:
        return replace(super().grade(problem, text), correct=problem.index not in self.wrong)


def test_a_task_that_grades_its_own_responses_as_wrong_hears_of_it() -> None:
    data = OwnGrades(n_validation=5, n_test=4, measure_problems=300)
    indices = [problem.index for problem in data.problems("test")]
    data.wrong = set()
    data.check_grading("test")
    data.wrong = set(indices[1:3])
    with pytest.warns(UserWarning, match=rf"own responses of 2 test .* graded wrong.* problem {indices[1]}, whose ans"):
        data.check_grading("test")
    data.wrong = set(indices)
    with pytest.raises(
        ValueError, match=rf"no test problem's own response.* problem {indices[0]}, .* how OwnGrades gr"
    ):
        data.check_grading("test")


def test_a_tokenizer_that_loses_what_answers_need_is_refused(tmp_path: Path) -> None:
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789.,?<>=+-* ")}
    letters |= {PAD: len(letters), EOS: len(letters) + 1}  # and no #
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = words(vocab_size=None, tokenizer_path=str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"no validation problem's own response .* what the tokenizer keeps"):
        data.val_dataloader()


def test_fingerprints() -> None:
    same = words().fingerprint("test")
    assert same == words().fingerprint("test")
    assert len(bytes.fromhex(same)) == 32
    others = [words(n_test=3), words(vocab_size=400), words(response_tokens=99), words(difficulty=Difficulty(1, 1))]
    assert len({same, words().fingerprint("validation"), *(data.fingerprint("test") for data in others)}) == 6


def test_problems_are_the_same_whatever_their_encoding() -> None:
    same = words().problems_hash("test")
    assert len(bytes.fromhex(same)) == 4
    assert same == words(vocab_size=400).problems_hash("test") == words(response_tokens=99).problems_hash("test")
    others = [words(n_test=3), words(difficulty=Difficulty(1, 1))]
    assert len({same, words().problems_hash("validation"), *(data.problems_hash("test") for data in others)}) == 4


class Changed(WordProblems):
    """The first problem of a split is another one."""

    change: dict[str, Any]

    def load_problems(self, split: str) -> list[Problem]:
        first, *others = super().load_problems(split)
        return [replace(first, **self.change), *others]


class Renamed(WordProblems):
    task = "renamed"


def test_all_of_a_problem_is_part_of_its_fingerprint_and_questions_and_answers_of_its_hash() -> None:
    state = words().state_dict()
    found: list[ProblemDataModule] = [Renamed(n_validation=5, n_test=4)]
    changes = [{}, {"index": 99}, {"prompt": "?"}, {"answer": "7"}, {"response": "#### 7"}, {"depth": 9}]
    for change in changes:
        data = Changed(n_validation=5, n_test=4)
        data.change = change
        found.append(data)
    for data in found:
        data.load_state_dict(state)
    assert len({data.fingerprint("test") for data in found}) == 7
    hashes = [data.problems_hash("test") for data in found]
    assert len(set(hashes[:5])) == 5
    assert hashes[5] == hashes[6] == hashes[1]


def word_level(path: Path, *specials: str) -> str:
    tokens = ["[UNK]", *specials, *"abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({token: k for k, token in enumerate(tokens)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))
    return str(path)


def test_any_tokenizer_file(tmp_path: Path) -> None:
    file = word_level(tmp_path / "tokenizer.json", "</s>", "<pad>")
    data = words(tokenizer_path=file)
    assert (data.vocab_size, data.token_space.eos_id, data.token_space.pad_id) == (13, 1, 2)
    assert data.token_space.forbidden == (2,)
    assert data.canvas[0] > 8, "neither the file's truncation nor its padding is in force"
    assert data.train_dataloader().pad_id == 2
    added = Tokenizer.from_file(word_level(tmp_path / "added.json"))
    added.add_special_tokens(["</s>"])
    added.save(str(tmp_path / "added.json"))
    own = words(tokenizer_path=str(tmp_path / "added.json"))
    assert (own.vocab_size, own.token_space.eos_id) == (12, 11)
    no_pad = words(tokenizer_path=word_level(tmp_path / "no_pad.json", "</s>"))
    assert (no_pad.token_space.pad_id, no_pad.token_space.forbidden) == (1, ())
    named = words(
        tokenizer_path=word_level(tmp_path / "named.json", "STOP", "FILL"), eos_token="STOP", pad_token="FILL"
    )
    assert (named.token_space.eos_id, named.token_space.pad_id) == (1, 2)
    larger = words(tokenizer_path=file, vocab_size=16)
    assert (larger.vocab_size, larger.token_space.forbidden) == (16, (2, 13, 14, 15))
    restored = words(vocab_size=4000)
    with pytest.raises(ValueError, match="vocab_size=4000"):
        restored.load_state_dict(named.state_dict())
    with pytest.raises(ValueError, match="is not the tokenizer of the checkpoint"):
        data.load_state_dict({**named.state_dict(), "tokenizer": no_pad.tokenizer.to_str()})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tokenizer_path": "none.json"}, "tokenizer_path='none.json': no such file"),
        ({"tokenizer_path": "bad.json"}, "is no tokenizer.json"),
        ({"tokenizer_path": "no_eos.json"}, "no end-of-sequence token"),
        ({"tokenizer_path": "good.json", "pad_token": "[FILL]"}, r"data.pad_token='\[FILL\]'"),
        ({"tokenizer_path": "good.json", "vocab_size": 5}, "data.vocab_size=5: good.json has 12 tokens"),
        ({"eos_token": "</s>"}, "give data.tokenizer_path"),
        ({"vocab_size": 100}, "needs at least 258"),
        ({"vocab_size": 257}, "needs at least 258"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"first_slot": -1}, "data.first_slot=-1"),
        ({"sort_batches": 0}, "data.sort_batches=0"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"response_tokens": 1}, "data.response_tokens=1"),
        ({"n_test": 0}, "data.n_test=0"),
    ],
)
def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: dict, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{}")
    word_level(Path("no_eos.json"))
    word_level(Path("good.json"), "</s>")
    with pytest.raises(ValueError, match=message):
        words(**option)


def test_the_command_line_knows_every_option() -> None:
    """Options of the base classes are typed, and the difficulty nests."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=ProblemDataModule)
    options = ["--data=lightning_mdm.data.word_problems.WordProblems", "--data.difficulty.max_steps=4"]
    options += ["--data.vocab_size=300", "--data.batch_size=3", "--data.predict_path=null"]
    given = parser.parse_args(options).data.init_args
    assert (given.vocab_size, given.batch_size, given.predict_path) == (300, 3, None)
    assert given.difficulty.as_dict() == asdict(Difficulty(max_steps=4))
    gsm8k = parser.parse_args(["--data=lightning_mdm.data.gsm8k.GSM8K", "--data.path.train=a", "--data.path.test=b"])
    assert gsm8k.data.init_args.path == {"train": "a", "test": "b"}
    with pytest.raises(ArgumentError, match="batch_size"):
        parser.parse_args(["--data=lightning_mdm.data.gsm8k.GSM8K", "--data.batch_size=many"])
