"""The command line: ``lightning fit | validate | test | predict | sweep | analyse | report | export``.

``report`` needs rows only and ``export`` a checkpoint; the others are Lightning's own command line with a run
directory, the frontier, the costs of orders, the analysis of subproblems and the predictions added. Also installed as
``lightning-mdm`` and run by ``python -m lightning_mdm``.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn

import jsonargparse
import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from typing_extensions import override

from lightning_mdm import hub
from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.last_update import LastUpdate
from lightning_mdm.callbacks.order_heatmap import OrderHeatmap
from lightning_mdm.callbacks.order_nats import OrderNats
from lightning_mdm.callbacks.predictions import Predictions
from lightning_mdm.callbacks.subproblems import Subproblems
from lightning_mdm.checkpoint import read_checkpoint
from lightning_mdm.data.tokenizer import read_tokenizer, tokenizer_path_of
from lightning_mdm.decoding.policies import POLICIES
from lightning_mdm.modules.weights import check_same_net, export_denoiser
from lightning_mdm.report import report
from lightning_mdm.trainer import Trainer, prefer_kernels_without_plans

DESCRIPTION = """Masked diffusion models and the order in which they generate: train a denoiser, decode with every
unmasking policy, draw accuracy against steps."""
EPILOG = """Two more: 'lightning report RUN [RUN ...] [--out DIR]' joins runs into one table, figure and report;
'lightning export CHECKPOINT FILE' writes a denoiser's weights in the layout of SMDM."""
# What an analysis leaves alone.
OTHERS = (Frontier, OrderNats, OrderHeatmap)
# Options that are lists of policies.
LISTS = (
    "frontier.policies", "frontier.fit_policies", "order_nats.policies", "subproblems.policies",
    "subproblems.fit_policies",
)  # fmt: skip
# What jsonargparse writes around the one line that says what is wrong.
FRAME = re.compile(r"Does not validate|Subtypes:|Errors:|Given value|Expected a path but|Expected a <class 'NoneType'>")


class Parser(LightningArgumentParser):
    """Lightning's parser, which answers a mistake by one line instead of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a part's parser, whose message is still to be put into the whole
            super().error(message, ex)
        program = (getattr(ex, "subcommand_parser", None) or self).prog.replace(" [options]", "")
        print(f"error: {plainly(message)}\n('{program} --help' shows the options.)", file=sys.stderr)
        self.exit(2)


def plainly(message: str) -> str:
    """What is wrong, in one line; of an unknown policy also which ones there are."""
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    line = " ".join(line for line in lines if line and not FRAME.match(line)) or message
    names = ", ".join(policy.__name__ for policy in POLICIES)
    return re.sub(
        r"(polic(?:y|ies)\".*)Expected a dot import path string: (\S+)", rf"\1no policy \2; there are {names}", line
    )


def other_weights(message: str) -> str | None:
    """What to do about a checkpoint whose weights are not the module's, in one line; ``None`` of another message."""
    found = re.search(r"Error\(s\) in loading state_dict for (\w+):\s*(.*)", message)
    if found is None:
        return None
    return (
        f"ckpt_path: the checkpoint's weights do not fit {found[1]} as configured ({shorten(found[2], 150)}): give the "
        "configuration that it was trained with, or another run_dir to train anew in"
    )


SUBCOMMANDS = {**LightningCLI.subcommands(), "sweep": {"model", "datamodule"}, "analyse": {"model", "datamodule"}}
"""What a trainer does, and which arguments of its methods are no options."""


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
            trainer_defaults={"callbacks": [LastUpdate()]},
            parser_class=Parser,
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
        if subcommand in ("sweep", "analyse") and not is_given("limit_val_batches", args):
            config.trainer.limit_val_batches = None  # a configuration limits the validation within a training
        self.ckpt = path = checkpoint_path(config, fitting=subcommand == "fit")
        self.trained_with = {} if path is None else hyper_parameters(path)
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
        done, total = int(checkpoint["global_step"]), self.trainer.max_steps
        complete = 0 < total <= done
        if not complete:
            check_time(self.trainer, checkpoint, self.ckpt)
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
            if (Path(run_dir) / "frontier.csv").is_file():
                report([run_dir])
            print(run_dir)


def lists_anew(args: Sequence[str]) -> list[str]:
    """The command line, with every list of policies emptied before a file or an option gives another.

    Of two lists of equal length jsonargparse takes the options that the later one leaves out from the earlier one's
    policy at the same place, if it is of the same class: ``Learned`` would not be what it is elsewhere.
    """
    found: list[str] = []
    for number, arg in enumerate(args):
        option, joined, value = arg.partition("=")
        given = {option.removeprefix("--")} if option.startswith("--") else set()
        if option in ("--config", "-c"):
            given = options_in(value if joined else "".join(args[number + 1 : number + 2]))
        found += [f"--{name}=[]" for name in LISTS if name in given]
        found.append(arg)
    return found


