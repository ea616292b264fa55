"""Fox et al.'s comparison on GSM8K-Aug: a denoiser, its order, a control of equal compute, all at equal evaluations.

python experiments/gsm8k_aug/run.py STAGE [--runs DIR] [--size 170m] [--split validation] [--data DIR] \
    [--tokenizer FILE] [--weights FILE] [--order_config FILE] [--devices N] [--seed 0] [--data.OPTION ...]
    [--frontier.decoding.OPTION ...]
python experiments/gsm8k_aug/run.py rehearse [--runs DIR] [--seed 0]

STAGE is denoiser, order, control, sweep, report, or all of them. Each goes on where it was stopped. ``sweep`` decodes
with the learned order at T = 5, 10, 15 and then with the heuristics, on the control, at as many evaluations: @Avg the
learned order's mean, rounded, @Max its largest on any problem; and with thresholds and the entropy bound, which stop by
themselves, at T = 5, 10, 15. ``--size 1028m`` takes the larger denoiser throughout. Options of the data and of decoding
(``--frontier.decoding.guidance 0.1``, ``--data.stages one``) go to every stage. ``rehearse`` runs all of it offline,
with a small net and files made here.

A seed is one of the data's order, of noise, of what is drawn of an order's weights, and of the noise of decoding; the
denoiser begins from published weights, which have none. Other seeds than 0 run in ``seed_N`` of the runs. ``report``
is of the seed alone and, where other seeds than 0 are complete, of all of these together in ``joined``. So that these
can be pooled, the heuristics of another seed also decode at the budgets of seed 0, once its learned order is swept;
sweep that first. What one seed's order takes and seed 0's does not, no other decodes: such budgets are of one seed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rehearsal import write, write_weights

from lightning_mdm.outcomes import Row, read_rows
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import complete_seeds, decoded_with, last_of, layers, of_seed, reseeded

HERE = Path(__file__).parent
CONFIGS = Path("configs/gsm8k_aug")
# Batches that an update accumulates on one GPU, and between two validations.
BATCHES = {"170m": (4, 10_000), "1028m": (16, 40_000)}
STAGES = ("denoiser", "order", "control", "sweep", "report")
SWEEPS = ("learned", "heuristics", "adaptive")


@dataclass(frozen=True)
class Plan:
    """What to run with.

    Args:
        runs: directory of all runs, those of seed 0 in it and those of another in one of its own there.
        split: problems to decode.
        order_config: a file over ``order.yaml``, such as ``fox_2026.yaml``; its order and what is compared with that
            have directories of their own.
        given: options of data, trainer and first weights, in place of those in the configurations.
        weights: file of the weights to fine-tune, in place of the configuration's.
        small: rehearse with small nets.
        size: of the denoiser, one of ``BATCHES``.
        seed: of the data's order, of noise and of what is drawn of weights.
    """

    runs: Path
    split: str
    order_config: Path | None
    given: tuple[str, ...]
    weights: Path | None
    small: bool
    size: str = "170m"
    seed: int = 0

    @property
    def own(self) -> Path:
        """Directory of the seed's runs."""
        return of_seed(self.runs, self.seed)

    @property
    def denoiser(self) -> Path:
        """The fine-tuned denoiser, in the published layout."""
        return self.own / "denoiser" / "denoiser.safetensors"

    @property
    def over(self) -> str:
        """What the names of directories say of the order's configuration."""
        return f"_{self.order_config.stem}" if self.order_config else ""

    @property
    def order(self) -> Path:
        return self.own / f"order{self.over}"

    def named(self, what: str) -> str:
        """The name of the directory of a sweep or report."""
        return f"{what}{self.over}_{self.split}"

    def swept(self, what: str) -> Path:
        return self.own / self.named(what)

    def config(self, name: str) -> list[Path]:
        """``denoiser`` or ``order`` of the size: what is over the smaller one's lies over it."""
        first = CONFIGS / ("order.yaml" if name == "order" else "denoiser_170m.yaml")
        return [first] if self.size == "170m" else [first, CONFIGS / f"{name}_{self.size}.yaml"]

    def options(self, *configs: Path) -> list[str]:
        """Configurations, the small sizes over them, the seed, and what was given."""
        orders, control = configs[0].name == "order.yaml", configs[-1].name == "control.yaml"
        small = [HERE / ("tiny_order.yaml" if orders else "tiny.yaml")] if self.small else []
        # Another order of the examples than the denoiser's, as control.yaml has it for seed 0.
        another = ["--data.seed", str(100 * self.seed + 1)] if control and self.seed else []
        return [*layers(*configs, *small), *reseeded(self.seed), *another, *self.given]

    def order_options(self) -> list[str]:
        over = [self.order_config] if self.order_config else []
        return [*self.options(*self.config("order"), *over), "--model.denoiser_ckpt", str(self.denoiser)]

    def control_options(self) -> list[str]:
        files = self.options(*self.config("denoiser"), CONFIGS / "control.yaml")
        return [*files, "--model.init_from", str(self.denoiser)]


