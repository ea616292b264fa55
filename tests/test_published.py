"""A paper's rows beside ours: which of ours belongs beside which, and what is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_mdm.outcomes import (
    ORDER_NATS,
    BatchRecord,
    Cell,
    Outcome,
    OutcomeRow,
    Row,
    frontier_row,
    outcome_rows,
    write_order_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.report import report
from lightning_mdm.report.markdown import report_markdown
from lightning_mdm.report.points import pool_seeds
from lightning_mdm.report.published import beside, beside_markdown, read_published
from runs import REPOSITORY
from test_order_report import ROW

pytestmark = pytest.mark.draws

PAPER = REPOSITORY / "experiments" / "gsm8k_aug" / "published.csv"
HEADER = "source,task,T,policy,matched,nfe_mean,nfe_min,nfe_max,n,accuracy\n"
# Policy, parameters, T, evaluations of each of four problems, problems solved.
SWEEP: list[tuple[str, dict[str, Any], int, list[int], int]] = [
    ("learned", {"price": 0.1}, 5, [2, 3, 3, 4], 3),
    ("learned", {"price": 2.0}, 5, [1, 1, 1, 2], 1),
    ("learned", {"price": 0.1}, 10, [6, 8, 7, 7], 4),
    ("iid", {}, 3, [3, 3, 3, 2], 1),
    ("top_margin", {}, 3, [3] * 4, 2),
    ("top_margin", {}, 8, [8] * 4, 3),
    ("top_margin", {}, 4, [4] * 4, 1),
]


def swept(task: str = "gsm8k_aug") -> tuple[list[Row], list[OutcomeRow]]:
    rows, outcomes = [], []
    for policy, parameters, T, nfe, solved in SWEEP:
        cell = Cell(task, "test", "1f0c9a3e77", "d0", policy, parameters, T, 0, adaptive=policy == "learned")
        done = tuple(Outcome(p, p < solved, nfe[p], 12, str(p)) for p in range(4))
        records = [BatchRecord(done, T, 0.5, "cpu", "abc1234")]
        rows.append(frontier_row(cell, records))
        outcomes += outcome_rows(cell, records)
    return rows, outcomes


def test_the_papers_rows() -> None:
    rows = read_published(PAPER)
    found = {(row.T, row.policy, row.matched): (row.nfe_mean, row.nfe_min, row.nfe_max, row.accuracy) for row in rows}
    assert found == {
        (5, "learned", ""): (4.01, 2, 5, 0.331),
        (5, "iid", "@Avg"): (4, 4, 4, 0.290),
        (5, "top_probability", "@Avg"): (4, 4, 4, 0.237),
        (5, "top_margin", "@Avg"): (4, 4, 4, 0.240),
        (10, "learned", ""): (9.57, 7, 10, 0.378),
        (10, "top_margin", "@Max"): (10, 10, 10, 0.395),
        (15, "learned", ""): (9.43, 5, 12, 0.390),
        (15, "top_margin", "@Max"): (12, 12, 12, 0.423),
    }  # fmt: skip
    assert {(row.task, row.n) for row in rows} == {("gsm8k_aug", 1319)}
    assert all("arXiv 2602.23968" in row.source for row in rows)


def test_ours_are_at_the_evaluations_of_our_own_learned_order() -> None:
    found = beside(pool_seeds(swept()[0]), read_published(PAPER))
    own = {
        name: [None if pair.ours is None else (pair.ours.policy, pair.ours.T) for pair in pairs]
        for name, pairs in found.items()
    }
    assert own == {
        "learned price=0.1": [
            ("learned", 5), ("iid", 3), None, ("top_margin", 3),  # a mean of 3
            ("learned", 10), ("top_margin", 8),  # at most 8
            None, None,
        ],
        "learned price=2": [("learned", 5), ("iid", 3), None, ("top_margin", 3), None, None, None, None],
    }  # fmt: skip
    assert beside(pool_seeds(swept("word_problems")[0]), read_published(PAPER)) == {}
    heuristics = [row for row in swept()[0] if not row.adaptive]
    assert beside(pool_seeds(heuristics), read_published(PAPER)) == {}


def test_ours_are_at_as_many_evaluations_where_a_step_is_two() -> None:
    """As with guidance, or where both parts of an answer have T steps: a heuristic's T is half of what it takes."""
    twice = {"learned": 1, "top_margin": 2, "iid": 2}
    rows = [
        replace(row, nfe_mean=times * row.nfe_mean, nfe_max=times * row.nfe_max)
        for row in swept()[0] if (times := twice[row.policy])
    ]  # fmt: skip
    found = beside(pool_seeds(rows), read_published(PAPER))["learned price=0.1"]
    own = [None if pair.ours is None else (pair.ours.policy, pair.ours.T, pair.ours.nfe_max) for pair in found]
    assert own[3:6] == [("top_margin", 3, 6), ("learned", 10, 8), ("top_margin", 4, 8)], "at most 8, by a T of 4"


