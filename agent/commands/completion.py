"""completion: a script for bash, zsh or fish that completes edgemesh's command line, made from its parser.

What may come next depends on the command and subcommand before, and on the option before the cursor. Commands that have
subcommands have one level of them (`edgemesh ca token`).
"""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from agent.commands import COMMANDS, OK
from agent.commands.parser import whole

SHELLS = ("bash", "zsh", "fish")
_FOLDERS, _FILES = (
    ("DIR",),
    ("FILE", "PATH", "KEY", "CERT", "BUNDLE", "DIR|FILE|-"),
)  # what completes an argument's value, by its metavar


class Word(Struct, frozen=True):
    """A word that may be typed, and its meaning."""

    text: str
    meaning: str = ""
    value: argparse.Action | None = None  # an option that takes a value


_BASH = """# edgemesh completion bash: put this where bash finds it, such as /etc/bash_completion.d/edgemesh
_edgemesh() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} typed="" word words=""
  case "${{COMP_WORDS[COMP_CWORD - 1]}}" in
{values}
  esac
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in -*) continue ;; esac
    case "$typed" in
      "") typed=$word ;;
      {branching}) typed="$typed $word" ;;
      *) break ;;
    esac
  done
  case "$typed" in
{words}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _edgemesh edgemesh
"""
_ZSH = """#compdef edgemesh
# edgemesh completion zsh: put this where zsh finds it, as _edgemesh in a directory of $fpath
_edgemesh() {{
  local typed="" word
  local -a choices
  case "$words[CURRENT-1]" in
{values}
  esac
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    [[ $word == -* ]] && continue
    case "$typed" in
      "") typed=$word ;;
      {branching}) typed="$typed $word" ;;
      *) break ;;
    esac
  done
  case "$typed" in
{words}
  esac
  _describe -t words edgemesh choices || _files
}}
if [ "$funcstack[1]" = _edgemesh ]; then _edgemesh "$@"; else compdef _edgemesh edgemesh; fi
"""
_FISH = "# edgemesh completion fish: put this where fish finds it, such as ~/.config/fish/completions/edgemesh.fish"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that will read it")


def run(arguments: Namespace) -> int:
    """Print the script. Return 0."""
    print(script(arguments.shell, whole()[0], {name: command.summary for name, command in COMMANDS.items()}), end="")
    return OK


def script(shell: str, parser: argparse.ArgumentParser, summaries: Mapping[str, str]) -> str:
    """Return the script for one of SHELLS. `summaries`: what each command does."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](dict(_contexts(parser, summaries)))


def _contexts(parser: argparse.ArgumentParser, summaries: Mapping[str, str]) -> Iterator[tuple[str, list[Word]]]:
    """Yield what was typed ("", "status", "ca token"), each with the words that may follow."""
    verbs = _subcommands(parser)
    yield "", [*(Word(name, summaries.get(name, "")) for name in verbs), *_words(parser)]
    for name, verb in verbs.items():
        inner = _subcommands(verb)
        yield name, [*(Word(sub, _first(one.description)) for sub, one in inner.items()), *_words(verb)]
        for sub, one in inner.items():
            yield f"{name} {sub}", list(_words(one))


def _subcommands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    return next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


def _words(parser: argparse.ArgumentParser) -> Iterator[Word]:
    """Yield options, and the choices of a positional argument."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        for option in action.option_strings:
            yield Word(option, _first(action.help), None if action.nargs == 0 else action)
        if not action.option_strings:
            yield from (Word(str(choice)) for choice in action.choices or ())


def _first(text: str | None) -> str:
    return (text or "").replace("%%", "%").rstrip(".")


def _kind(action: argparse.Action) -> str:
    """Return what completes the value of an option: "folders", "files", or "" for nothing but its choices."""
    return "folders" if action.metavar in _FOLDERS else "files" if action.metavar in _FILES else ""


def _values(contexts: Mapping[str, Sequence[Word]]) -> Mapping[str, argparse.Action]:
    """Return every option that takes a value; an option of one name takes the same value everywhere."""
    return {word.text: word.value for words in contexts.values() for word in words if word.value is not None}


def _bash(contexts: Mapping[str, Sequence[Word]]) -> str:
    found = {"folders": "-d", "files": "-f", "": '-W ""'}
    values = []
    for option, action in _values(contexts).items():
        chosen = f'-W "{_listed(action)}"' if action.choices else found[_kind(action)]
        values.append(f'    {option}) COMPREPLY=($(compgen {chosen} -- "$current")); return ;;')
    words = [
        f'    "{context}") words="{" ".join(word.text for word in words)}" ;;' for context, words in contexts.items()
    ]
    return _BASH.format(values="\n".join(values), branching="|".join(_branching(contexts)), words="\n".join(words))


def _zsh(contexts: Mapping[str, Sequence[Word]]) -> str:
    found = {"folders": "_files -/", "files": "_files", "": "_message value"}
    values = []
    for option, action in _values(contexts).items():
        chosen = f"compadd -- {_listed(action)}" if action.choices else found[_kind(action)]
        values.append(f"    {option}) {chosen}; return ;;")
    words = []
    for context, known in contexts.items():
        described = [_quoted(f"{word.text}:{word.meaning}") for word in known]
        words.append(f'    "{context}") choices=({" ".join(described)}) ;;')
    return _ZSH.format(values="\n".join(values), branching="|".join(_branching(contexts)), words="\n".join(words))


def _fish(contexts: Mapping[str, Sequence[Word]]) -> str:
    lines = [_FISH]
    for context, words in contexts.items():
        verb, _, sub = context.partition(" ")
        condition = f"__fish_seen_subcommand_from {verb}" if verb else "__fish_use_subcommand"
        if sub:
            condition += f"; and __fish_seen_subcommand_from {sub}"
        inner = " ".join(word.text for word in words if not word.text.startswith("-"))
        for word in words:
            when = (
                f"{condition}; and not __fish_seen_subcommand_from {inner}"
                if verb and word.text in inner.split()
                else condition
            )
            said = f" -d {_quoted(word.meaning)}" if word.meaning else ""
            lines.append(f"complete -c edgemesh -n {_quoted(when)} {_fish_word(word)}{said}")
    return "\n".join(lines) + "\n"


def _fish_word(word: Word) -> str:
    if not word.text.startswith("-"):
        return f"-f -a {_quoted(word.text)}"
    named = f"-l {word.text[2:]}" if word.text.startswith("--") else f"-s {word.text[1:]}"
    if word.value is None:
        return named
    return f"{named} -x -a {_quoted(_listed(word.value))}" if word.value.choices else f"{named} -r"


def _listed(action: argparse.Action) -> str:
    return " ".join(map(str, action.choices or ()))


def _branching(contexts: Mapping[str, Sequence[Word]]) -> list[str]:
    """Return the commands that have subcommands."""
    return sorted({context.partition(" ")[0] for context in contexts if " " in context})


def _quoted(text: str) -> str:
    """Return the text in single quotes, without a single quote in it, for any of the shells."""
    return "'" + text.replace("'", "\u2019") + "'"
