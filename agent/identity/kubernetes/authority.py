"""The signing side in a cluster, run by the holder of the lease: reads CertificateSigningRequests, and decides them.

Each request is decided by what the API server says at that moment, never by a cached copy: the pod whose token made it,
the node where that pod runs, and the pods there of the service account that is asked for. What then is signed, the
Authority of boxes decides as ever: names, revocations, dates. Callers have turns, so that one that makes many requests
delays only itself. A request that cannot be decided now (no answer, no key) stays, and is looked at again.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio
from msgspec import Struct, field

from agent.identity.authority import rotation
from agent.identity.authority.authority import Authority, Client, Revocation, workload_of
from agent.identity.authority.rotation import NotNow, Report
from agent.identity.authority.state import AuthorityState
from agent.identity.csr import Unusable
from agent.identity.folder import FolderError
from agent.identity.kubernetes import cert_manager, objects, rotating
from agent.identity.kubernetes.cert_manager import Silent
from agent.identity.kubernetes.given import Given, Wrong, advance, read
from agent.identity.kubernetes.objects import Pod, SigningRequest
from agent.identity.kubernetes.requests import Denied, asked, caller, node_of, running_there
from agent.identity.kubernetes.rotating import Answer, Asked
from agent.identity.kubernetes.state import ClusterState
from agent.identity.kubernetes.turns import Turns
from agent.identity.protocol import AuthorityRefused, Bundle, SignRequest
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, ListMetadata
from agent.kubernetes.events import Events
from policy import enrolment
from policy.model import Identity, Problem, Where

log = logging.getLogger("edgemesh.authority")

TRUST_DOMAIN = "cluster.local"
_AGAIN = 15.0  # seconds between two reads of the Secret: a rotation takes effect that late
_PAUSE = 2.0  # seconds after a failure of the API
_WORKERS = 4
_WATCH = 300  # seconds of one watch; then the requests are listed anew, those included that were left over
_T = TypeVar("_T")
_LATE = "edgemesh writes it within a minute, or the AccessCert says why not; or go on without them: --force"
_FAILURES = (ApiError, ApiUnreachable, FolderError, msgspec.MsgspecError)


class _List(Struct):
    metadata: ListMetadata = field(default_factory=ListMetadata)
    items: tuple[SigningRequest, ...] = ()


class _Pods(Struct):
    items: tuple[Pod, ...] = ()


class _Namespace(Struct):
    metadata: objects.Metadata = objects.Metadata()


class _Event(Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"{}")


class ClusterAuthority:
    """The authority of a cluster. `refused`: revocations. `lifetime`: of a certificate, in seconds."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        clock: Callable[[], float],
        lifetime: float,
        refused: Revocation,
        events: Events,
        trust_domain: str = TRUST_DOMAIN,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._trust_domain = trust_domain
        self._lifetime = lifetime
        self.state = ClusterState(api, namespace, clock)
        # (node, SPIFFE ID) that are being signed, and how often: a node may ask twice before it has its answer
        self._placed: Counter[tuple[str, str]] = Counter()
        self.authority = Authority(self.state.folder, clock, lifetime, self._allowed, refused)
        self._turns = Turns()
        self._events = events
        self._woken = trio.Event()
        self._opened = False
        # A node that is given a certificate reads the roots then, and counts as one that knows them: so nothing is signed
        # between a step of the rotation and the roots that belong to it.
        self._steady = trio.Lock()
        self._published: tuple[str, ...] = ()  # roots in the ConfigMap
        # In words, who outside the nodes does not have the roots of now. Raise FolderError.
        self.behind: Callable[[], Sequence[str]] = tuple
        self._seen: dict[bytes, bytes] = {}  # roots of cert-manager's issuers
        self.wrong: Wrong | None = None  # why the authority that is given is not used
        self.silent: Silent | None = None  # why cert-manager has signed nothing just now
        self.trouble: tuple[str, str] = ("", "")  # why nothing is signed, and what to do

    def __repr__(self) -> str:
        return f"<ClusterAuthority of {self._trust_domain} in {self._namespace}>"

    def problems(self) -> list[Problem]:
        message, hint = self.trouble
        found = [Problem("error", Where(), "authority", message, hint)] if message else []
        if self.wrong is not None:
            found.append(Problem("error", Where(), "MeshRootCertificate", str(self.wrong), self.wrong.hint))
        if self.silent is not None:
            found.append(Problem("error", Where(), "authority", str(self.silent), self.silent.hint))
        return found

    async def run(self) -> None:
        """Sign until cancelled: only while the lease is ours."""
        await self._keep_state_once()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_state)
            nursery.start_soon(self._follow)
            for _ in range(_WORKERS):
                nursery.start_soon(self._work)

    # for clients outside the mesh (access_certs.py)

    def bundle_now(self) -> Bundle:
        """Return the roots and who signs. Blocks for a moment. Raise FolderError: nothing is signed now."""
        if not self._opened:
            raise FolderError(self.trouble[0] or "the authority has not begun")
        return self.authority.bundle()

    async def certify_client(self, title: str, identity: Identity | None, hosts: Sequence[str]) -> Client:
        """Make a certificate for a client. Raise AuthorityRefused, FolderError, ApiUnreachable."""
        await trio.to_thread.run_sync(self.bundle_now)
        async with self._steady:
            return await trio.to_thread.run_sync(
                self._sign, partial(self.authority.certify_client, title, identity, hosts)
            )

    # the Secret and the ConfigMap

    async def _keep_state(self) -> None:
        while True:
            await trio.sleep(_PAUSE if self.trouble[0] else _AGAIN)
            await self._keep_state_once()

    async def _keep_state_once(self) -> None:
        try:
            given = await self._given_now()
            domain, issuer = (given.trust_domain, given.issuer) if given else ("", None)
            async with self._steady:
                await self.state.open(domain or self._trust_domain, issuer, self.wrong)
                if given is not None:
                    await self._go_over(given)
                answer = await self._carry_out(given)
                bundle = await trio.to_thread.run_sync(self.authority.bundle)
                notes = {rotating.ANSWER: rotating.write(answer)}
                if await self.state.publish(bundle, notes):
                    log.info("ConfigMap %s/%s has the roots", self._namespace, objects.ROOTS)
                self._published = bundle.roots
        except _FAILURES as error:
            self._opened = not isinstance(error, FolderError) and self._opened
            told = (str(error), getattr(error, "hint", ""))
            if told != self.trouble:
                log.error("nothing is signed: %s\n  %s", *told) if not self._opened else log.warning("%s", told[0])
            self.trouble = told
        else:
            self._opened, self.trouble = True, ("", "")
            self._wake()

    async def _given_now(self) -> Given | None:
        """Return the authority that is given, if one is and it can be used."""
        self.wrong = None
        try:
            return await read(self._api, self._namespace, self._trust_domain, self._clock(), self._seen)
        except Wrong as wrong:
            self.wrong = wrong
            return None

    async def _go_over(self, given: Given) -> None:
        """Take the next step towards what is given. The Secret has it before any node hears of it."""
        held = self._trust_domain_now()
        if given.trust_domain not in ("", held):
            message = f"the MeshRootCertificate is for the trust domain {given.trust_domain}, and this mesh is {held}"
            self.wrong = Wrong(message, "the trust domain of a mesh cannot be changed")
            return
        if given.issuer is None:
            return
        if self._step_now() != "added" or not self.behind():
            await self._change(partial(advance, issuer=given.issuer))

    async def _carry_out(self, given: Given | None) -> Answer:
        """Take the step that a person asks for, if it can be taken. Return what is to be said."""
        held = await self.state.roots()
        wanted = rotating.asked(held.metadata) if held is not None else None
        before = rotating.answered(held.metadata) if held is not None else None
        refused = hint = ""
        if wanted is not None and before is not None and before.id == wanted.id:
            refused, hint = before.refused, before.hint  # it is answered already
        elif wanted is not None:
            try:
                await self._step(wanted, given)
            except NotNow as wait:
                refused, hint = str(wait), wait.hint
            log.warning(
                "the mesh's root: step %r was asked for, and %s",
                wanted.step,
                f"refused: {refused}" if refused else "taken",
            )
        said: list[Report] = []
        await trio.to_thread.run_sync(
            self.authority.change, lambda holdings: said.append(rotation.report(holdings, rotating.NAMES))
        )
        report = said[0]
        if report.step == "added" and (late := self.behind()):
            waits = (*late, *report.waits_for)
            more = report.more + max(0, len(waits) - rotating.NAMES)
            report = msgspec.structs.replace(report, waits_for=waits[: rotating.NAMES], more=more)
        return Answer(report, wanted.id if wanted is not None else "", refused, hint)

    def _step_now(self) -> str:
        said: list[str] = []
        self.authority.change(lambda holdings: said.append(holdings.standing.step))
        return said[0]

    async def _step(self, wanted: Asked, given: Given | None) -> None:
        """Raise NotNow, and what `_change` raises."""
        if abs((self._api.date or wanted.at) - wanted.at) > rotating.GOOD:
            raise NotNow("the request is too old to be carried out", "ask again")
        if given is not None and given.issuer is not None:
            raise NotNow(
                "a MeshRootCertificate says who signs, and the root follows it by itself",
                f"change that one, or delete it: kubectl --namespace {self._namespace} get meshrootcertificates",
            )
        if wanted.force and wanted.step != "add":
            log.warning("the mesh's root: step %r is taken whoever it cuts off", wanted.step)

        late = self.behind() if wanted.step == "issue" and not wanted.force and self._step_now() == "added" else ()

        def take(holdings: AuthorityState) -> None:
            if holdings.standing.asked == wanted.id:
                return  # it was taken, and could not be told of
            if late:
                names = "\n  ".join(late[: rotating.NAMES])
                raise NotNow(f"clients outside the mesh wait for the new root:\n  {names}", _LATE, blocked=True)
            if wanted.step == "add":
                rotation.add(holdings)
            else:
                steps = {"issue": rotation.issue, "retire": rotation.retire, "undo": rotation.undo}
                steps[wanted.step](holdings, wanted.force)
            holdings.write(msgspec.structs.replace(holdings.standing, asked=wanted.id))

        await self._change(take)

    async def _change(self, step: Callable[[AuthorityState], None]) -> None:
        """Run a step of the rotation, and write it to the Secret: both, or neither. Raise what either raises."""
        before = self.state.folder.files()
        try:
            await trio.to_thread.run_sync(self.authority.change, step)
            if self.state.folder.files() != before:
                await self.state.save()
        except BaseException:
            self.state.folder.load(before)
            raise

    # which requests there are

    async def _follow(self) -> None:
        """Queue every request that is not decided, from a list and the watch after it.

        This is no Reflector (agent/kubernetes/reflector.py), which tells only what changed: a request for which there
        was no room in Turns must be told of again, by the list after each watch.
        """
        query = {"fieldSelector": f"spec.signerName={objects.SIGNER}"}
        while True:
            try:
                version = await self._list(query)
                watch = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": str(_WATCH)}
                async with self._api.watch(objects.REQUESTS, watch) as lines:
                    async for line in lines:
                        event = msgspec.json.decode(line, type=_Event)
                        if event.type == "ERROR":
                            break
                        if event.type in ("ADDED", "MODIFIED"):
                            self._queue(msgspec.json.decode(event.object, type=SigningRequest))
            except _FAILURES as error:
                log.warning("the requests for certificates cannot be followed: %s", error)
            await trio.sleep(_PAUSE)

    async def _list(self, query: dict[str, str]) -> str:
        """Queue those that are there. Return the version to watch from."""
        page = {**query, "limit": "500"}
        while True:
            found: _List = await self._api.get(objects.REQUESTS, _List, page)
            for request in found.items:
                self._queue(request)
            if not found.metadata.continue_:
                return found.metadata.resource_version
            page["continue"] = found.metadata.continue_

    def _queue(self, request: SigningRequest) -> None:
        if request.spec.signer_name == objects.SIGNER and not request.settled:
            extra = request.spec.extra.get("authentication.kubernetes.io/pod-uid", ())
            self._turns.add(f"{request.spec.username} {extra[0] if extra else ''}", request.metadata.name)
            self._wake()

    def _wake(self) -> None:
        self._woken.set()
        self._woken = trio.Event()

    async def _work(self) -> None:
        while True:
            woken = self._woken
            name = self._turns.take() if self._opened else None
            if name is None:
                await woken.wait()
                continue
            again = ""
            try:
                await self._settle(name)
            except Silent as silent:
                again = "again"
                if self.silent is None or str(self.silent) != str(silent):
                    log.warning("CertificateSigningRequest %s is not decided yet: %s", name, silent)
                self.silent = silent
                await trio.sleep(_PAUSE)
            except _FAILURES as error:
                status = error.status if isinstance(error, ApiError) else 0
                if status != 404:  # else it is gone
                    again = "again"
                if status not in (404, 409):  # 409: somebody else has changed it
                    log.warning("CertificateSigningRequest %s is not decided yet: %s", name, error)
                    if isinstance(error, FolderError):
                        self._opened, self.trouble = False, (str(error), error.hint)
                    await trio.sleep(_PAUSE)
            finally:
                self._turns.done(name, again)

    # one request

    async def _settle(self, name: str) -> None:
        raw: dict[str, Any] = await self._api.get(objects.request(name), dict[str, Any])
        request = msgspec.convert(raw, SigningRequest)
        if request.settled:
            return
        approved = request.condition("Approved") is not None
        try:
            spiffe, node, chain = await self._decide(request)
        except Denied as denied:
            # The API forbids to deny what somebody has approved by hand; it is not signed all the same.
            part, kind = ("status", "Failed") if approved else ("approval", "Denied")
            await self._conclude(raw, name, part, kind, denied.reason, denied.message)
            log.warning("CertificateSigningRequest %s was refused (%s): %s", name, denied.reason, denied.message)
            await self._tell(request, denied)
            return
        if not approved:
            raw = await self._conclude(raw, name, "approval", "Approved", "RunsThere", f"{spiffe} runs on node {node}")
        raw.setdefault("status", {})["certificate"] = b64encode(chain.encode()).decode()
        await self._api.replace(f"{objects.request(name)}/status", raw)
        log.info("signed %s for node %s", spiffe, node)

    async def _decide(self, request: SigningRequest) -> tuple[str, str, str]:
        """Return the SPIFFE ID, the node and the chain. Raise Denied, FolderError, ApiError, ApiUnreachable."""
        who = caller(request, self._namespace)
        what = asked(request)
        node = node_of(who, await self._pod(who.namespace, who.pod))
        if what.node not in ("", node):
            raise Denied("OtherNode", f"the request is for a certificate of node {what.node[:80]!r}, and {node} asks")
        pair = (node, what.spiffe)
        identity = workload_of(what.spiffe, self._trust_domain_now())
        if identity is not None:
            await self._check_runs(identity.namespace, identity.service_account, node)
        self._placed[pair] += 1
        try:
            sign = SignRequest(what.spiffe, what.pem)
            if elsewhere := self.authority.elsewhere():
                chain = await self._signed_elsewhere(request, node, sign, elsewhere, what.lifetime)
            else:
                async with self._steady:
                    issued = await trio.to_thread.run_sync(
                        self._sign, partial(self.authority.sign, node, sign, lifetime=what.lifetime)
                    )
                chain = issued.chain
        except AuthorityRefused as refusal:
            raise Denied("Refused", refusal.error) from refusal
        finally:
            self._placed[pair] -= 1
            if not self._placed[pair]:
                del self._placed[pair]
        return what.spiffe, node, chain

    async def _signed_elsewhere(
        self, request: SigningRequest, node: str, sign: SignRequest, who: bytes, lifetime: float | None
    ) -> str:
        """Return the chain that cert-manager gave. Raise AuthorityRefused, Denied, Silent, and what the API raises."""
        await trio.to_thread.run_sync(self.authority.check, node, sign)
        asked = min(self._lifetime, lifetime or self._lifetime)
        try:
            answer = await cert_manager.sign(self._api, self._namespace, who, sign.csr, asked, request)
        except cert_manager.Refused as refusal:
            self.silent = None
            raise Denied("IssuerRefused", str(refusal)) from refusal
        try:
            async with self._steady:
                issued = await trio.to_thread.run_sync(
                    self._sign, partial(self.authority.take_over, node, sign, who, answer.chain, lifetime)
                )
            self.silent = None
        except Unusable as error:
            if answer.root != self._seen.get(who):
                self._seen.pop(who, None)  # it has another root by now: the next read of the Secret asks
            message = f"what cert-manager signed is not given out: {error}"
            hint = "under another root nodes are waited for first: keep the issuer with the old one meanwhile, and name the new one beside it"
            self.silent = Silent(message, hint)
            raise Denied("IssuerWrong", message) from error
        return issued.chain

    def _sign(self, sign: Callable[[], _T]) -> _T:
        """Sign, if the ConfigMap has the roots that a node is to read with its certificate. Raise ApiUnreachable."""
        if self._published != self.authority.bundle().roots:
            raise ApiUnreachable(f"ConfigMap {self._namespace}/{objects.ROOTS} does not have the roots yet")
        return sign()

    def _trust_domain_now(self) -> str:
        return self.authority.trust().trust_domain

    def _allowed(self, node: str, spiffe: str) -> str:
        return "" if self._placed[node, spiffe] else f"{spiffe} was not found on node {node}"

    async def _check_runs(self, namespace: str, account: str, node: str) -> None:
        """Raise Denied unless a pod of the mesh with this service account runs on `node` now."""
        selector = (
            f"spec.nodeName={node},spec.serviceAccountName={account},status.phase!=Succeeded,status.phase!=Failed"
        )
        found: _Pods = await self._api.get(objects.pods(namespace), _Pods, {"fieldSelector": selector, "limit": "100"})
        running = running_there(found.items, namespace, account, node)
        if not running:
            message = f"no pod of service account {namespace}/{account} runs on node {node} now"
            raise Denied("NotOnThisNode", message)
        whole: _Namespace = await self._api.get(objects.namespace_of(namespace), _Namespace)
        around = _marks(whole.metadata)
        judged = [enrolment.of_pod(namespace, around, _marks(one.metadata)) for one in running]
        if not any(one.enrolled for one in judged):
            raise Denied("NotInTheMesh", f"{namespace}/{account} is not in the mesh on node {node}: {judged[0].why}")

    async def _pod(self, namespace: str, name: str) -> Pod | None:
        try:
            found: Pod = await self._api.get(objects.pod(namespace, name), Pod)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def _conclude(
        self, raw: dict[str, Any], name: str, part: str, kind: str, reason: str, message: str
    ) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now}
        status = raw.setdefault("status", {})
        status["conditions"] = [*(status.get("conditions") or ()), condition]
        return await self._api.replace(f"{objects.request(name)}/{part}", raw)

    async def _tell(self, request: SigningRequest, denied: Denied) -> None:
        """Write an Event about the pod that asked, if one of ours did."""
        try:
            who = caller(request, self._namespace)
        except Denied:
            return
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": who.namespace, "name": who.pod, "uid": who.uid}
        await self._events.tell(about, denied.reason, f"{request.metadata.name}: {denied.message}")


def _marks(metadata: objects.Metadata) -> enrolment.Marks:
    return enrolment.Marks(metadata.labels, metadata.annotations)
