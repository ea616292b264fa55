"""The command line: ``lightning fit | validate | test | predict | sweep | analyse | report | export``.

``report`` needs rows only and ``export`` a checkpoint; the others are Lightning's own command line with a run
directory, the frontier, the costs of orders and their bounds, the analysis of subproblems and the predictions added.
Also installed as ``lightning-mdm`` and run by ``python -m lightning_mdm``.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.last_update import LastUpdate
from lightning_mdm.callbacks.order_bounds import OrderBounds
from lightning_mdm.callbacks.order_heatmap import OrderHeatmap
from lightning_mdm.callbacks.order_nats import OrderNats
from lightning_mdm.callbacks.predictions import Predictions
from lightning_mdm.callbacks.subproblems import Subproblems
from lightning_mdm.checkpoint import read_checkpoint
from lightning_mdm.data.text import TextDataModule
from lightning_mdm.decoding.loop import DecodingError
from lightning_mdm.parsing import Parser, is_given, lists_anew, plainly
from lightning_mdm.report import report, show_report
from lightning_mdm.starting_point import (
    check_model,
    check_objective,
    check_places,
    check_run_dir,
    check_time,
    checkpoint_path,
    expand_home,
    export,
    other_weights,
    take_tokenizer,
)
from lightning_mdm.trainer import Trainer, prefer_kernels_without_plans

DESCRIPTION = """Masked diffusion models and the order in which they generate: train a denoiser, decode with every
unmasking policy, draw accuracy against steps."""
EPILOG = """Two more: 'lightning report RUN [RUN ...] [--out DIR]' joins runs into one table, figure and report;
'lightning export CHECKPOINT FILE' writes a denoiser's weights in the layout of SMDM."""
# What an analysis leaves alone.
OTHERS = (Frontier, OrderNats, OrderHeatmap, OrderBounds)
# In checkpoints of a training with averaged weights: those that were averaged.
AVERAGED_OVER = "current_model_state"
# What a training says whose workers got the SIGTERM of a whole job a moment before it.
KILLED = re.compile(r"DataLoader worker .* is killed by signal: Terminated")

SUBCOMMANDS = {**LightningCLI.subcommands(), "sweep": {"model", "datamodule"}, "analyse": {"model", "datamodule"}}
"""What a trainer does, and which arguments of its methods are no options."""
COMMANDS = (*SUBCOMMANDS, "report", "export")


class SavedConfig(SaveConfigCallback):
    """Writes the configuration when the work begins: what is refused leaves that of an earlier run in its place."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet: no callback has looked at what there is to do."""

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "validate")

    @override
    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "test")

    @override
    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "predict")