def options_in(file: str) -> set[str]:
    """Names of all options in a configuration; none where the file cannot be read, of which the parser complains."""
    try:
        parts = OmegaConf.to_container(OmegaConf.load(file))
    except Exception:  # there are many ways to be no configuration
        return set()
    groups = parts.items() if isinstance(parts, dict) else ()
    return {f"{part!s}.{name!s}" for part, options in groups if isinstance(options, dict) for name in options}


def is_given(option: str, args: Sequence[str] | None) -> bool:
    """Whether the command line itself names an option, be it on its own or within a value."""
    return any(option in str(arg) for arg in (sys.argv[1:] if args is None else args))


def expand_home(config: jsonargparse.Namespace) -> None:
    """Let ``~`` mean the same to those who look into the run directory as to those who write it."""
    for name in ("run_dir", "ckpt_path"):
        if config.get(name):
            config[name] = os.path.expanduser(config[name])


def last_checkpoint(config: jsonargparse.Namespace) -> Path:
    """Where a run directory keeps its newest checkpoint."""
    return Path(config.run_dir) / "checkpoints" / "last.ckpt"


def checkpoint_path(config: jsonargparse.Namespace, *, fitting: bool) -> Path | None:
    """The checkpoint that will be loaded, where that is a file; none at the beginning of training.

    Raises:
        ValueError: no such file, no weights at all to evaluate, or training over a trained model, anew or another.
    """
    given = config.ckpt_path
    if given is None:
        if fitting and last_checkpoint(config).is_file():
            raise ValueError(
                f"run_dir={config.run_dir} holds a trained model already: go on with it by --ckpt_path last, "
                "or give another run_dir"
            )
        if not fitting and config.model is not None and not config.model.init_args.get("init_from"):
            raise ValueError(
                "ckpt_path is missing, and the weights would be random: give a checkpoint, e.g. "
                f"--ckpt_path {last_checkpoint(config)}"
            )
        return None
    if given in ("best", "hpc") or "://" in given or given.startswith("registry"):
        return None  # Lightning finds these
    last = last_checkpoint(config)
    path = last if given == "last" else Path(given)
    if path.is_file():
        if fitting and last.is_file() and last.resolve().parent not in path.resolve().parents:
            raise ValueError(
                f"run_dir={config.run_dir} holds a trained model already, and ckpt_path={given} is another's: go on "
                "with its own by --ckpt_path last, or with the other in another run_dir"
            )
        return path
    if given == "last" and fitting:
        return None
    raise ValueError(f"ckpt_path={given}: no such file" + (f" as {path}" if given == "last" else ""))


