"""Records, the store that survives a kill, and the csv files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.outcomes import (
    BatchRecord,
    Cell,
    Outcome,
    OutcomeRow,
    OutcomeStore,
    Row,
    canonical_json,
    commit_hash,
    frontier_row,
    names_one_source,
    outcome_rows,
    read_outcomes,
    read_rows,
    write_outcomes,
    write_rows,
)

CELL = Cell("word_problems", "test", "1f0c", "d00d", "top_margin", {"eos": "as_tokens", "token_temperature": 0.0}, 4, 0)


def batch(*problems: int, **changes: Any) -> BatchRecord:
    outcomes = tuple(Outcome(p, p % 3 == 0, 2 + p % 3, 10 + p, str(p) if p % 2 else None) for p in problems)
    return replace(BatchRecord(outcomes, 4, 0.5, "cpu", "abc1234"), **changes)


class TestCell:
    @pytest.mark.parametrize(
        "change",
        [
            {"task": "gsm8k"},
            {"split": "validation"},
            {"checkpoint": "1f0d"},
            {"data": "beef"},
            {"policy": "entropy"},
            {"options": {"eos": "close", "token_temperature": 0.0}},
            {"options": {"eos": "as_tokens"}},
            {"steps": 5},
            {"seed": 1},
            {"adaptive": True},
        ],
    )
    def test_any_change_is_another_cell(self, change: dict[str, Any]) -> None:
        other = replace(CELL, **change)
        assert other.key != CELL.key
        assert other.label != CELL.label
        assert other != CELL

    def test_every_field_is_covered_above(self) -> None:
        assert {f.name for f in fields(Cell)} == {
            "task", "split", "checkpoint", "data", "policy", "options", "steps", "seed", "adaptive",
        }  # fmt: skip

    def test_same_meaning_is_the_same_cell(self) -> None:
        same = replace(CELL, options={"token_temperature": 0, "eos": "as_tokens"})
        assert (same, same.key, hash(same)) == (CELL, CELL.key, hash(CELL))
        assert canonical_json({"b": (1.0, 2.5), "a": True}) == '{"a":true,"b":[1,2.5]}'

    def test_label_is_readable_and_safe(self) -> None:
        assert CELL.label == f"test-top_margin-T4-s0-{CELL.key[:8]}"
        wild = replace(CELL, split="../a b", policy="блок/" + "x" * 300)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,140}", wild.label)

    def test_keeps_a_copy_of_its_options(self) -> None:
        options = {"policy": {"name": "entropy"}}
        cell = replace(CELL, options=options)
        key = replace(cell).key
        options["policy"]["name"] = "margin"
        assert cell.key == key

    @pytest.mark.parametrize("options", [{"a": object()}, {"a": float("nan")}, {"a": {1: 2}}])
    def test_refuses_options_that_are_not_json(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="options must be plain JSON"):
            replace(CELL, options=options)

    def test_refuses_no_steps(self) -> None:
        with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
            replace(CELL, steps=0)


class TestStore:
    def test_round_trip_and_union_of_ranks(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path / "cells")
        assert store.cells() == []
        assert store.done(CELL) == set()
        store.append(CELL, batch(0, 1), rank=0)
        store.append(CELL, batch(2, 3), rank=10)
        store.append(CELL, batch(4), rank=2)
        again = OutcomeStore(tmp_path / "cells")
        assert again.records(CELL) == [batch(0, 1), batch(4), batch(2, 3)]
        assert again.done(CELL) == {0, 1, 2, 3, 4}
        assert again.cells() == [CELL]

    def test_a_problem_counts_once(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path)
        store.append(CELL, batch(0, 1), rank=0)
        wrong = Outcome(1, True, 9, 9, "other")
        store.append(CELL, replace(batch(5), outcomes=(wrong, *batch(5).outcomes)), rank=1)
        store.append(CELL, batch(0), rank=1)
        assert store.records(CELL) == [batch(0, 1), batch(5)]

    def test_cells_do_not_mix(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path)
        other = replace(CELL, options={})
        store.append(CELL, batch(0))
        store.append(other, batch(1))
        assert (store.done(CELL), store.done(other)) == ({0}, {1})
        assert set(store.cells()) == {CELL, other}

    def test_a_directory_of_another_cell_is_an_error(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path)
        store.append(replace(CELL, seed=1), batch(0))
        (tmp_path / replace(CELL, seed=1).label).rename(tmp_path / CELL.label)
        for call in (lambda: store.done(CELL), lambda: store.append(CELL, batch(1))):
            with pytest.raises(ValueError, match=f"{CELL.label} holds the outcomes of another cell"):
                call()

    def test_torn_last_line(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path)
        store.append(CELL, batch(0, 1))
        path = tmp_path / CELL.label / "outcomes.rank0.jsonl"
        whole = path.read_bytes()
        line = batch(2).to_json().encode()
        for length in (1, len(line) // 2, len(line)):  # the whole line without its end is torn as well
            path.write_bytes(whole + line[:length])
            assert store.done(CELL) == {0, 1}
            store.append(CELL, batch(3))
            assert store.records(CELL) == [batch(0, 1), batch(3)]
        path.write_bytes(b"\0" * 200_000)  # a file whose first line never was written
        assert store.done(CELL) == set()
        store.append(CELL, batch(3))
        assert store.records(CELL) == [batch(3)]

    @pytest.mark.parametrize("before", [(), (0,), (0, 1)])
    @pytest.mark.parametrize("torn", [1, 2**16 - 1, 2**16, 2**16 + 1, 2**17 - 1, 2**17, 200_000])
    def test_a_torn_line_of_any_length_takes_no_other_with_it(
        self, tmp_path: Path, before: tuple[int, ...], torn: int
    ) -> None:
        store = OutcomeStore(tmp_path)
        _write_cell(tmp_path)
        path = tmp_path / CELL.label / "outcomes.rank0.jsonl"
        whole = b"".join(batch(problem).to_json().encode() + b"\n" for problem in before)
        path.write_bytes(whole + b"x" * torn)
        store.append(CELL, batch(7))
        assert path.read_bytes() == whole + batch(7).to_json().encode() + b"\n"

    def test_only_the_files_of_processes_are_read(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path)
        store.append(CELL, batch(0))
        folder = tmp_path / CELL.label
        assert {path.name for path in folder.iterdir()} == {"cell.json", "outcomes.rank0.jsonl"}, "no draft is left"
        for name in ("outcomes.rank0.jsonl.old", "old.outcomes.rank1.jsonl", "outcomes.rank-1.jsonl"):
            (folder / name).write_text(batch(1).to_json() + "\n")
        assert store.done(CELL) == {0}
        with pytest.raises(AssertionError, match="rank -1"):
            store.append(CELL, batch(2), rank=-1)

    def test_a_directory_that_was_only_made_is_claimed(self, tmp_path: Path) -> None:
        """A process killed before it said which cell it is blocks nothing."""
        (tmp_path / CELL.label).mkdir()
        store = OutcomeStore(tmp_path)
        assert store.cells() == []
        store.append(CELL, batch(0))
        assert (store.cells(), store.done(CELL)) == ([CELL], {0})

    def test_cells_come_in_the_order_of_their_directories(self, tmp_path: Path) -> None:
        store = OutcomeStore(tmp_path)
        for seed in (5, 3, 8, 1, 9, 2):
            store.append(replace(CELL, seed=seed), batch(0))
        assert [cell.seed for cell in store.cells()] == [1, 2, 3, 5, 8, 9]

    def test_a_file_system_without_locks_will_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fcntl = pytest.importorskip("fcntl")

        def refused(*arguments: object) -> None:
            raise OSError("no locks available")

        monkeypatch.setattr(fcntl, "flock", refused)
        OutcomeStore(tmp_path).append(CELL, batch(0))
        assert OutcomeStore(tmp_path).done(CELL) == {0}

    @pytest.mark.parametrize("damage", ["rubbish", "{}", '{"outcomes":[{"problem":-1}]}', "\udcff"])
    def test_damage_inside_is_an_error(self, tmp_path: Path, damage: str) -> None:
        store = OutcomeStore(tmp_path)
        store.append(CELL, batch(0))
        path = tmp_path / CELL.label / "outcomes.rank0.jsonl"
        path.write_bytes(path.read_bytes() + damage.encode(errors="surrogateescape") + b"\n")
        store.append(CELL, batch(1))
        with pytest.raises(ValueError, match=r"outcomes\.rank0\.jsonl, line 2: "):
            store.records(CELL)

    @pytest.mark.parametrize("wrong", [{"problem": -1}, {"nfe": -1}, {"tokens": -1}, {"score": 1.25}, {"score": -0.25}])
    def test_a_number_that_cannot_be_is_damage(self, wrong: dict[str, float]) -> None:
        record = json.loads(batch(0).to_json())
        record["outcomes"][0].update(wrong)
        with pytest.raises(ValueError, match="not the record of a decoded batch"):
            BatchRecord.from_json(json.dumps(record))

    @pytest.mark.parametrize("damage", ["{", "[]", '{"colour": "red"}'])
    def test_damaged_cell(self, tmp_path: Path, damage: str) -> None:
        store = OutcomeStore(tmp_path)
        store.append(CELL, batch(0))
        (tmp_path / CELL.label / "cell.json").write_text(damage)
        with pytest.raises(ValueError, match=r"cell\.json does not describe a cell"):
            store.cells()

    def test_kill_9(self, tmp_path: Path) -> None:
        code = (
            "import sys; from lightning_mdm.outcomes import *\n"
            f"cell = Cell(**{json.loads((_write_cell(tmp_path)).read_text())!r})\n"
            "store, p = OutcomeStore(sys.argv[1]), 0\n"
            "while True:\n"
            "    store.append(cell, BatchRecord((Outcome(p, True, 4, 9, 'x' * 5000),), 4, .1, 'cpu', 'c'))\n"
            "    print(p, flush=True); p += 1\n"
        )
        store = OutcomeStore(tmp_path)
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while process.stdout.readline().strip() != "20":
                assert process.poll() is None
            time.sleep(0.003)
            os.kill(process.pid, signal.SIGKILL)
            acknowledged = 20 + len(process.stdout.read().split())
        assert process.returncode == -signal.SIGKILL
        done = store.done(CELL)
        assert done >= set(range(acknowledged + 1))
        assert len(done) <= acknowledged + 2
        store.append(CELL, batch(10_000))
        assert store.done(CELL) == done | {10_000}

    def test_two_sweeps_at_once_lose_nothing(self, tmp_path: Path) -> None:
        """One waits for the other to finish its line, which would count as torn."""
        fcntl = pytest.importorskip("fcntl")
        store = OutcomeStore(tmp_path)
        store.append(CELL, batch(0))
        path = tmp_path / CELL.label / "outcomes.rank0.jsonl"
        line = batch(1).to_json().encode() + b"\n"
        second = threading.Thread(target=store.append, args=(CELL, batch(2)))
        with open(path, "ab") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            first.write(line[:20])
            first.flush()
            second.start()
            second.join(0.3)
            assert second.is_alive()
            first.write(line[20:])
        second.join(60)
        assert store.done(CELL) == {0, 1, 2}


def _write_cell(folder: Path) -> Path:
    OutcomeStore(folder).append(CELL, batch())
    return folder / CELL.label / "cell.json"


class TestRows:
    def test_frontier_row_by_hand(self) -> None:
        later = {"device": "gpu", "commit": "def5678-dirty", "software": "torch 2.13.0+cu130"}
        records = [batch(0, 1, software="torch 2.9.0+cpu"), batch(1, 2, 3, **later), batch(5)]
        row = frontier_row(CELL, records, left_out=2)
        assert (row.n, row.correct, row.accuracy) == (5, 2, 0.4)
        assert (row.accuracy_low, row.accuracy_high) == wilson(2, 5)
        assert (row.nfe_mean, row.nfe_min, row.nfe_max) == ((2 + 3 + 4 + 2 + 4) / 5, 2, 4)
        assert row.tokens_per_forward == (10 + 11 + 12 + 13 + 15) / 15
        assert (row.forward_passes, row.seconds, row.left_out) == (12, 1.5, 2)
        assert (row.device, row.commit) == ("cpu+gpu", "abc1234+def5678-dirty")
        assert row.software == "torch 2.9.0+cpu | torch 2.13.0+cu130"
        assert frontier_row(CELL, records[2:]).software == ""
        assert row.options == '{"eos":"as_tokens","token_temperature":0}'

    def test_the_first_outcome_of_a_problem_stays(self) -> None:
        again = batch(outcomes=(Outcome(1, True, 9, 99, "other"),))
        row = frontier_row(replace(CELL, adaptive=True), [batch(1), again], problems="5eed")
        assert (row.n, row.correct, row.nfe_mean, row.tokens_per_forward) == (1, 0, 3.0, 11 / 3)
        assert (row.adaptive, row.problems) == (True, "5eed")
        own = (1, "top_margin", CELL.options_json, 4, 3, False, 3, 11, "1")
        assert outcome_rows(replace(CELL, seed=3), [batch(1), again]) == [
            OutcomeRow("word_problems", "test", "1f0c", *own)
        ]

    def test_what_takes_no_evaluation_has_no_parallelism(self) -> None:
        """As where a response was given whole."""
        row = frontier_row(CELL, [batch(outcomes=(Outcome(0, True, 0, 5, "x"),))])
        assert (row.nfe_mean, row.tokens_per_forward) == (0.0, 0.0)

    def test_no_outcomes(self) -> None:
        with pytest.raises(ValueError, match=f"{CELL.label} has no outcomes"):
            frontier_row(CELL, [batch()])

    def test_columns(self) -> None:
        assert ",".join(field.name for field in fields(Row)) == (
            "task,split,checkpoint,policy,options,T,seed,n,correct,accuracy,accuracy_low,accuracy_high,nfe_mean,nfe_min,"
            "nfe_max,tokens_per_forward,forward_passes,seconds,device,commit,left_out,adaptive,score,score_sem,"
            "problems,software"
        )
        assert ",".join(field.name for field in fields(OutcomeRow)) == (
            "task,split,checkpoint,problem,policy,options,T,seed,correct,nfe,tokens,answer,score"
        )

    def test_round_trips(self, tmp_path: Path) -> None:
        odd = replace(CELL, policy='commas, "quotes"\nand lines', options={"a": "ü,;"})
        rows = [frontier_row(cell, [batch(0, 1, 2)]) for cell in (CELL, odd)]
        outcomes = [row for cell in (CELL, odd) for row in outcome_rows(cell, [batch(2, 1), batch(1, 0)])]
        assert [row.problem for row in outcomes] == [0, 1, 2, 0, 1, 2]
        write_rows(tmp_path / "made" / "frontier.csv", rows)
        write_outcomes(tmp_path / "outcomes.csv", outcomes)
        assert read_rows(tmp_path / "made" / "frontier.csv") == rows
        assert read_outcomes(tmp_path / "outcomes.csv") == outcomes
        assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "outcomes.csv"]

    def test_scores(self, tmp_path: Path) -> None:
        assert frontier_row(CELL, [batch(0, 1)]).score is None
        shares = [0.5, 1.0, 0.75]
        done = tuple(
            replace(outcome, score=share) for outcome, share in zip(batch(0, 1, 2).outcomes, shares, strict=True)
        )
        row = frontier_row(CELL, [batch(outcomes=done)])
        assert row.score == 0.75
        assert row.score_sem == pytest.approx((0.125 / 2) ** 0.5 / 3**0.5)
        single = frontier_row(CELL, [batch(outcomes=done[:1])])
        assert (single.score, single.score_sem) == (0.5, None)
        mixed = (*done, Outcome(7, True, 1, 1, "x"))
        assert frontier_row(CELL, [batch(outcomes=mixed)]).score is None, "a mean of some problems is none of the cell"
        assert BatchRecord.from_json(batch(outcomes=mixed).to_json()) == batch(outcomes=mixed)
        older = {name: value for name, value in json.loads(batch(0).to_json()).items() if name != "software"}
        assert BatchRecord.from_json(json.dumps(older)) == batch(0)
        outcomes = outcome_rows(CELL, [batch(outcomes=mixed)])
        assert [outcome.score for outcome in outcomes] == [*shares, None]
        write_rows(tmp_path / "frontier.csv", [row, single])
        write_outcomes(tmp_path / "outcomes.csv", outcomes)
        assert read_rows(tmp_path / "frontier.csv") == [row, single]
        assert read_outcomes(tmp_path / "outcomes.csv") == outcomes

    def test_files_without_scores_are_read(self, tmp_path: Path) -> None:
        rows = [frontier_row(CELL, [batch(0, 1)])]
        write_rows(tmp_path / "frontier.csv", rows)
        lines = (tmp_path / "frontier.csv").read_text().splitlines()
        (tmp_path / "frontier.csv").write_text("\n".join(line.rsplit(",", 4)[0] for line in lines) + "\n")
        assert read_rows(tmp_path / "frontier.csv") == rows
        (tmp_path / "frontier.csv").write_text("\n".join(line.rsplit(",", 5)[0] for line in lines) + "\n")
        with pytest.raises(ValueError, match=r"line 1: the columns must be task,.*,score_sem,problems,software, got"):
            read_rows(tmp_path / "frontier.csv")

    def test_errors_name_file_line_and_column(self, tmp_path: Path) -> None:
        path = tmp_path / "outcomes.csv"
        write_outcomes(path, outcome_rows(CELL, [batch(0, 1)]))
        good = path.read_text()
        for old, changed, message in [
            (",4,0,1,", ",4x,0,1,", r"outcomes\.csv, line 2: column T must be int, got '4x'"),
            (",4,0,0,", ",4,0,yes,", r"outcomes\.csv, line 3: column correct must be bool, got 'yes'"),
            (",answer", "", r"outcomes\.csv, line 1: the columns must be task,.*,answer,score, got"),
            (",12,", ",", r"outcomes\.csv, line 3: 13 values expected, got 12"),
            ('as_tokens""', 'as_tokens"', r"outcomes\.csv, line 2: "),
        ]:
            line_3 = good.replace(",11,1", ",12,1")
            assert old in line_3
            path.write_text(line_3.replace(old, changed))
            with pytest.raises(ValueError, match=message):
                read_outcomes(path)
        path.write_text(good, encoding="utf-8-sig")  # by a spreadsheet
        assert read_outcomes(path) == outcome_rows(CELL, [batch(0, 1)])
        with pytest.raises(ValueError, match=r"gone\.csv does not exist"):
            read_rows(tmp_path / "gone.csv")


class TestCommit:
    @pytest.fixture(autouse=True)
    def _forget(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.delenv("LIGHTNING_MDM_COMMIT", raising=False)
        commit_hash.cache_clear()
        yield
        commit_hash.cache_clear()

    def test_states(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert commit_hash(tmp_path) == "unknown"
        assert commit_hash(tmp_path / "missing") == "unknown"
        # A hook's environment must not redirect the question to the hook's repository.
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))

        def git(*arguments: str) -> str:
            clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
            who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null"]
            command = ["git", *who, "-C", str(tmp_path), *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout.strip()

        def ask() -> str:
            commit_hash.cache_clear()
            return commit_hash(package)

        git("init")
        package = tmp_path / "package"
        package.mkdir()
        (package / "a.py").write_text("1\n")
        assert ask() == "unknown"
        git("add", ".")
        git("commit", "-m", "one")
        commit = git("rev-parse", "--short", "HEAD")
        assert ask() == commit
        (tmp_path / "rows.csv").write_text("results beside the source\n")
        assert ask() == commit
        (package / "b.py").write_text("2\n")
        assert ask() == f"{commit}-dirty"
        (package / "b.py").unlink()
        (package / "a.py").write_text("3\n")
        assert ask() == f"{commit}-dirty"
        git("checkout", ".")
        assert commit_hash(package) == f"{commit}-dirty"  # what was imported stays what runs

    def test_where_there_is_no_repository_the_environment_says_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LIGHTNING_MDM_COMMIT", "abc1234\n")
        assert commit_hash(tmp_path) == commit_hash(tmp_path / "missing") == "abc1234"
        commit_hash.cache_clear()
        monkeypatch.setenv("LIGHTNING_MDM_COMMIT", " ")
        assert commit_hash(tmp_path) == "unknown"
        for command in (["init", "-q"], ["add", "."]):
            (tmp_path / "a.py").touch()
            subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null"]
        subprocess.run(["git", *who, "-C", str(tmp_path), "commit", "-qm", "one"], check=True)
        commit_hash.cache_clear()
        monkeypatch.setenv("LIGHTNING_MDM_COMMIT", "abc1234")
        assert commit_hash(tmp_path) not in ("abc1234", "unknown"), "a repository knows better"

    @pytest.mark.parametrize(("commit", "one"), [("abc1234", True), ("abc1234-dirty", False), ("unknown", False)])
    def test_which_commits_name_one_source(self, commit: str, one: bool) -> None:
        assert names_one_source(commit) == one

    def test_never_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert commit_hash() == "unknown"