def lightning(*arguments: str) -> None:
    """Run the program in a process of its own."""
    subprocess.run([sys.executable, "-m", "lightning_mdm", *arguments], check=True)


def denoiser(plan: Plan) -> None:
    start = ["--model.init_from", str(plan.weights)] if plan.weights else []
    options = [*plan.options(*plan.config("denoiser")), *start, "--run_dir", str(plan.own / "denoiser")]
    lightning("fit", *options, "--ckpt_path", "last")
    lightning("export", str(last_of(plan.own / "denoiser")), str(plan.denoiser))


def order(plan: Plan) -> None:
    lightning("fit", *plan.order_options(), "--run_dir", str(plan.order), "--ckpt_path", "last")


def control(plan: Plan) -> None:
    # A third of the denoiser's updates, as in the paper; tiny.yaml would say as many as the denoiser's.
    steps = ["--trainer.max_steps", "60"] if plan.small else []
    options = [*plan.control_options(), *steps, "--run_dir", str(plan.own / "control")]
    lightning("fit", *options, "--ckpt_path", "last")


def sweep(plan: Plan) -> None:
    learned = [*plan.order_options(), *layers(HERE / "learned.yaml"), "--run_dir", str(plan.swept("learned"))]
    noise = decoded_with(plan.seed)
    lightning("sweep", *learned, *noise, "--ckpt_path", str(last_of(plan.order)), "--split", plan.split)
    rows = read_rows(plan.swept("learned") / "frontier.csv")
    first = replace(plan, seed=0).swept("learned") / "frontier.csv"
    if plan.seed and first.is_file():
        rows += read_rows(first)
    budgets = matched_budgets(rows)
    for name, compared in (
        ("heuristics", ("--frontier.budgets", str(budgets))),
        ("adaptive", layers(HERE / "adaptive.yaml")),
    ):
        heuristics = [*plan.control_options(), *compared, "--run_dir", str(plan.swept(name)), "--split", plan.split]
        lightning("sweep", *heuristics, *noise, "--ckpt_path", str(last_of(plan.own / "control")))


def matched_budgets(rows: Sequence[Row]) -> list[int]:
    """The budgets that give heuristics as many evaluations as the learned order of these rows takes: @Avg and @Max.

    At least 2, and at least one step for the thought beside those of the answer.
    """
    budgets: set[int] = set()
    for row in rows:
        if row.adaptive:
            options = json.loads(row.options)
            answer_steps = options.get("answer_steps", 0)
            # A heuristic spends its whole budget: twice where both parts have it, and where a step is two evaluations.
            per_step = (2 if options.get("guidance") else 1) * (2 if answer_steps is None else 1)
            least = max(2, 1 + (answer_steps or 0))
            budgets |= {max(least, math.ceil(nfe / per_step)) for nfe in (round(row.nfe_mean), row.nfe_max)}
    return sorted(budgets)


