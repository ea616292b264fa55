"""``experiments/progressive/run.py``: its stages parse and follow one another, and its table pairs the arms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from lightning_mdm import slices
from lightning_mdm.cli import main
from lightning_mdm.metrics.statistics import holm, sign_by_problem
from lightning_mdm.outcomes import read_rows
from runs import REPOSITORY, load_script, write_checkpoint
from test_report import save, sweep

FILES = ("--ckpt_path", "--model.denoiser_ckpt", "--model.init_from", "--model.progressive.order_ckpt")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = load_script("progressive")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(script, "HERE", tmp_path / "here")
    return script


@pytest.fixture
def called(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the program is called with, by the directory of a run; it leaves what it would leave."""
    calls: dict[str, list[str]] = {}

    def program(*arguments: str, log: Path, timeout: float | None = None) -> None:
        given, run_dir = list(arguments), log.parent
        name = run_dir.relative_to(script.RUNS).as_posix()
        assert name not in calls, "nothing is done twice"
        calls[name] = given
        if given[0] == "fit":
            write_checkpoint(run_dir / "checkpoints" / "last.ckpt", int(of(given, "--trainer.max_steps")))
        else:
            seed = json.loads(of(given, "--frontier.seeds"))
            rows, outcomes = sweep(tuple(seed), checkpoint=name.rpartition("/")[0])
            learned = run_dir.name == "learned"
            policy = "learned" if learned else "top_margin"
            rows = [replace(row, policy=policy) for row in rows if row.policy == "top_margin"]
            save(run_dir, rows, [replace(one, policy=policy) for one in outcomes if one.policy == "top_margin"])
            (run_dir / "report.md").touch()

    class Order:
        """Stands for the module: what it stores says where it is from."""

        @classmethod
        def load_from_checkpoint(cls, path: Path, map_location: str) -> Order:
            order = cls()
            order.path = path
            return order

        def save_order(self, path: Path) -> None:
            path.write_text(str(self.path))

    monkeypatch.setattr(script, "OrderModule", Order)
    monkeypatch.setattr(slices, "lightning", program)
    monkeypatch.setattr(script, "BUDGETS", (1, 2, 4))  # those that it leaves
    return calls


def of(arguments: list[str], option: str) -> str:
    """The value of an option, of two the later one."""
    return arguments[len(arguments) - arguments[::-1].index(option)]


def parsed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The configuration that a command makes of its options, but for the files it starts from."""
    rest = list(arguments)
    for option in FILES:
        while option in rest:
            del rest[rest.index(option) : rest.index(option) + 2]
    if FILES[-1] in arguments:  # which a learned policy has to be given with
        rest += [FILES[-1], of(arguments, FILES[-1])]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*rest, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_stages_parse_and_follow_one_another(
    script: ModuleType, called: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["--seeds", "3", "--jobs", "1"])
    assert called.keys() == {
        *(f"{arm}/seed_3/{stage}" for arm in script.ARMS for stage in ("denoiser", "heuristics")),
        *(f"{arm}/seed_3/learned" for arm in ("random", "more", "along")), "random/seed_3/two_steps",
        "random/seed_3/order",
    }  # fmt: skip
    for arm, masks in script.ARMS.items():
        found = parsed(called[f"{arm}/seed_3/denoiser"], capsys)
        model, data = found["model"]["init_args"], found["data"]["init_args"]
        assert (found["seed_everything"], data["seed"], model["noise_seed"]) == (3, 3, 3)
        rows = data["batch_size"]
        if masks.policy is None:
            assert model["progressive"] is None
        else:
            assert model["progressive"]["policy"]["class_path"].endswith(f".{masks.policy}")
            assert model["progressive"]["budgets"] == list(masks.budgets)
            rows *= sum(masks.budgets) / len(masks.budgets)
        assert 60 <= rows <= 66, "all updates hold about as many rows"
        assert (
            (data["first_slot"] > 0) == ("--model.init_from" in called[f"{arm}/seed_3/denoiser"]) == bool(masks.start)
        )
    for stage in ("two_steps", "order", "heuristics", "learned"):
        parsed(called[f"random/seed_3/{stage}"], capsys)
    last = "checkpoints/last.ckpt"
    runs = script.RUNS
    along = called["along/seed_3/denoiser"]
    order = runs / "random/seed_3/order.safetensors"
    assert of(along, "--model.progressive.order_ckpt") == str(order)
    assert of(along, "--model.init_from") == str(runs / "random/seed_3/denoiser" / last)
    learned = called["more/seed_3/learned"]
    assert of(learned, "--model.denoiser_ckpt") == str(runs / "more/seed_3/denoiser" / last)
    assert of(learned, "--model.init_from") == str(order)
    assert order.read_text() == str(runs / "random/seed_3/order" / last)
    assert slices.standing(runs / "random/seed_3/order" / last)[0] == script.ALL_BUDGETS
    called.clear()
    script.main(["--seeds", "3", "--jobs", "1"])
    assert not called, "nothing is repeated"


def test_what_is_complete_is_published(script: ModuleType, called: dict[str, list[str]]) -> None:
    script.main(["--parts", "scratch", "--seeds", "0", "1", "--jobs", "1"])
    rows = read_rows(script.HERE / "rows.csv")
    assert len({row.checkpoint for row in rows}) == 3
    assert {row.seed for row in rows} == {0, 1}
    table = (script.HERE / "table.md").read_text(encoding="utf-8")
    assert "| left to right | top margin |" in table
    assert "along" not in table
    script.main(["--parts", "further", "--seeds", "1", "--jobs", "1"])
    assert "| more | learned |" in (script.HERE / "table.md").read_text(encoding="utf-8")
    assert "| along | learned |" in (script.HERE / "table.md").read_text(encoding="utf-8")


def test_the_table_pairs_the_arms(script: ModuleType) -> None:
    (row, *_), _ = sweep((0,))
    right = {"random": [0, 0, 0, 0, 0, 1], "left_to_right": [1, 1, 1, 1, 1, 0], "more": [0] * 6, "along": [1] * 6}
    solved = {
        arm: {("iid", T, (0, problem)): bool(value) for T in script.BUDGETS for problem, value in enumerate(each)}
        for arm, each in right.items()
    }
    rows = {
        arm: [
            replace(row, policy="iid", T=T, seed=seed, accuracy=sum(each) / 6 - seed / 10, commit="abc1234")
            for T in script.BUDGETS
            for seed in (0, 1)
        ]
        for arm, each in right.items()
    }
    lines = script.table(rows, solved).splitlines()
    assert f"| left to right | iid |{' 78.3 (83.3, 73.3) |' * len(script.BUDGETS)}" in lines
    pairs = [("left_to_right", "random")] * 4 + [("along", "more")] * 4
    tests = [sign_by_problem(*({(0, p): bool(v) for p, v in enumerate(right[arm])} for arm in pair)) for pair in pairs]
    for pair, budget, test, p in zip(pairs, script.BUDGETS * 2, tests, holm([t.p_value for t in tests]), strict=True):
        compared = f"{pair[0]}, {pair[1]}".replace("_", " ")
        assert f"| {compared} | iid | {budget} | {test.only_a} | {test.only_b} | {p:.2g} |" in lines
    assert (tests[0].only_a, tests[0].only_b) == (5, 1)
    assert lines[-1] == "Commit: `abc1234`."