def check_time(trainer: L.Trainer, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Ask for time to go on with, of which Lightning counts that of all sessions together.

    Raises:
        ValueError: there is none left.
    """
    for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):  # type: ignore[attr-defined]
        behind = checkpoint.get("callbacks", {}).get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
        left = timer.time_remaining()
        if left is not None and left <= behind:
            raise ValueError(
                f"trainer.max_time: {path} has trained for {behind:.0f} seconds, which count, of {left:.0f} that are "
                "given: give the time of all sessions together"
            )


def hyper_parameters(path: Path) -> dict[str, Any]:
    """What a checkpoint says about the module it holds.

    Raises:
        ValueError: the file is no checkpoint.
    """
    return dict(read_checkpoint(path, option="ckpt_path").get("hyper_parameters", {}))


def check_objective(class_path: str, trained: Mapping[str, Any], path: Path) -> None:
    """Tell nets that read from left to right from those that read in any order: their options look alike.

    Raises:
        ValueError: the configured model is of one kind and the checkpoint of the other.
    """
    configured = class_path.rpartition(".")[2] == "AutoregressiveModule"
    found = trained.get("objective") == "next_token"
    if trained and configured != found:
        kind = "an autoregressive net" if found else "a masked denoiser"
        raise ValueError(f"ckpt_path={path} holds {kind}: give the configuration that it was trained with")


def check_model(options: jsonargparse.Namespace, trained: Mapping[str, Any], path: Path) -> None:
    """Compare the configured model with the one in a checkpoint, its nets option by option.

    A checkpoint may say more than the options do, such as the kind of net.

    Raises:
        ValueError: they differ.
    """
    if "selector" in options and trained and "selector" not in trained:
        raise ValueError(
            f"ckpt_path={path} holds a denoiser without a selector: give it as model.denoiser_ckpt to learn an order"
        )
    if "selector" in trained and "selector" not in options:
        raise ValueError(f"ckpt_path={path} holds a selector too: give the configuration that it was trained with")
    parts = {name: options.get(name) for name in ("net", "selector", "posterior.family", "posterior.net")}
    plain = {name: part.as_dict() if isinstance(part, jsonargparse.Namespace) else part for name, part in parts.items()}
    check_same_net({name: part for name, part in plain.items() if part is not None}, trained, f"ckpt_path={path}")


def take_tokenizer(config: jsonargparse.Namespace) -> None:
    """Read text with the tokenizer of the weights to start from: it lies beside them, or a checkpoint holds it.

    Raises:
        ValueError: there is none, and the configuration names none, or it names another. With another one the weights'
            tokens would have other meanings, and nobody would see.
    """
    options, text = config.model.init_args, config.get("data.init_args")
    option = "denoiser_ckpt" if "selector" in options else "init_from"  # an order's own weights know no tokens
    weights = options.get(option)
    if not weights or text is None or "tokenizer_path" not in text:
        return
    if not hub.is_address(weights) and not Path(weights).is_file():
        return  # who reads the weights says so
    given, own = text.tokenizer_path, tokenizer_path_of(weights, option=f"model.{option}")
    if own is None and given is None:
        raise ValueError(
            f"model.{option}={weights}: these weights come without a tokenizer.json beside them, and with one trained "
            "now they would read another text; give theirs as data.tokenizer_path"
        )
    if own is not None and given is not None and read_tokenizer(given).to_str() != read_tokenizer(own).to_str():
        raise ValueError(
            f"data.tokenizer_path={given} is not the tokenizer that model.{option}={weights} was trained with, which "
            f"is that of {own}: leave it out"
        )
    if own is not None and given is None:
        text.tokenizer_path = own
        rank_zero_only(print)(f"The tokenizer is that of the denoiser: {own}")


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the program; a mistake of the user's ends in one line on stderr and exit status 2."""
    given = list(sys.argv[1:] if args is None else args)
    # These concern calls inside Lightning, or a choice made here; a user could do nothing about them.
    warnings.filterwarnings("ignore", message=r"(?s).*(deprecated in v4\.|JsonargparseDeprecationWarning)")
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from|Checkpoint directory .* is not empty")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "Tip:" not in line.getMessage())
    try:
        if given[:1] == ["report"]:
            report_command(given[1:])
        elif given[:1] == ["export"]:
            export_command(given[1:])
        else:
            prefer_kernels_without_plans()
            CLI(args)
    except (ValueError, OSError, MisconfigurationException, RuntimeError) as error:
        misfit = other_weights(str(error))
        if isinstance(error, RuntimeError) and misfit is None:
            raise  # no mistake of the user's
        if os.environ.get("LIGHTNING_MDM_TRACEBACK"):
            raise
        print(f"error: {misfit or plainly(str(error))}\n(LIGHTNING_MDM_TRACEBACK=1 shows where.)", file=sys.stderr)
        raise SystemExit(2) from error


def report_command(args: Sequence[str]) -> None:
    """``lightning report RUN [RUN ...] [--out DIR] [--one_panel true] [--published FILE]``."""
    description = "Join runs into one table, figure and report with paired tests; print the table and the path."
    parser = Parser(prog="lightning report", description=description)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run directories with a frontier.csv.")
    parser.add_argument("--out", help="Where to write; by default the run's own directory, of several 'report' beside.")
    parser.add_argument(
        "--one_panel", type=bool, default=False, help="Show all denoisers of a task and split in one panel."
    )
    parser.add_argument("--published", help="A file of a paper's rows, to show ours beside.")
    options = parser.parse_args(list(args))
    report(options.runs, options.out, options.one_panel, options.published)


def export_command(args: Sequence[str]) -> None:
    """``lightning export CHECKPOINT FILE``."""
    description = "Write the denoiser of a checkpoint as a safetensors file in the layout of SMDM's published weights."
    parser = Parser(prog="lightning export", description=description)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="Of a denoiser's or an order's training.")
    parser.add_argument("file", metavar="FILE", help="Where to write, ending in .safetensors.")
    options = parser.parse_args(list(args))
    if not options.file.endswith(".safetensors"):
        raise ValueError(f"file={options.file}: the weights are a .safetensors file; name it so")
    config = export_denoiser(options.checkpoint, options.file)
    print(f"{options.file}: {config.layers} layers, width {config.width}, {config.heads} heads")
