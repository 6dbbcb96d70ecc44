"""The commands of the READMEs are understood by the programs that they name."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from benchmarks.training_cost import count
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "train/README.md", "benchmarks/README.md")
OURS = re.compile(r"(train|asyncdsb|benchmarks)(\.\w+)*")


def commands(page: str) -> list[str]:
    """Command lines of a page, in blocks and within sentences, that have arguments."""
    text = (ROOT / page).read_text("utf-8")
    # Every other piece is a block, with its language in the first line.
    pieces = re.split(r"^```", text, flags=re.MULTILINE)
    lines = "".join(pieces[1::2]).replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "".join(pieces[::2]))]
    starts = ("python -m ", "python app.py ", "asyncdsb ", "torchrun ")
    lines = [line for line in lines if line.startswith(starts)]
    found = [" ".join(shlex.split(line, comments=True)) for line in lines]
    # A program that is only named has nothing to parse.
    return [line for line in dict.fromkeys(found) if not re.fullmatch(r"python -m \S+", line)]


def program(words: list[str]) -> tuple[str, list[str]]:
    """Module and arguments of a command line, torchrun's own options being checked."""
    if words[0] == "torchrun":
        args = get_args_parser().parse_args(words[1:])
        assert args.module, "expected -m"
        return args.training_script, args.training_script_args
    if words[0] == "asyncdsb":
        return "asyncdsb", words[1:]
    return ("app", words[2:]) if words[1] == "app.py" else (words[2], words[3:])


class Understood(Exception):
    """Raised instead of running a program whose arguments were parsed."""


def understand(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program parse a command line, and stop it there.

    Raises:
        SystemExit: it does not know an option or a value, or misses one.
    """
    module, arguments = program(line.split())
    assert OURS.fullmatch(module) or module == "app", f"a program of this project: {line}"
    elided = "..." in arguments
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, args=None, namespace=None):
        if elided:
            for action in self._actions:
                action.required = False
        parse(self, args, namespace)
        raise Understood

    package = module == "asyncdsb"
    main = importlib.import_module("asyncdsb.cli.main" if package else module).main
    with monkeypatch.context() as patch, pytest.raises(Understood):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        main([word for word in arguments if word != "..."])


LINES = [line for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("line", [line for line in LINES if "--help" not in line])
def test_a_command_is_understood_by_its_program(line, monkeypatch):
    understand(line, monkeypatch)


def test_every_kind_of_command_is_found():
    """What is looked for is there, so that a change of form does not empty the test above."""
    starts = {tuple(line.split()[:2]) for line in LINES}
    assert starts >= {("python", "-m"), ("python", "app.py")}
    assert any(start[0] == "torchrun" for start in starts)
    named = {program(line.split())[0] for line in LINES}
    steps = ("splits", "corpus", "import_adm", "gradient", "bridge", "export", "evaluate")
    assert named >= {"app", "asyncdsb", "benchmarks.training_cost"} | {f"train.{s}" for s in steps}


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m train.bridge --preset papier --data A --gradient B --out C",
        "python -m train.bridge --preset paper --data A --gradient B --outs C",
        "python -m train.export --gradient A --bridge B",
        "torchrun --nproc 2 --nnode_rank 0 -m train.bridge --data A --gradient B --out C",
        "torchrun --nproc_per_node 2 -m train.bridge --accumulated 2 ...",
    ],
)
def test_a_wrong_command_is_not_understood(wrong, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        understand(wrong, monkeypatch)


def test_your_own_photographs_take_four_commands():
    text = (ROOT / "train/README.md").read_text("utf-8")
    block = re.search(r"## Your own photographs.*?```sh\n(.*?)```", text, re.DOTALL)[1]
    lines = block.replace("\\\n", " ").splitlines()
    programs = [program(shlex.split(line))[0] for line in lines]
    trainers = ["train.gradient", "train.bridge"]
    assert programs == [*trainers, "train.export", "app"]


@pytest.mark.parametrize("name", ["shipped", "workstation"])
def test_presets_for_24_gb_leave_a_quarter_of_them(name):
    preset = BRIDGE_PRESETS[name]
    cost = count(preset, GRADIENT_PRESETS["shipped"])
    assert cost.state() + preset.batch * cost.kept < 18e9
