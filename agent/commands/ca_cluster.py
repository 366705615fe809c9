"""`edgemesh ca rotate` in a cluster: a step is asked for beside the roots, and the server that holds the lease takes it.

The key does not leave the cluster for it, and who asks needs no right to read it: to read and patch the ConfigMap with
the roots is enough.
"""

from __future__ import annotations

import secrets
import sys
import time
from argparse import Namespace

import trio

from agent.commands import NO, OK, cluster, terminal
from agent.commands import authority_shown as shown
from agent.commands.cluster import Mistake
from agent.identity.kubernetes import objects, rotating
from agent.identity.kubernetes.rotating import Answer, Asked
from agent.kubernetes.api import ApiError, ApiServer

PATIENCE = 60.0  # seconds: a new holder of the lease needs up to 17, and looks every 15
_LOOK = 1.0  # seconds


async def rotate(arguments: Namespace, api: ApiServer) -> int:
    """Take a step, or show where the rotation stands. Raise Mistake, ApiError, ApiUnreachable."""
    namespace = cluster.mesh_namespace(arguments)
    held = await _roots(api, namespace)
    answer = rotating.answered(held.metadata)
    if arguments.step == "status":
        if answer is None:
            raise Mistake(
                f"ConfigMap {namespace}/{objects.ROOTS} does not say where the rotation stands",
                f"the servers write it: kubectl --namespace {namespace} get pods --selector app.kubernetes.io/component=server",
            )
    else:
        answer = await _asked(arguments, api, namespace, held)
    if answer.refused and arguments.step != "status":
        terminal.complain(answer.refused, answer.hint)
        return NO
    if arguments.output == "json":
        terminal.print_json(shown.rotation_document(answer.report))
    else:
        for line in shown.rotation_stands(answer.report):
            print(line)
    return OK


ROTATE = cluster.asking(rotate)


async def _asked(arguments: Namespace, api: ApiServer, namespace: str, held: objects.RootsMap) -> Answer:
    """Ask for a step, and wait until the server has answered. Raise Mistake, ApiError, ApiUnreachable."""
    wanted = Asked(arguments.step, secrets.token_hex(8), api.date or time.time(), arguments.force)
    try:
        await _write(api, namespace, rotating.write(wanted), held.metadata.resource_version)
    except ApiError as error:
        if error.status != 409:
            raise
        raise Mistake("something has changed just now", "ask again") from error
    if sys.stderr.isatty():
        sys.stderr.write("waiting for the server that signs; it looks every 15 seconds\n")
    with trio.move_on_after(PATIENCE):
        while True:
            await trio.sleep(_LOOK)
            answer = rotating.answered((await _roots(api, namespace)).metadata)
            if answer is not None and answer.id == wanted.id:
                return answer
    with trio.CancelScope(shield=True):
        await _write(api, namespace, None)  # nobody waits for it any more
    raise Mistake(
        f"no server has taken the step within {PATIENCE:.0f} seconds, and it is not asked for any more",
        f"kubectl --namespace {namespace} logs --selector app.kubernetes.io/component=server says why; edgemesh ca rotate shows where it stands",
    )


async def _roots(api: ApiServer, namespace: str) -> objects.RootsMap:
    try:
        found: objects.RootsMap = await api.get(objects.roots(namespace), objects.RootsMap)
    except ApiError as error:
        if error.status != 404:
            raise
        raise Mistake(
            f"there is no ConfigMap {namespace}/{objects.ROOTS}: no mesh of edgemesh there has begun to sign",
            "edgemesh mesh list shows the meshes of the cluster; --mesh-namespace names another namespace",
        ) from error
    return found


async def _write(api: ApiServer, namespace: str, request: str | None, version: str = "") -> None:
    metadata = {"annotations": {rotating.ASKED: request}, **({"resourceVersion": version} if version else {})}
    await api.patch(objects.roots(namespace), {"metadata": metadata})
