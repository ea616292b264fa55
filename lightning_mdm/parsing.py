"""How a command line and its configuration files are read, and a mistake in them answered.

Over Lightning's parser: one line says what is wrong, and a list of policies replaces an earlier one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from omegaconf import OmegaConf

from lightning_mdm.decoding.policies import POLICIES

# Options that are lists of policies.
LISTS = (
    "frontier.policies", "frontier.fit_policies", "order_nats.policies", "subproblems.policies",
    "subproblems.fit_policies",
)  # fmt: skip

SEQUENCE = r"Expected a <class 'collections\.abc\.Sequence'>"
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
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    line = " ".join(line for line in lines if line and not FRAME.match(line)) or message
    value = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
    if value is not None:  # of an option that may be left out, it is said in a line of its own
        line = re.sub(rf"{SEQUENCE}$", lambda _: f"{value} is no list; write [{value}]", line)
    line = re.sub(rf"{SEQUENCE}\. Got value: (.+)", r"\1 is no list; write [\1]", line)
    line = re.sub(r"(expected one argument)$", r"\1; one that begins with - is given as --option=-...", line)
    line = re.sub(
        r"(the following arguments are required: )\w+\.model$", r"\1--config FILE, which says model and data", line
    )
    names = ", ".join(policy.__name__ for policy in POLICIES)
    return re.sub(
        r"(polic(?:y|ies)\".*)Expected a dot import path string: (\S+)", rf"\1no policy \2; there are {names}", line
    )


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
