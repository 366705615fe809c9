"""install: edgemesh for a Kubernetes cluster. uninstall.py is the reverse."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import trio

import agent
from agent.commands import NO, OK, USAGE, options, terminal
from agent.commands.cluster import Mistake, asking, refusal
from agent.install import addon, rollout
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of

Document = dict[str, Any]

_LOOK = 1.0  # seconds between two looks at the daemons
_SETS = path_of("apps/v1", "daemonsets", addon.NAMESPACE)
_PODS = path_of("v1", "pods", addon.NAMESPACE)
_NODES = path_of("v1", "nodes")
_LONG = 80  # characters of a message in a line about the progress
_SHOWN = 5  # nodes of which it is told what is wrong


def arguments(parser: ArgumentParser) -> None:
    options.access(parser)
    image = f"the image of the daemons (default: {addon.VALUES['image'].default}); the same as --set image=NAME"
    parser.add_argument("--image", metavar="NAME", default="", help=image)
    defaults = ", ".join(f"{name}={value.default}" for name, value in addon.VALUES.items() if name != "image")
    values = f"a value of the installation, or several with commas; besides image, with their defaults: {defaults}"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=values)
    dry = "print the objects as YAML, and do nothing"
    parser.add_argument("--dry-run", action="store_true", help=dry)
    wait = "seconds to wait until each node's daemon is ready (default: 300); 0: do not wait"
    parser.add_argument("--timeout", metavar="SECONDS", type=options.seconds, default=300.0, help=wait)


def run(arguments: Namespace) -> int:
    """Return 1 when something was refused, or a daemon is not ready in time; 2 for a value that cannot be."""
    try:
        given = _given(arguments)
        values = addon.settings(given)
    except addon.SettingError as error:
        terminal.complain(str(error))
        return USAGE
    if arguments.dry_run:
        sys.stdout.write(addon.manifest(values, _yaml(addon.definitions())))
        return OK
    arguments.given = given
    return _INSTALL(arguments)


def _given(arguments: Namespace) -> dict[str, str]:
    """Return the values of the command line. Raise addon.SettingError."""
    found = {}
    for word in (part for words in arguments.set for part in words.split(",")):
        name, equals, value = word.partition("=")
        if not equals:
            raise addon.SettingError(f"--set {word!r}: write KEY=VALUE; keys are {', '.join(addon.VALUES)}")
        found[name.strip()] = value.strip()
    return found | ({"image": arguments.image} if arguments.image else {})


def _yaml(documents: Sequence[Document]) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(documents, Dumper=dumper, sort_keys=False, default_flow_style=None, width=160))


async def installed(arguments: Namespace, api: ApiServer) -> int:
    """Apply everything, and wait. Return the exit code. Raise Mistake, ApiError, ApiUnreachable."""
    given = dict(arguments.given)
    if "flowControl" not in given and not await rollout.has_flow_control(api):
        given["flowControl"] = "false"
        print("this Kubernetes has no queues for requests as 1.29 has them: they are left out")
    objects = documents(addon.settings(given))
    await _no_namespace_that_goes(api)
    for one in objects:
        try:
            await rollout.apply(api, one)
        except ApiError as error:
            message, hint = refusal(error)
            raise Mistake(f"{one['kind']} {one['metadata']['name']}: {message}", hint) from error
    definitions = sum(one["kind"] == "CustomResourceDefinition" for one in objects)
    print(f"applied {len(objects)} objects, of which {definitions} define kinds")
    if not arguments.timeout:
        return OK
    return await ready(api, arguments.timeout)


async def _no_namespace_that_goes(api: ApiServer) -> None:
    """Raise Mistake if the namespace is being deleted: what is made in it now would go with it."""
    try:
        found = await api.get(path_of("v1", "namespaces", name=addon.NAMESPACE))
    except ApiError:
        return  # it is not there yet, or the first object says what is wrong
    if found["metadata"].get("deletionTimestamp"):
        hint = f"wait until it is gone: kubectl wait --for=delete namespace/{addon.NAMESPACE}"
        raise Mistake(f"namespace {addon.NAMESPACE} is being deleted", hint)


def documents(values: dict[str, str]) -> list[Document]:
    """Return all objects, in the order in which they are applied."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def of(part: str) -> list[Document]:
        text = addon.render(addon.template(part), values)
        return [one for one in yaml.load_all(text, Loader=loader) if one]

    return [*of("namespace"), *addon.definitions(), *of("access"), *of("server"), *of("agent")]


async def ready(api: ApiServer, timeout: float) -> int:
    """Wait until each node has a daemon that is ready, and say how far it is. Return 1 when that takes too long."""
    said = ""
    found: list[rollout.Fault] = []
    old: list[str] = []
    with trio.move_on_after(timeout):
        while True:
            try:
                sets = [one for one in await api.list(_SETS) if one["metadata"]["name"] in (addon.SERVER, addon.AGENT)]
                state = rollout.progress(sets)
                if state.done and state.wanted:
                    print(f"edgemesh {agent.__version__} runs on {_nodes(state.wanted)}")
                    return await _looked_at(api, sets)
                if state.known and not state.wanted and await _no_nodes(api):
                    return OK
                pods = await api.list(_PODS, rollout.PODS)
                found, old = rollout.faults(pods), rollout.leaving(pods)
                now = "waiting until the cluster has counted its nodes"
                if state.known and state.wanted:
                    now = f"{state.ready} of {_nodes(state.wanted)} ready" + "".join(
                        f"; {_short(one)}" for one in found[:2]
                    )
                if old:
                    now += f"; {', '.join(old[:2])}: the daemon before has not ended"
            except ApiUnreachable as error:
                now = str(error)
            if now != said:
                print(now, flush=True)
                said = now
            await trio.sleep(_LOOK)
    terminal.complain(f"not every node has a daemon that is ready after {timeout:g} s")
    for fault in found[:_SHOWN]:
        terminal.complain(f"{fault.node}: {fault.message}", fault.hint)
        if fault.ended:
            sys.stderr.writelines(f"  | {line}\n" for line in (await rollout.log_of(api, fault.pod)).splitlines())
    for node in old[:_SHOWN]:
        terminal.complain(
            f"{node}: connections of the daemon before go on",
            "it ends with them, after update.drainTimeout of the NodeConfig at most, and another node follows; the new daemon may serve already",
        )
    if len(found) > _SHOWN:
        terminal.complain(f"and {len(found) - _SHOWN} more nodes")
    return NO


async def _looked_at(api: ApiServer, sets: Sequence[Document]) -> int:
    """Say what is well installed and yet will not work. Return 1 when something is."""
    servers = next((one for one in sets if one["metadata"]["name"] == addon.SERVER), {})
    if not (servers.get("status") or {}).get("desiredNumberScheduled", 0):
        terminal.complain(
            "no node is labelled node-role.kubernetes.io/control-plane, so that nobody signs certificates",
            "kubectl label node NAME node-role.kubernetes.io/control-plane=true, for one node or several",
        )
        return NO
    return OK


async def _no_nodes(api: ApiServer) -> bool:
    if await api.list(_NODES):
        return False
    print("the cluster has no nodes yet; each gets its daemon when it joins")
    return True


def _short(fault: rollout.Fault) -> str:
    return f"{fault.node} {fault.message if len(fault.message) <= _LONG else f'{fault.message[:_LONG]} ...'}"


def _nodes(number: int) -> str:
    return f"{number} node{'' if number == 1 else 's'}"


_INSTALL = asking(installed)
