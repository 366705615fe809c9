"""docs/reference/commands.md and docs/edgemesh.1: every command, its arguments and exit codes, from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

import agent
from agent.commands import COMMANDS
from agent.commands.parser import whole
from pages import HEAD
from pages.fields import cell

INTRODUCTION = """# Commands

Every command exits 0 when all is well, 1 when the answer is no or something is wrong, 2 when the command line makes no sense, 3 when no
daemon answered, and 130 when it was interrupted. Each section below says what that is for its command. `-o json` is for programs.

`edgemesh completion bash` (or `zsh`, `fish`) prints completion for a shell. There is a [man page](../edgemesh.1) too:
`man ./docs/edgemesh.1`.

"""
ENVIRONMENT = {
    "EDGEMESH_SOCKET": "the admin socket of the daemon, where no option says it",
    "EDGEMESH_NAMESPACE": "where edgemesh runs in a cluster, where no option says it",
    "KUBECONFIG": "access to a cluster, files separated by colons, where no option says it",
    "EDGEMESH_NODE": "the name of this node, where no option says it",
}
FILES = {
    "/etc/edgemesh": "manifests and settings of a box (edgemesh setup)",
    "/var/lib/edgemesh": "what outlives a restart: keys, certificates, the last good policy, releases",
    "/run/edgemesh/edgemesh.sock": "the admin socket",
}


def pages() -> Mapping[str, str]:
    return {"reference/commands.md": _markdown(), "edgemesh.1": _man()}


def verbs() -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield every command and subcommand: its full name, its parser, its exit codes."""
    _, parsers = whole()
    for name, parser in parsers.items():
        codes = COMMANDS[name].codes
        yield name, parser, codes
        for sub, inner in subcommands(parser).items():
            yield f"{name} {sub}", inner, codes


def subcommands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    return next((dict(one.choices) for one in parser._actions if isinstance(one, argparse._SubParsersAction)), {})


def actions(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """Return the arguments that people may write, without --help and the subcommands."""
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    return [one for one in parser._actions if not isinstance(one, left_out) and one.help != argparse.SUPPRESS]


def words(action: argparse.Action) -> str:
    """Return an argument as it is written: `-o, --output table|json`, `SRC`."""
    value = _value(action)
    if not action.option_strings:
        return value
    return f"{', '.join(action.option_strings)}{f' {value}' if value else ''}"


def synopsis(name: str, parser: argparse.ArgumentParser) -> str:
    if subcommands(parser):
        return f"edgemesh {name} VERB ..."
    if parser.usage:
        return parser.usage
    parts = [f"edgemesh {name}"]
    for action in sorted(actions(parser), key=lambda one: (not one.option_strings, not one.required)):
        value = _value(action)
        word = f"{action.option_strings[-1]}{f' {value}' if value else ''}" if action.option_strings else value
        needed = action.required if action.option_strings else action.nargs not in ("?", "*")
        parts.append(word if needed else f"[{word}]")
    return " ".join(parts)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{name} ..." if action.nargs in ("+", "*") else str(name)


def _markdown() -> str:
    text = [HEAD + INTRODUCTION, "| command | what it does |\n|---|---|"]
    text += [f"| [`{name}`](#{name}) | {cell(command.summary)} |" for name, command in COMMANDS.items()]
    for name, parser, codes in verbs():
        inner = " " in name
        text.append(
            f"\n{'###' if inner else '##'} {name}\n\n{parser.description}\n\n```text\n{synopsis(name, parser)}\n```\n"
        )
        rows = [f"| {_code(words(action))} | {cell(_help(action))} |" for action in actions(parser)]
        if rows:
            text.append("| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
        if not inner:
            text.append(f"Exit codes: {codes}.")
    text.append("\n## Environment\n\n| variable | meaning |\n|---|---|")
    text += [f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items()]
    return "\n".join(text) + "\n"


def _code(text: str) -> str:
    return f"`{cell(text)}`"


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def _man() -> str:
    text = [
        f'.TH EDGEMESH 1 "" "edgemesh {agent.__version__}" "edgemesh"',
        ".nh",
        ".ad l",
        ".SH NAME",
        "edgemesh \\- a service mesh for edge boxes: one daemon per node, no sidecars",
        ".SH SYNOPSIS",
        ".B edgemesh",
        "COMMAND ...",
        ".SH DESCRIPTION",
        "The daemon captures the traffic of a node's workloads, knows each caller by its socket or its certificate, and lets through",
        "what policy allows. Everything else is refused. The commands below run it, ask it and set it up.",
        ".SH COMMANDS",
    ]
    for name, parser, codes in verbs():
        text += [f".SS {name}", f".B {_roff(synopsis(name, parser))}", ".PP", _roff(parser.description or "")]
        for action in actions(parser):
            text += [".TP", f".B {_roff(words(action))}", _roff(_help(action))]
        if " " not in name:
            text += [".PP", f"Exit codes: {_roff(codes)}."]
    text.append(".SH EXIT STATUS")
    text.append(
        "0 all is well; 1 the answer is no or something is wrong; 2 the command line makes no sense; 3 no daemon answered;"
    )
    text.append("130 interrupted.")
    for title, rows in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        text.append(f".SH {title}")
        for name, meaning in rows.items():
            text += [".TP", f".B {_roff(name)}", _roff(meaning)]
    return "\n".join(text) + "\n"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text