def test_of_two_budgets_of_one_cost_the_smaller_is_meant() -> None:
    """Not the more accurate one."""
    rows = [replace(row, nfe_max=8) if (row.policy, row.T) == ("top_margin", 4) else row for row in swept()[0]]
    pair = beside(pool_seeds(rows), read_published(PAPER))["learned price=0.1"][5]
    assert pair.ours is not None
    assert (pair.published.matched, pair.ours.policy, pair.ours.T) == ("@Max", "top_margin", 4)


@pytest.mark.parametrize(("mean", "T"), [(3.4, 3), (3.6, 4)])
def test_evaluations_on_average_are_rounded(mean: float, T: int) -> None:
    rows = [replace(row, nfe_mean=mean) if row.policy == "learned" else row for row in swept()[0]]
    pair = beside(pool_seeds(rows), read_published(PAPER))["learned price=0.1"][3]
    assert (pair.published.policy, pair.published.matched) == ("top_margin", "@Avg")
    assert pair.ours is not None
    assert pair.ours.T == T


def test_seeds_are_no_further_problems() -> None:
    rows = [row for seed in (0, 1) for row in (replace(row, seed=seed) for row in swept()[0])]
    lines = beside_markdown(pool_seeds(rows), read_published(PAPER))
    assert any(line.endswith("(n = 1319; ours 4):") for line in lines)


def test_what_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, outcomes = swept()
    write_rows(tmp_path / "frontier.csv", rows)
    write_outcomes(tmp_path / "outcomes.csv", outcomes)
    report([str(tmp_path)], published=str(PAPER))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "### Beside published figures" in text
    assert "With learned price=0.1, beside Fox et al., arXiv 2602.23968, 170M (n = 1319; ours 4):" in text
    lines = text.splitlines()
    assert "| 5 | learned | 33.1 [30.6, 35.7] | @4.01 (2 to 5) | 75.0 [30.1, 95.4] | @3.00 (2 to 4) | +41.9 |" in lines
    assert "| 5 | top margin @Avg | 24.0 [21.8, 26.4] | @4.00 | 50.0 [15.0, 85.0] | @3.00 | +26.0 |" in lines
    assert "| 15 | top margin @Max | 42.3 [39.7, 45.0] | @12.00 | not in the sweep |  |  |" in lines
    printed = capsys.readouterr().out
    assert "learned price=0.1, beside Fox et al." in printed
    assert "+41.9" in printed
    assert PAPER.name not in printed + text, "no note"
    report([str(tmp_path)])
    assert "published" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Fox" not in capsys.readouterr().out
    assert report_markdown(rows, {}) == report_markdown(rows, {}, (), ())


@pytest.mark.parametrize(
    ("task", "policies", "note"),
    [
        (
            "word_problems",
            {"learned", "iid"},
            "no row of published.csv is of word_problems: nothing is shown beside ours.",
        ),
        (
            "gsm8k_aug",
            {"iid"},
            "the runs have no learned order of gsm8k_aug, beside which rows of published.csv would ",
        ),
        ("gsm8k_aug", set(), "the runs have decoded nothing, beside which rows of published.csv would be shown."),
    ],
)
def test_where_nothing_fits_a_note_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, policies: set[str], note: str
) -> None:
    rows = [row for row in swept(task)[0] if row.policy in policies]
    if rows:
        write_rows(tmp_path / "frontier.csv", rows)
    write_order_rows(tmp_path / ORDER_NATS, [replace(ROW, task=task, checkpoint="1f0c9a3e77")])
    report([str(tmp_path)], published=str(PAPER))
    (line,) = [line for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines() if PAPER.name in line]
    assert line.startswith(f"> {note}")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"note: {note}" in printed
    report([str(tmp_path)])
    assert PAPER.name not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s,t,5,iid,,4,4,4,10,0.5", r"iid at T=5 is matched '': a learned order is matched with nothing"),
        ("s,t,5,learned,@Avg,4,4,4,10,0.5", r"learned at T=5 is matched '@Avg'"),
        ("s,t,5,iid,@avg,4,4,4,10,0.5", r"iid at T=5 is matched '@avg'"),
        ("s,t,5,learned,,4,4,4,10,33.1", r"has accuracy 33.1 of 10: a fraction is due"),
        ("s,t,5,learned,,4,4,4,ten,0.5", r"line 2: column n must be int, got 'ten'"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path / "rows.csv")
