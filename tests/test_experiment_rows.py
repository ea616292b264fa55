"""The rows of experiments of several parts: what is made again is replaced, and all else stays."""

from __future__ import annotations

import csv
import inspect
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.outcomes import ORDER_NATS, OrderRow, Row, read_order_rows, read_rows, write_order_rows, write_rows
from lightning_mdm.outcomes.table import replace_rows
from runs import REPOSITORY, load_script
from test_report import save, sweep

CELL = Row(
    task="nae_sat", split="test", checkpoint="exact", policy="iid", options="{}", T=1, seed=0, n=10, correct=0,
    accuracy=0.0, accuracy_low=0.0, accuracy_high=0.3, nfe_mean=1.0, nfe_min=1, nfe_max=1, tokens_per_forward=40.0,
    forward_passes=1, seconds=1.0, device="cpu", commit="abc", left_out=0, adaptive=False,
)  # fmt: skip
NATS = OrderRow(
    task="hop_chain", split="test", checkpoint="1f0c", policy="iid", options="{}", T=1, seed=0, n=10, nats=1.0,
    nats_sem=0.1, nats_per_token=0.1, nfe_mean=1.0, nfe_min=1, nfe_max=1, optimum=0.5, device="cpu", commit="abc",
    adaptive=False,
)  # fmt: skip


def test_rows_of_a_key_that_is_made_again_are_replaced() -> None:
    earlier = [("a", 1), ("b", 1), ("a", 2), ("c", 1)]
    made = iter([("d", 9), ("a", 9)])
    assert replace_rows(earlier, made, lambda row: row[0]) == [("b", 1), ("c", 1), ("d", 9), ("a", 9)]
    assert replace_rows(earlier, [], lambda row: row[0]) == earlier


def value_of(arguments: tuple[str, ...], option: str) -> Path:
    """The value of an option among the program's arguments."""
    return Path(arguments[arguments.index(option) + 1])


