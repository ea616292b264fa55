"""The laws as tasks: text and tokens, disjoint streams, exact resume, grades, the command line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser

from lightning_mdm.data.batch import Batch
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.hop_chain import HopChainProblems
from lightning_mdm.data.laws import LawProblems
from lightning_mdm.data.markov_chain import MarkovChainProblems
from lightning_mdm.data.nae_sat import NaeSatProblems
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.stream import Progress
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.laws.markov_chain import MarkovChain
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.nets.laws import law_denoiser

SHUFFLED = HopChain(chain=4, free=2, given=3, arrangement="per_problem")


def tasks(**options: Any) -> list[LawProblems]:
    options = {"n_validation": 20, "n_test": 15, "batch_size": 4, **options}
    return [
        HopChainProblems(**options), HopChainProblems(SHUFFLED, **options), MarkovChainProblems(**options),
        NaeSatProblems(NaeSat(padding=2), **options),
    ]  # fmt: skip


TASKS = ["fixed", "per_problem", "markov", "nae_sat"]


@pytest.mark.parametrize("task", range(4), ids=TASKS)
def test_text_and_tokens(task: int) -> None:
    data = tasks()[task]
    encode = pickle.loads(pickle.dumps(data.encoder))
    make = pickle.loads(pickle.dumps(data.maker("validation")))
    for problem in data.problems("validation"):
        assert problem == make(problem.index)
        drawn = data.law.draw("validation", problem.index)
        example = encode(problem)
        assert tuple(example.tokens) == drawn.prompt + drawn.response
        assert example.given == [True] * len(drawn.prompt) + [False] * len(drawn.response)
        assert data.decode(drawn.response) == problem.response
        assert data.decode(drawn.prompt) == problem.prompt
        grade = data.grade(problem, problem.response)
        assert grade.correct
        assert grade.answer == problem.answer
    space = data.token_space
    assert (space.vocab_size, space.eos_id, space.pad_id) == (data.vocab_size, None, 0)
    assert space.forbidden == data.law.forbidden
    assert law_denoiser(data.law).vocab_size == data.vocab_size  # type: ignore[arg-type]


@pytest.mark.parametrize("task", range(4), ids=TASKS)
def test_streams(task: int) -> None:
    """Evaluation ignores the seed, training does not, and no two streams are alike."""
    one, two = tasks()[task], tasks(seed=1)[task]
    for split in ("validation", "test"):
        assert one.problems(split) == two.problems(split)
        assert one.fingerprint(split) == two.fingerprint(split)
    drawn = [data.training().sample(15) for data in (one, two)] + [one.problems(s)[:15] for s in ("validation", "test")]
    assert len({str([p.prompt + p.response for p in problems]) for problems in drawn}) == 4
    assert (len(one.problems("validation")), len(one.problems("test"))) == (20, 15)


def test_fingerprints_know_the_law() -> None:
    laws = [HopChain(), HopChain(seed=1), HopChain(hops=3), HopChain(certain=0.9)]
    assert len({HopChainProblems(law, n_test=3).fingerprint("test") for law in laws}) == 4
    chains = [MarkovChain(), MarkovChain(seed=1), MarkovChain(stickiness=0.1)]
    assert len({MarkovChainProblems(law, n_test=3).fingerprint("test") for law in chains}) == 3
    sats = [NaeSat(), NaeSat(seed=1), NaeSat(placing="shuffled"), NaeSat(padding=1)]
    assert len({NaeSatProblems(law, n_test=3).fingerprint("test") for law in sats}) == 4


@pytest.mark.parametrize("task", range(4), ids=TASKS)
def test_training_resumes_exactly(task: int) -> None:
    def batches(data: LawProblems, slots: int, n: int) -> list[Batch]:
        data.progress = Progress(slots)
        walk = iter(data.train_dataloader())
        return [next(walk) for _ in range(n)]

    whole, rest = batches(tasks()[task], 0, 5), batches(tasks()[task], 8, 3)
    for batch, again in zip(whole[2:], rest, strict=True):
        assert torch.equal(batch.tokens_BL, again.tokens_BL)
        assert torch.equal(batch.index_B, again.index_B)
    assert torch.cat([batch.index_B for batch in whole]).tolist() == list(range(20))
    assert torch.equal(whole[0].response_BL.sum(-1), torch.full((4,), tasks()[task].law.length))


class Counter(L.LightningModule):
    """Counts the rows it trains on and is tested on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.rows = 0

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.rows += len(batch)
        return self.weight * batch.response_BL.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.response_BL.any()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.rows += len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("task", range(4), ids=TASKS)