def report(plan: Plan) -> None:
    report_on([plan.swept(name) for name in SWEEPS], plan.swept("report"))
    names = [plan.named(name) for name in SWEEPS]
    if found := complete_seeds(plan.runs, names):
        joined = plan.runs / "joined"
        parts = [join_seeds({seed: [path / name] for seed, path in found.items()}, joined / name) for name in names]
        report_on(parts, joined / plan.named("report"))


def report_on(runs: Sequence[Path], out: Path) -> None:
    """Report on run directories together, beside the paper's rows."""
    published = ["--published", str(HERE / "published.csv")]
    lightning("report", *map(str, runs), "--one_panel", "true", *published, "--out", str(out))


def rehearse(runs: Path, split: str, everywhere: Sequence[str] = (), seed: int = 0) -> Plan:
    """Make data, tokenizer and weights, and plan to run on them."""
    files = runs / "files"
    write(files)
    write_weights(files / "weights.safetensors", HERE / "tiny.yaml")
    given = ("--data.path", str(files), "--data.tokenizer_path", str(files / "tokenizer.json"), *everywhere)
    return Plan(runs, split, None, given, files / "weights.safetensors", small=True, seed=seed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "all", "rehearse"))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--size", choices=BATCHES, default="170m", help="of the denoiser")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--data", help="directory with train, test and validation files; else the hub's")
    parser.add_argument("--tokenizer", help="tokenizer.json; else the hub's")
    parser.add_argument("--weights", type=Path, help="safetensors file to fine-tune; else the hub's")
    parser.add_argument("--order_config", type=Path, help="a configuration over order.yaml")
    parser.add_argument("--devices", type=int, default=1, help="GPUs, each a share of the batches of an update")
    parser.add_argument("--seed", type=int, default=0)
    given, everywhere = parser.parse_known_args(arguments)
    check_everywhere(parser, everywhere)
    functions = {"denoiser": denoiser, "order": order, "control": control, "sweep": sweep, "report": report}
    if given.stage == "rehearse":
        plan = rehearse(given.runs or Path("runs/gsm8k_aug_rehearsal"), given.split, everywhere, given.seed)
    else:
        options = [f"--data.path={given.data}"] if given.data else []
        options += [f"--data.tokenizer_path={given.tokenizer}"] if given.tokenizer else []
        options += [*devices(given.devices, *BATCHES[given.size]), *everywhere]
        runs = given.runs or Path("runs/gsm8k_aug" + ("" if given.size == "170m" else f"_{given.size}"))
        plan = Plan(runs, given.split, given.order_config, tuple(options), given.weights, False, given.size, given.seed)
    for stage in STAGES if given.stage in ("all", "rehearse") else (given.stage,):
        functions[stage](plan)


def check_everywhere(parser: argparse.ArgumentParser, options: Sequence[str]) -> None:
    """Refuse what is neither an option of every stage nor the value of one."""
    for place, option in enumerate(options):
        if not option.startswith(("--data.", "--frontier.decoding.")) and (place == 0 or option.startswith("-")):
            parser.error(f"{option}: of the program's options, those of data and frontier.decoding go to every stage")


def devices(n: int, batches: int, interval: int) -> list[str]:
    """Options that share an update's batches, all of which the configurations accumulate on one GPU, among ``n``.

    Args:
        n: GPUs.
        batches: of an update.
        interval: batches between two validations.
    """
    fitting = [k for k in range(1, batches + 1) if batches % k == 0]
    if n not in fitting:
        raise SystemExit(
            f"--devices {n}: an update is {batches} batches; give one of {fitting}, or a configuration of your own"
        )
    if n == 1:
        return []
    shares = ["--trainer.accumulate_grad_batches", str(batches // n)]
    shares += ["--trainer.val_check_interval", str(interval // n)]
    return ["--trainer.devices", str(n), "--trainer.strategy", "ddp", *shares]


if __name__ == "__main__":
    main()