@pytest.fixture
def nae_sat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, publishing in the current folder; every sweep leaves the files that it would leave."""
    script = load_script("nae_sat")
    monkeypatch.setattr(script, "started", [], raising=False)

    def lightning(*arguments: str, log: Path) -> None:
        script.started.append(arguments)
        run_dir = value_of(arguments, "--run_dir")
        if arguments[0] == "validate":
            write_order_rows(run_dir / ORDER_NATS, [replace(NATS, nats=abs(1.0 - int(run_dir.name[-1])))])
        elif arguments[0] == "sweep":
            exact = run_dir.parent.name == "exact"
            row = replace(CELL, checkpoint="exact") if exact else replace(CELL, checkpoint="t", tokens_per_forward=32.0)
            seed = int(arguments[arguments.index("--frontier.seeds") + 1].strip("[]"))
            rows = [
                replace(row, policy=policy, options='{"again":true}', seed=seed, accuracy_high=0.3 + seed / 10)
                for policy in ("learned", "iid")
            ]
            two_steps = [replace(r, T=2, nfe_mean=1.6, tokens_per_forward=r.tokens_per_forward / 1.6) for r in rows]
            write_rows(run_dir / "frontier.csv", [*rows, *two_steps])
            selector = f'{{"selector":"{seed}"}}'
            nats = replace(NATS, task=row.task, checkpoint=row.checkpoint, options=selector, seed=seed)
            write_order_rows(run_dir / ORDER_NATS, [replace(nats, nats=float(seed))])

    monkeypatch.setattr(script, "lightning", lightning)
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return script


@pytest.mark.parametrize("part", ["exact", "trained"])
def test_latents_rows_of_the_part_that_is_not_run_stay(nae_sat: ModuleType, part: str) -> None:
    tokens = {"exact": 40.0, "trained": 32.0}
    before = {
        name: [
            replace(CELL, checkpoint=f"{name}, before", T=T, nfe_mean=float(T), tokens_per_forward=tokens[name] / T)
            for T in (1, 2, 3)
        ]
        for name in ("exact", "trained")
    }
    write_rows("rows.csv", [*before["exact"], *before["trained"]])
    nae_sat.main(["--parts", part, "--seeds", "0", "2", "--jobs", "1"])
    rows = read_rows("rows.csv")
    kept = before["trained" if part == "exact" else "exact"]
    again = [row for row in rows if "again" in row.options]
    assert [row for row in rows if row not in again] == kept, "all of the other part, none of this one"
    assert len(again) == 2 * 4
    assert {row.seed for row in again} == {0, 2}
    assert rows == sorted(rows, key=lambda row: row.tokens_per_forward * row.nfe_mean, reverse=True), "exact first"


def test_latents_rows_of_a_longer_training_have_a_file_of_their_own(nae_sat: ModuleType) -> None:
    nae_sat.main(["--parts", "longer", "--seeds", "1", "--jobs", "1"])
    assert not Path("rows.csv").exists()
    assert [(row.checkpoint, row.seed) for row in read_rows("longer.csv")] == [("t", 1)] * 4


def test_latents_order_goes_on_from_the_search_with_the_fewest_nats_on_validation(nae_sat: ModuleType) -> None:
    nae_sat.main(["--parts", "exact", "trained", "--seeds", "1", "--jobs", "1"])
    for part in ("exact", "trained"):
        folder = nae_sat.RUNS / "seed_1" / part
        fits = [call for call in nae_sat.started if call[0] == "fit" and value_of(call, "--run_dir").parent == folder]
        (start,) = (value_of(fit, "--ckpt_path") for fit in fits if value_of(fit, "--run_dir").name == "order")
        assert start == folder / "search_1" / "checkpoints" / "last.ckpt"
        assert len({value_of(fit, "--seed_everything") for fit in fits}) == len(fits) - 1 == 3, "one seed goes on"
    nae_sat.main(["--parts", "exact", "--seeds", "0", "--jobs", "1"])
    searches = [row.split(",") for row in Path("searches.csv").read_text().splitlines()[1:]]
    pairs = (("exact", "0"), ("exact", "1"), ("trained", "1"))
    assert [row[:3] for row in searches] == [[*pair, str(search)] for pair in pairs for search in range(3)]
    assert [float(row[3]) for row in searches] == [1.0, 0.0, 1.0] * 3


def test_latents_rows_of_both_parts(nae_sat: ModuleType) -> None:
    nae_sat.main(["--jobs", "1"])
    assert [row.checkpoint for row in read_rows("rows.csv")] == ["exact"] * 12 + ["t"] * 12
    assert [row.checkpoint for row in read_rows("longer.csv")] == ["t"] * 12
    for name in ("order_nats.csv", "trained_order_nats.csv", "longer_order_nats.csv"):
        costs = read_order_rows(name)
        assert [(cost.seed, cost.nats, cost.options) for cost in costs] == [(s, float(s), "{}") for s in (0, 1, 2)]
    for name in ("order_nats.png", "order_nats.svg"):
        assert Path(name).is_file()
    for part in ("trained", "longer"):
        assert all(Path(f"{part}.{kind}").is_file() for kind in ("md", "png", "svg"))
        for figure in (f"{part}.png", f"{part}_order_nats.png"):
            assert f"({figure})" in Path(f"{part}.md").read_text(encoding="utf-8"), "its own figure"
            assert Path(figure).is_file()


def test_published_latents_are_in_the_order_in_which_they_are_written() -> None:
    rows = read_rows(REPOSITORY / "experiments" / "nae_sat" / "rows.csv")
    tokens = [load_script("nae_sat").tokens_of(row) for row in rows]
    assert set(tokens) == {40, 32}, "a part each"
    assert tokens == sorted(tokens, reverse=True)


def test_hop_chain_rows_of_runs_that_are_not_repeated_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = load_script("hop_chain")

    def lightning(*arguments: str, log: Path) -> None:
        run_dir = value_of(arguments, "--run_dir")
        if arguments[0] == "sweep":
            policies = ["learned"] if "--order_nats.policies" in arguments else ["iid", "learned"]
            write_order_rows(
                run_dir / ORDER_NATS,
                [replace(NATS, policy=policy, T=T, nats=9.0) for policy in policies for T in (2, 1)],
            )

    monkeypatch.setattr(script, "lightning", lightning)
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    runs = [
        ("iid", 0), ("iid, more_hops", 0), ("learned, more_hops", 0), ("learned, relative", 0),
        ("learned, relative", 2), ("top_margin", 0),
    ]  # fmt: skip
    with open("rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(script.COLUMNS)
        writer.writerows([policy, T, seed, 1.0, 0.1, 1.0, 0.5] for policy, seed in runs for T in (1, 2, 3))

    def found() -> list[tuple[str, int, int, float]]:
        return [
            (row["policy"], int(row["seed"]), int(row["T"]), float(row["nats"]))
            for row in script.read(Path("rows.csv"))
        ]

    def rows(policy: str, seed: int, *, again: bool) -> list[tuple[str, int, int, float]]:
        return [(policy, seed, T, 9.0 if again else 1.0) for T in ((1, 2) if again else (1, 2, 3))]

    script.main(["--seeds", "0", "1", "--recipes", "relative", "--jobs", "1"])
    assert found() == [
        *rows("iid", 0, again=True), *rows("iid, more_hops", 0, again=False),
        *rows("learned, more_hops", 0, again=False), *rows("learned, relative", 0, again=True),
        *rows("learned, relative", 1, again=True), *rows("learned, relative", 2, again=False),
        *rows("top_margin", 0, again=False),
    ]  # fmt: skip
    script.main(["--seeds", "0", "--recipes", "more_hops", "--jobs", "1"])
    assert found()[2:6] == [*rows("iid, more_hops", 0, again=True), *rows("learned, more_hops", 0, again=True)]
    assert found()[:2] == rows("iid", 0, again=True), "the heuristics of another law are others"


def test_the_strength_that_masks_again_is_the_one_that_solves_most_on_validation() -> None:
    script = load_script("revising")
    rows = [
        replace(
            CELL, policy=policy, options=json.dumps({**parameters, "search": False}), T=T, split=split, accuracy=share
        )
        for policy, tried in script.CANDIDATES.items()
        for number, parameters in enumerate(tried)
        for T, split, share in ((2, "easy", 0.1 * number), (2, "hard", 0.5 - 0.2 * (number == 3)), (4, "easy", 0.3))
    ]
    assert script.best_of("p2", rows) == {"eta": 1.0}
    assert script.best_of("remdm", rows) == {"eta": 0.1, "ranking": "margin"}
    level = [replace(row, accuracy=0.5) for row in rows]
    assert script.best_of("remdm", level) == script.CANDIDATES["remdm"][0]
    named = {name for parameters in script.CANDIDATES["remdm"] for name in parameters}
    assert named == {"eta", "ranking"}, "else one of them is in the options of another"
    assert all(parameters.keys() == named for parameters in script.CANDIDATES["remdm"])


def module_options(arguments: tuple[str, ...]) -> dict[str, str]:
    """The module's options among the program's arguments, as they are written there."""
    return {
        name.removeprefix("--model."): value
        for name, value in pairwise(arguments)
        if name.startswith("--model.") and name != "--model.noise_seed"
    }


def test_the_parts_of_learning_lead_from_the_published_way_to_the_configuration() -> None:
    script = load_script("order_parts")
    one = {"posterior.order_temperature": 0.1, "learning_rate": 0.5}
    assert all(candidate.keys() == one.keys() for candidate in script.CANDIDATES)
    published, last = (module_options(script.options_of(recipe, 0, one)) for recipe in ("published", "prices"))
    theirs = OmegaConf.load(REPOSITORY / "configs/gsm8k_aug/fox_2026.yaml").model.init_args
    for name in ("finishing", "selector.start", "posterior.family", "prices", "estimator"):
        assert yaml.safe_load(published[name]) == OmegaConf.select(theirs, name), name
    assert (published["posterior.order_temperature"], published["learning_rate"]) == ("0.1", "0.5")
    assert published.keys() == last.keys(), "nothing is left to a default on one side"
    module = inspect.signature(OrderModule).parameters
    own = OmegaConf.load(REPOSITORY / script.CONFIG).model.init_args
    for name in last.keys() - {"posterior.order_temperature"}:
        wanted = OmegaConf.select(own, name)
        assert yaml.safe_load(last[name]) == (module[name].default if wanted is None else wanted), name


def test_the_options_of_the_published_way_are_those_that_solve_most_on_validation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = load_script("order_parts")

    def run_all(stages: list[tuple[str, Any]], clock: Any) -> bool:
        for _, stage in stages:
            if isinstance(stage, script.Fit):
                continue
            seeds = json.loads(stage.options[stage.options.index("--frontier.seeds") + 1])
            split = "validation" if "validation" in stage.options else "test"
            best = "published_0.3_0.0003" in str(stage.run_dir)
            learned = "heuristics" not in stage.run_dir.name
            options = {"selector": "ab", "price": 0.0} if learned else {}
            found = [
                replace(
                    row, split=split, options=json.dumps(options), policy="learned" if learned else row.policy,
                    accuracy=0.9 if best else row.accuracy,
                )
                for row in sweep(tuple(seeds))[0]
                if row.policy == "iid"
            ]  # fmt: skip
            stage.run_dir.mkdir(parents=True, exist_ok=True)
            save(stage.run_dir, found, [])
            (stage.run_dir / "report.md").touch()
        return True

    monkeypatch.setattr(script, "run_all", run_all)
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(script, "RUNS", tmp_path / "runs")
    script.main(["--seeds", "0", "--jobs", "1"])
    script.main(["--recipes", "published", "all_steps", "--seeds", "2", "--jobs", "1"])
    rows = read_rows(tmp_path / "rows.csv")
    assert {(json.loads(row.options).get("selector"), row.seed) for row in rows if row.policy == "learned"} == {
        *((recipe, 0) for recipe in script.RECIPES), ("published", 2), ("all_steps", 2),
    }  # fmt: skip
    assert {row.seed for row in rows if row.policy == "iid"} == {0}
    assert {row.accuracy for row in rows if "published" in row.options} == {0.9}
    tried = {json.loads(row.options)["selector"] for row in read_rows(tmp_path / "validation.csv")}
    assert tried == {f"order_temperature {t}, learning_rate {rate}" for t in (0.1, 0.3) for rate in (0.0015, 0.0003)}
    decoded = {str(path.parent.relative_to(tmp_path / "runs")) for path in tmp_path.glob("runs/*/seed_*/test")}
    assert "published_0.3_0.0003/seed_0" in decoded
    assert "all_steps_0.3_0.0003/seed_2" in decoded
    assert not any("0.1" in name or "0.0015" in name for name in decoded), "they are not decoded on test"