def test_inside_lightning(task: int, tmp_path: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module, data = Counter(), tasks()[task]
    trainer.fit(module, datamodule=data)
    assert (module.rows, data.progress.slots) == (12, 12)
    trainer.test(module, datamodule=data)
    assert module.rows == 12 + 15
    assert set(data.left_out.values()) == {0}


def test_a_checkpoint_of_another_law_is_pointed_out(tmp_path: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Counter(), datamodule=NaeSatProblems(NaeSat(latents=4, observations=6), n_test=3))
    trainer.save_checkpoint(tmp_path / "law.ckpt")
    again = NaeSatProblems(NaeSat(latents=4, observations=6), n_test=3)
    trainer.test(Counter(), datamodule=again, ckpt_path=tmp_path / "law.ckpt", weights_only=False)
    other = NaeSatProblems(NaeSat(latents=4, observations=6, seed=1), n_test=3)
    with pytest.warns(UserWarning, match=r"data\.law is NaeSat\(.*seed=1.*the checkpoint was trained on.*seed=0"):
        trainer.test(Counter(), datamodule=other, ckpt_path=tmp_path / "law.ckpt", weights_only=False)


@pytest.mark.parametrize("task", [0, 1], ids=TASKS[:2])
def test_grades_of_the_hop_chain(task: int) -> None:
    data = tasks()[task]
    assert isinstance(data, HopChainProblems)
    problem = data.problems("test")[3]
    words = problem.response.split()
    roles = data.law.fixed_roles or [t - data.law.vocab_size for t in data.law.draw("test", 3).prompt]
    for place, role in enumerate(roles):
        changed = list(words)
        changed[place] = str((int(words[place]) + 1) % data.law.vocab_size)
        assert data.grade(problem, " ".join(changed)).correct == (role == data.law.free_role)
    assert problem.depth == data.law.chain
    assert problem.answer.split()[: data.law.chain] == [str(value) for value in data.law.chain_values]
    for text in ("", " ".join(words[1:]), " ".join(["x", *words[1:]]), " ".join(["f", *words[1:]])):
        assert data.grade(problem, text) == data.grade(problem, "nothing")
        assert data.grade(problem, text).answer is None
        assert not data.grade(problem, text).correct


def test_grades_of_the_markov_chain() -> None:
    data = tasks()[2]
    problem = data.problems("test")[0]
    assert data.grade(problem, " ".join(["3"] * 16)).correct
    for text in ("", " ".join(["3"] * 15), " ".join(["4"] * 16)):
        assert not data.grade(problem, text).correct
    assert data.grade(problem, "").answer is None


def test_questions_of_a_users_own(tmp_path: Path) -> None:
    """An arrangement without a response can be predicted; a text that is no arrangement is left out."""
    file = tmp_path / "questions.txt"
    good = "g c2 f c1 g c4 f c3 g"
    file.write_text(f"{good}\nc1 c2\nc1 c1 f c1 g c4 f c3 g\nwhat is this\n")
    data = HopChainProblems(SHUFFLED, predict_path=str(file))
    with pytest.warns(UserWarning, match=r"hop_chain: 3 predict problem.* give prompts of data\.law"):
        (batch,) = data.predict_dataloader()
    assert data.decode(batch.tokens_BL[0][batch.prompt_BL[0]].tolist()) == good
    assert int(batch.response_BL.sum()) == SHUFFLED.length
    assert data.encode(Problem(0, good, "1 2 3", "")) is None
    assert not data.grade(data.problems("predict")[0], "1 2 3 4 5 6 7 8 9").correct
    assert not data.grade(data.problems("predict")[3], "1 2 3 4 5 6 7 8 9").correct


@pytest.mark.filterwarnings("ignore:(?s).*instantiate_classes.*was deprecated")
def test_the_command_line_builds_the_law() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=ProblemDataModule)
    options = ["--data=lightning_mdm.data.hop_chain.HopChainProblems", "--data.law.arrangement=per_problem"]
    options += ["--data.law.chain=4", "--data.n_test=7", "--data.batch_size=3"]
    data = parser.instantiate_classes(parser.parse_args(options)).data
    assert data.law == HopChain(chain=4, arrangement="per_problem")
    assert (len(data.problems("test")), data.batch_size) == (7, 3)
    options = ["--data=lightning_mdm.data.markov_chain.MarkovChainProblems", "--data.law.length=5"]
    assert parser.instantiate_classes(parser.parse_args(options)).data.law == MarkovChain(length=5)


@pytest.mark.parametrize("task", [HopChainProblems, MarkovChainProblems, NaeSatProblems])
@pytest.mark.parametrize("option", ["n_validation", "n_test", "batch_size"])
def test_wrong_options(task: type[LawProblems], option: str) -> None:
    with pytest.raises(ValueError, match=f"data.{option}=0"):
        task(**{option: 0})  # type: ignore[call-arg]
