"""A node's side in a cluster: certificates by CertificateSigningRequest, roots from the ConfigMap.

The pod's token proves the node, so nothing has to be joined. While no server decides, the request that waits stands for
all others: `bundle` fails until that one is decided, so that a cluster without its servers does not fill up with
requests. Requests that are decided are removed by Kubernetes itself, an hour later.
"""

from __future__ import annotations

import contextlib
import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
import trio

from agent.identity.kubernetes import objects
from agent.identity.kubernetes.objects import SigningRequest
from agent.identity.node.roots import fingerprint
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Issued
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable
from agent.kubernetes.lease import LeaseObject

log = logging.getLogger("edgemesh.signer")

PATIENCE = 30.0  # seconds to wait for a decision; a new holder of the lease needs up to 17
_LOOK = 5.0  # seconds of a watch, after which the request is read again: a watch may have missed it
_ABOUT = 60.0  # seconds by which two clocks may differ without either being wrong
_DEAD = 60.0  # seconds without a renewal after which the lease's holder may have ended; others take it sooner
_SERVERS = "--selector app.kubernetes.io/component=server"
_RBAC = "do the ClusterRole and ClusterRoleBinding edgemesh-agent of the add-on still stand?"


class Event(msgspec.Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _Awaited(msgspec.Struct):
    """A request that waits for its decision. `since`: when it was made, for people."""

    name: str
    since: str


class KubernetesSigner:
    """The signer of a cluster. `lifetime`: seconds that a certificate should be valid. `wall`: our clock."""

    def __init__(self, api: ApiServer, namespace: str, lifetime: float, wall: Callable[[], float] = time.time) -> None:
        self._api = api
        self._namespace = namespace
        self._lifetime = lifetime
        self._wall = wall
        self._waiting: _Awaited | None = None  # a request that nobody decided while we waited
        self._asked: dict[str, _Awaited] = {}  # by SPIFFE ID, requests on whose decision `sign` waits
        self._leads: str | None = None  # the node whose server signs; "": none does; None: unknown
        self._renewed = ""  # time since when that one is silent, if it is

    def __repr__(self) -> str:
        return f"<KubernetesSigner at {self._api.access.place}>"

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raise AuthorityRefused or AuthorityUnreachable."""
        with _translated():
            made = await self._api.create(objects.REQUESTS, objects.new_request(csr, self._lifetime))
            name = str(made["metadata"]["name"])
            request: SigningRequest | None = None
            awaited = self._asked[spiffe] = _Awaited(name, _clock(self._wall()))
            try:
                with trio.move_on_after(PATIENCE):
                    request = await self._decided(name)
            finally:
                if self._asked.get(spiffe) is awaited:
                    del self._asked[spiffe]
        if request is None:
            self._waiting = awaited
            await self._look_who_leads()
            raise AuthorityUnreachable(f"{self._words(awaited)}; {self._hint()}")
        self._waiting = None
        for kind in ("Denied", "Failed"):
            if condition := request.condition(kind):
                raise AuthorityRefused(
                    condition.message or f"the request was {kind.lower()}: {condition.reason}",
                    f"kubectl describe csr {name} shows the request",
                )
        try:
            chain = b64decode(request.status.certificate, validate=True).decode("ascii")
        except ValueError as error:
            raise AuthorityRefused(f"the certificate in CertificateSigningRequest {name} cannot be read") from error
        return Issued(chain, await self.bundle())

    async def bundle(self) -> Bundle:
        """Raise AuthorityUnreachable."""
        with _translated():
            if self._waiting and not await self._gone_on():
                await self._look_who_leads()
                raise AuthorityUnreachable(f"{self._words(self._waiting)}; {self._hint()}")
            try:
                found = await self._api.get(objects.roots(self._namespace), objects.RootsMap)
            except ApiError as error:
                if error.status != 404:
                    raise
                message = f"ConfigMap {self._namespace}/{objects.ROOTS}, which holds the mesh's roots, is not there"
                await self._look_who_leads()
                raise AuthorityUnreachable(f"{message}: it waits for {self._leader()}; {self._hint()}") from error
        roots = tuple(f"{root}\n" for root in objects.split(found.data.get(objects.ROOTS_PEM, "")))
        domain, issuer = found.data.get(objects.TRUST_DOMAIN, ""), found.data.get(objects.ISSUER, "")
        if not domain or issuer not in map(fingerprint, roots):
            raise AuthorityUnreachable(f"ConfigMap {self._namespace}/{objects.ROOTS} is damaged; a server rewrites it")
        return Bundle(domain, roots, issuer, self._time())

    def _time(self) -> float:
        """Return the cluster's time, for the clock of this node may be wrong by days: then the API server's date.

        That has no parts of a second, and servers differ by seconds, so our own clock counts where it is about right.
        """
        wall, said = self._wall(), self._api.date
        return said if said and abs(said - wall) > _ABOUT else wall

    def awaited(self, spiffe: str) -> str:
        """Return what the certificate of `spiffe` waits for now; "" if no request for it is open."""
        found = self._asked.get(spiffe)
        return self._words(found) if found else ""

    def _words(self, awaited: _Awaited) -> str:
        return f"CertificateSigningRequest {awaited.name} waits since {awaited.since} UTC for {self._leader()}"

    def _leader(self) -> str:
        if self._leads is None:
            return "a server of edgemesh"
        if not self._leads:
            return f"a server of edgemesh: none holds the lease {objects.LEASE}"
        silent = f" and has not renewed it since {self._renewed} UTC" if self._renewed else ""
        return f"the server on node {self._leads}, which holds the lease {objects.LEASE}{silent}"

    def _hint(self) -> str:
        """Return what to do about a server that does not decide."""
        if self._leads and not self._renewed:
            return f"its log says why: kubectl --namespace {self._namespace} logs --prefix {_SERVERS}"
        return f"kubectl --namespace {self._namespace} get pods {_SERVERS} shows whether one runs"

    async def _look_who_leads(self) -> None:
        """Read the lease. It is for people: no failure counts."""
        self._leads, self._renewed = None, ""
        try:
            spec = (await self._api.get(objects.lease(self._namespace), LeaseObject)).spec
        except ApiError as error:
            self._leads = "" if error.status == 404 else None
        except (ApiUnreachable, msgspec.MsgspecError):
            pass
        else:
            self._leads = (spec.holder_identity or "").partition("_")[0]
            with contextlib.suppress(ValueError):
                renewed = datetime.fromisoformat(spec.renew_time or "").timestamp()
                self._renewed = _clock(renewed) if self._wall() - renewed > _DEAD else ""

    async def _gone_on(self) -> bool:
        """Return whether the request that waits was decided, or is gone."""
        assert self._waiting is not None
        try:
            if not (await self._api.get(objects.request(self._waiting.name), SigningRequest)).settled:
                return False
        except ApiError as error:
            if error.status != 404:
                raise
        self._waiting = None
        return True

    async def _decided(self, name: str) -> SigningRequest:
        """Wait until the request is decided."""
        while True:
            request: SigningRequest = await self._api.get(objects.request(name), SigningRequest)
            if request.settled:
                return request
            query = {
                "fieldSelector": f"metadata.name={name}",
                "resourceVersion": request.metadata.resource_version,
                "watch": "1",
                "timeoutSeconds": str(int(_LOOK)),
            }
            with trio.move_on_after(2 * _LOOK):
                async with self._api.watch(objects.REQUESTS, query) as lines:
                    async for line in lines:
                        event = msgspec.json.decode(line, type=Event)
                        if event.type not in ("ADDED", "MODIFIED"):
                            break
                        request = msgspec.json.decode(event.object, type=SigningRequest)
                        if request.settled:
                            return request
            await self._look_who_leads()
            await trio.sleep(0.5)


def _clock(seconds: float) -> str:
    """Return a time of the day, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn failures of the API into those of a Signer."""
    try:
        yield
    except ApiUnreachable as error:
        raise AuthorityUnreachable(str(error)) from error
    except ApiError as error:
        if error.status == 403:
            raise AuthorityRefused(f"the API server does not let us ask: {error.message}", _RBAC) from error
        raise AuthorityUnreachable(f"the API server refused: {error}") from error
    except msgspec.MsgspecError as error:
        raise AuthorityUnreachable(f"the API server's answer cannot be read: {error}") from error