class CLI(LightningCLI):
    """Lightning's command line for this project's trainer, modules and tasks."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        given = sys.argv[1:] if args is None else args
        # The parser of each takes a tenth of a second or two: only that of the one asked for is built.
        self.asked = [name for name in SUBCOMMANDS if [name] == list(given[:1])] or list(SUBCOMMANDS)
        # With plain "omegaconf", ${...} would be resolved before overrides and later files are seen.
        jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        mode = {"parser_mode": "omegaconf+"}
        super().__init__(
            trainer_class=Trainer,
            trainer_defaults={"callbacks": [LastUpdate(), OrderBounds()]},
            parser_class=Parser,
            save_config_callback=SavedConfig,
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

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {name: SUBCOMMANDS[name] for name in self.asked}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default="runs/default", help="Directory of all that a run leaves.")
        parser.add_lightning_class_args(Frontier, "frontier")
        parser.add_lightning_class_args(OrderNats, "order_nats")
        parser.add_lightning_class_args(OrderHeatmap, "order_heatmap")
        parser.add_lightning_class_args(Subproblems, "subproblems")
        parser.add_lightning_class_args(Predictions, "predictions")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("frontier.decoding", "order_heatmap.decoding", apply_on="instantiate")
        parser.link_arguments("data.vocab_size", "model.init_args.vocab_size", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and look at the files of weights before anything is built.

        Raises:
            ValueError: no such checkpoint, none given where one is needed, or one of another net.
        """
        self.config = parser.parse_args(lists_anew(sys.argv[1:] if args is None else args))
        subcommand = self.config["subcommand"]
        config = self.config[subcommand]
        expand_home(config)
        check_run_dir(config)
        if subcommand in ("sweep", "analyse") and not is_given("limit_val_batches", args):
            config.trainer.limit_val_batches = None  # a configuration limits the validation within a training
        bounds = config.model is not None and "bound_budgets" in config.model.init_args
        if subcommand == "analyse" and bounds and not is_given("bound_budgets", args):
            config.model.init_args.bound_budgets = []  # they cost as much as training, and an analysis shows none
        if subcommand == "fit":
            check_places(config)
        self.ckpt = path = checkpoint_path(config, fitting=subcommand == "fit")
        checkpoint = {} if path is None else read_checkpoint(path, option="ckpt_path")
        self.trained_with = dict(checkpoint.get("hyper_parameters", {}))
        self.checkpoint_step = 0 if subcommand == "fit" else int(checkpoint.get("global_step", 0))
        if path is None and config.model is not None:
            take_tokenizer(config)
        if path is not None and config.model is not None:
            check_objective(config.model.class_path, self.trained_with, path)
            check_model(config.model.init_args, self.trained_with, path)
            for name in ("denoiser_ckpt", "init_from"):
                if name in config.model.init_args:  # the checkpoint holds all weights; those files may be gone
                    config.model.init_args[name] = None
            if "first_update" in config.model.init_args:
                config.model.init_args.first_update = 0  # the checkpoint says it, too
        if subcommand != "fit" and config.model is not None and "progressive" in config.model.init_args:
            config.model.init_args.progressive = None  # an order that training followed may be gone

    @override
    def _parse_ckpt_path(self) -> None:
        """Nothing: in Lightning, the checkpoint's hyper-parameters would win over the options from here on."""

    @override
    def after_instantiate_classes(self) -> None:
        given = self.datamodule.vocab_size
        trained = self.trained_with.get("vocab_size", given)
        if given != trained:
            raise ValueError(f"data.vocab_size={given}, but the checkpoint was trained with {trained}: give that")

    @override
    def before_instantiate_classes(self) -> None:
        # One file per subcommand, so that a sweep does not overwrite what the fit was configured with.
        self.save_config_kwargs["config_filename"] = f"{self.subcommand}.yaml"

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, Trainer)
        trainer.checkpoint_step = self.checkpoint_step
        left_out: tuple[type[Callback], ...]
        if self.subcommand != "fit":
            # A checkpoint holds the averaged weights; outside of fitting the callback could only warn.
            left_out = (WeightAveraging, *(OTHERS if self.subcommand == "analyse" else (Subproblems,)))
        else:
            # The one of a dry run would stand in the way of the training to come; Lightning's says that it writes none.
            left_out = (Checkpoint,) if trainer.fast_dev_run else ()  # type: ignore[attr-defined]
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, left_out)]  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Say what training starts from: nothing, weights from a file, or what a run directory already holds."""
        config = self.config[self.subcommand]
        if self.ckpt is None:
            options = config.model.init_args
            orders = "selector" in options
            for name, weights in (
                ("denoiser", options.get("denoiser_ckpt" if orders else "init_from")),
                ("selector", options.get("init_from") if orders else None),
            ):
                if weights and config.ckpt_path in (None, "last"):
                    print(f"The {name} starts from the weights in {weights}.")
            return
        checkpoint = read_checkpoint(self.ckpt, option="ckpt_path")
        # Lightning restores the data after its setup, in which texts would make, and announce, what the checkpoint has.
        name = type(self.datamodule).__qualname__
        if isinstance(self.datamodule, TextDataModule) and name in checkpoint:
            self.datamodule.load_state_dict(checkpoint[name])
        done, total = int(checkpoint["global_step"]), self.trainer.max_steps
        complete = 0 < total <= done
        if not complete:
            check_time(self.trainer, checkpoint, self.ckpt)
            averaging = any(isinstance(c, WeightAveraging) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
            if AVERAGED_OVER in checkpoint and not averaging:
                raise ValueError(
                    f"ckpt_path={self.ckpt} was trained with averaged weights, from which training would go on without "
                    "their callback: give trainer.callbacks the EMAWeightAveraging that it had; to begin with the "
                    "averages, store them and give model.init_from"
                )
        state = "complete; nothing is trained again" if complete else "resuming there"
        print(f"{self.ckpt} is at update {done} of {total}: {state}.")

    def after_analyse(self) -> None:
        """The run directory is the last line."""
        if self.trainer.is_global_zero:
            print(self.config[self.subcommand].run_dir)

    def after_sweep(self) -> None:
        """Show the table of what was decoded, if anything was; the run directory is the last line."""
        if self.trainer.is_global_zero:
            run_dir = self.config[self.subcommand].run_dir
            if not any(isinstance(c, Frontier) and c.active for c in self.trainer.callbacks):  # type: ignore[attr-defined]
                print("Nothing was decoded: frontier.policies, frontier.budgets or frontier.seeds names none.")
            if (Path(run_dir) / "frontier.csv").is_file():
                show_report(run_dir)
            print(run_dir)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the program; a mistake of the user's ends in one line on stderr and exit status 2.

    What SIGTERM or an interrupt ends has the exit status that a shell gives it, 143 or 130: Lightning's are those of
    success and of failure.
    """
    given = list(sys.argv[1:] if args is None else args)
    # These concern calls inside Lightning, or a choice made here; a user could do nothing about them.
    warnings.filterwarnings("ignore", message=r"(?s).*(deprecated in v4\.|JsonargparseDeprecationWarning)")
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from|Checkpoint directory .* is not empty")
    warnings.filterwarnings("ignore", message=r"(?s).*there is no last checkpoint available")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "Tip:" not in line.getMessage())
    try:
        if given[:1] == ["report"]:
            report_command(given[1:])
        elif given[:1] == ["export"]:
            export_command(given[1:])
        elif given and not given[0].startswith("-") and given[0] not in COMMANDS:
            raise ValueError(f"no command {given[0]!r}; there are {', '.join(COMMANDS)}")
        else:
            prefer_kernels_without_plans()
            if os.getcwd() not in sys.path:  # for tasks and policies of one's own; last, so that it hides nothing
                sys.path.append(os.getcwd())
            CLI(args)
    except SIGTERMException as ended:
        stopped(given, ended)
    except (KeyboardInterrupt, SystemExit) as ended:
        # Lightning makes an exit of an interrupt, of status 1, which says that something has failed.
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        stopped(given, ended, signal.SIGINT)
    except (ValueError, OSError, MisconfigurationException, RuntimeError) as error:
        if by_sigterm(error):
            stopped(given, error)
        misfit = other_weights(str(error)) or missing_metric(str(error))
        if isinstance(error, RuntimeError) and misfit is None and not isinstance(error, DecodingError):
            raise  # no mistake of the user's
        if os.environ.get("LIGHTNING_MDM_TRACEBACK"):
            raise
        print(f"error: {misfit or plainly(str(error))}\n(LIGHTNING_MDM_TRACEBACK=1 shows where.)", file=sys.stderr)
        raise SystemExit(2) from error


