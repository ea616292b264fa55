"""The command line: ``lightning fit | validate | test | predict | sweep | report``.

``report`` needs rows only; the others are Lightning's own command line with a run directory, the frontier and the
predictions added. Also installed as ``lightning-mdm`` and run by ``python -m lightning_mdm``.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.predictions import Predictions
from lightning_mdm.report import report
from lightning_mdm.trainer import Trainer

DESCRIPTION = """Masked diffusion models and the order in which they generate: train a denoiser, decode with every
unmasking policy, draw accuracy against steps."""
EPILOG = "One more: 'lightning report RUN [RUN ...] [--out DIR]' joins runs into one table, figure and report."


class CLI(LightningCLI):
    """Lightning's command line for this project's trainer, modules and tasks."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        # With plain "omegaconf", ${...} would be resolved before overrides and later files are seen.
        jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        mode = {"parser_mode": "omegaconf+"}
        super().__init__(
            trainer_class=Trainer,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "lightning",
                "description": DESCRIPTION,
                "epilog": EPILOG,
                **mode,
                **{name: dict(mode) for name in self.subcommands()},
            },
            auto_configure_optimizers=False,
            args=list(args) if args is not None else None,
        )

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), "sweep": {"model", "datamodule"}}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default="runs/default", help="Directory of all that a run leaves.")
        parser.add_lightning_class_args(Frontier, "frontier")
        parser.add_lightning_class_args(Predictions, "predictions")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("data.vocab_size", "model.init_args.vocab_size", apply_on="instantiate")

    @override
    def before_instantiate_classes(self) -> None:
        # One file per subcommand, so that a sweep does not overwrite what the fit was configured with.
        self.save_config_kwargs["config_filename"] = f"{self.subcommand}.yaml"

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, Trainer)
        if self.subcommand != "fit":
            # A checkpoint holds the averaged weights; outside of fitting the callback could only warn.
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Say what training starts from: nothing, weights from a file, or what a run directory already holds."""
        config = self.config[self.subcommand]
        weights = config.model.init_args.get("init_from")
        if weights:
            print(f"The denoiser starts from the weights in {weights}.")
        last = Path(config.run_dir) / "checkpoints" / "last.ckpt"
        if config.ckpt_path != "last" or not last.is_file():
            return
        done = int(torch.load(last, map_location="cpu", weights_only=True)["global_step"])
        total = self.trainer.max_steps
        state = "complete; nothing is trained again" if 0 < total <= done else "resuming there"
        print(f"{last} is at update {done} of {total}: {state}.")

    def after_sweep(self) -> None:
        """Show the table; the run directory is the last line."""
        if self.trainer.is_global_zero:
            run_dir = self.config[self.subcommand].run_dir
            report([run_dir])
            print(run_dir)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the program; a mistake of the user's ends in one line on stderr and exit status 2."""
    given = list(sys.argv[1:] if args is None else args)
    # These concern calls inside Lightning, or a choice made here; a user could do nothing about them.
    warnings.filterwarnings("ignore", message=r"(?s).*instantiate_classes|.*JsonargparseDeprecationWarning")
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "Tip:" not in line.getMessage())
    try:
        if given[:1] == ["report"]:
            report_command(given[1:])
        else:
            CLI(args)
    except ValueError as error:
        if os.environ.get("LIGHTNING_MDM_TRACEBACK"):
            raise
        print(f"error: {error}\n(LIGHTNING_MDM_TRACEBACK=1 shows where.)", file=sys.stderr)
        raise SystemExit(2) from error


def report_command(args: Sequence[str]) -> None:
    """``lightning report RUN [RUN ...] [--out DIR]``."""
    parser = jsonargparse.ArgumentParser(prog="lightning report", description=report.__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run directories with a frontier.csv.")
    parser.add_argument("--out", default=None, help="Where to write; the first run's directory if not given.")
    options = parser.parse_args(list(args))
    report(options.runs, options.out)