def missing_metric(message: str) -> str | None:
    """What Lightning says of a callback that monitors what nobody logs, in one line; ``None`` of another message."""
    return plainly(message) if re.search(r"conditioned on metric .* which is not available", message) else None


def by_sigterm(error: BaseException | None) -> bool:
    """Whether a worker that SIGTERM ended is what stands behind an error."""
    return error is not None and (KILLED.search(str(error)) is not None or by_sigterm(error.__cause__))


def stopped(given: Sequence[str], by: BaseException, signal_number: signal.Signals = signal.SIGTERM) -> NoReturn:
    """End as a signal ends a program."""
    further = "--ckpt_path last goes on from its last checkpoint" if given[:1] == ["fit"] else "give it again"
    rank_zero_only(print)(f"stopped by {signal_number.name}: {further}", file=sys.stderr)
    raise SystemExit(128 + signal_number) from by


def report_command(args: Sequence[str]) -> None:
    """``lightning report RUN [RUN ...] [--out DIR] [--one_panel true] [--published FILE]``."""
    description = "Join runs into one table, figure and report with paired tests; print the table and the path."
    parser = Parser(prog="lightning report", description=description)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run directories, as sweeps leave them.")
    parser.add_argument("--out", help="Where to write; by default the run's own directory, of several 'report' beside.")
    parser.add_argument(
        "--one_panel", type=bool, default=False, help="Show all denoisers of a task and split in one panel."
    )
    parser.add_argument("--published", help="A file of a paper's rows, to show ours beside.")
    options = parser.parse_args(list(args))
    report(options.runs, options.out, options.one_panel, options.published)


def export_command(args: Sequence[str]) -> None:
    """``lightning export CHECKPOINT FILE``."""
    description = (
        "Write the denoiser of a checkpoint as a safetensors file in the layout of SMDM's published weights, and the "
        "tokenizer of a task of text beside it."
    )
    parser = Parser(prog="lightning export", description=description)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="Of a denoiser's or an order's training.")
    parser.add_argument("file", metavar="FILE", help="Where to write, ending in .safetensors.")
    options = parser.parse_args(list(args))
    config = export(options.checkpoint, options.file)
    print(f"{options.file}: {config.layers} layers, width {config.width}, {config.heads} heads")
