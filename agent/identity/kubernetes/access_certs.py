"""Certificates for clients outside the mesh: each AccessCert has a Secret, which is made, and made anew in time.

Theory of operation. No Secret is ever read: to read one by its name, RBAC would have to let us read others too. We are
let to create and to update Secrets in namespaces that a person has opened for it (ClusterRole edgemesh-access-certs),
and know our own by the UID that the API server gave when we made it, which the AccessCert's status keeps. An update
that carries a UID changes that very object or nothing, and a creation changes nothing that is there: so what somebody
else made is never overwritten. An update as a trial (dryRun) tells whether the Secret is still there.

A certificate is made anew when a node would renew its own (node/lifecycle.py), when another name is asked for, and whenever the roots of
the mesh or their issuer change, since `ca.crt` can be replaced only together with the key. The step of a rotation after
which the new root signs waits until every Secret has that root (`behind`).
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
import trio
from msgspec import Struct, field

from agent.identity.authority.authority import Client
from agent.identity.folder import FolderError
from agent.identity.kubernetes import objects, outside
from agent.identity.kubernetes.authority import ClusterAuthority
from agent.identity.kubernetes.outside import Wanted
from agent.identity.kubernetes.requests import Denied
from agent.identity.node.lifecycle import renewal
from agent.identity.protocol import AuthorityRefused
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from agent.kubernetes.events import Events
from agent.kubernetes.reflector import Reflector
from policy.enrolment import Marks

log = logging.getLogger("edgemesh.authority")

VERSION, PLURAL = "policy.openservicemesh.io/v1alpha1", "accesscerts"
LOOK = 2.0  # seconds between two looks at what is due
EACH = 0.2  # seconds between two AccessCerts
CHECK = 300.0  # seconds after which a Secret is looked for, and a refusal thought over
AGAIN = 10.0  # seconds after a failure of the API
REST = 30.0  # seconds between two certificates of one AccessCert, however often it is changed
ABSENT = 60.0  # seconds until the kind is looked for again where it is not served
MOST = 1000  # AccessCerts that are served, by their names
RIGHT = "edgemesh-access-certs"  # ClusterRole
_DRY = {"dryRun": "All"}
_FAILURES = (ApiError, ApiUnreachable, FolderError, msgspec.MsgspecError)


class _Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Listed(Struct, frozen=True):
    metadata: _Meta = _Meta()


class _Secret(Struct, frozen=True):
    name: str = ""
    uid: str = ""


class _Status(Struct, frozen=True, rename="camel"):
    conditions: tuple[dict[str, Any], ...] = ()
    secret: _Secret = _Secret()
    made: str = ""  # digest of what the certificate was made from
    roots: str = ""  # digest of the roots in ca.crt
    not_before: str = ""  # RFC 3339
    not_after: str = ""


class _Metadata(Struct, frozen=True, rename="camel"):
    uid: str = ""
    generation: int = 0
    deletion_timestamp: str = ""


class _Object(Struct, frozen=True):
    metadata: _Metadata = _Metadata()
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")


class _Namespace(Struct):
    metadata: objects.Metadata = field(default_factory=objects.Metadata)


class _Roots(Struct, frozen=True):
    """The roots of the mesh, and who signs, as digests."""

    roots: str
    issuer: str
    trust_domain: str


class AccessCerts:
    """The Secrets of a cluster's AccessCerts. `run` while the lease is ours; each begins with nothing known.

    `has_workloads`: whether policy has Workloads in a namespace.
    """

    def __init__(
        self,
        api: ApiServer,
        authority: ClusterAuthority,
        events: Events,
        clock: Callable[[], float],
        has_workloads: Callable[[str], bool] = lambda _: False,
        namespace: str = objects.NAMESPACE,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._authority = authority
        self._events = events
        self._clock = clock
        self._has_workloads = has_workloads
        self._due: dict[str, float] = {}  # by key: when it is looked at next, in trio's time
        self._given: dict[str, tuple[str, float]] = {}  # by key: digest of the roots in its Secret, and its end
        self._secrets: dict[str, _Secret] = {}  # by key: what was written and the status may not say yet
        self._made_at: dict[str, float] = {}
        self._looked: set[str] = set()  # keys of which it is known what was given
        self._standing: _Roots | None = None
        self._known = trio.Event()  # whether all were listed
        self._woken = trio.Event()
        self.trouble = ""  # why an AccessCert is not served just now
        self.made = 0

    def __repr__(self) -> str:
        return f"<AccessCerts {len(self._due)}, {self.made} made>"

    async def run(self) -> None:
        """Look and write until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            await self._known.wait()
            while True:
                self._woken = trio.Event()
                standing = await self._now()
                if standing != self._standing:
                    self._standing = standing
                    self._due = dict.fromkeys(self._due, 0.0)
                if standing is not None:
                    for key in sorted(key for key, due in self._due.items() if due <= trio.current_time()):
                        await self._one(key, standing)
                        await trio.sleep(EACH)
                with trio.move_on_after(LOOK):
                    await self._woken.wait()

    def behind(self) -> list[str]:
        """Return, for people, whose Secrets do not have the roots of now. Raise FolderError."""
        if not self._known.is_set():
            return ["AccessCerts, which are not known yet"]
        roots, now = _digest(self._authority.authority.bundle().roots), self._clock()
        late = {key for key, (held, end) in self._given.items() if held != roots and end > now}
        return [
            f"AccessCert {key}: its Secret does not have the new root yet"
            for key in sorted(late | (self._due.keys() - self._looked))
        ]

    # which there are

    async def _follow(self) -> None:
        reflector = Reflector(
            self._api, path_of(VERSION, PLURAL), msgspec.json.Decoder(_Listed).decode, self._heard, metadata_only=True
        )
        while True:
            try:
                await reflector.run()
            except ApiError:  # the kind is not served
                self._heard([(key, None) for key in self._due], True)
                await trio.sleep(ABSENT)

    def _heard(self, changes: Sequence[tuple[str, _Listed | None]], _: bool) -> None:
        for key, one in changes:
            if one is None:
                for known in (self._due, self._given, self._secrets, self._made_at):
                    known.pop(key, None)
                self._looked.discard(key)
            elif key in self._due or len(self._due) < MOST:
                self._due[key] = 0.0
            else:
                self.trouble = f"there are more than {MOST} AccessCerts, and the others get no certificate"
        self._known.set()
        self._woken.set()

    async def _now(self) -> _Roots | None:
        """Return the roots and who signs; None while nothing is signed."""
        try:
            bundle = await trio.to_thread.run_sync(self._authority.bundle_now)
        except _FAILURES:
            return None
        return _Roots(_digest(bundle.roots), bundle.issuer, bundle.trust_domain)

    # one of them

    async def _one(self, key: str, standing: _Roots) -> None:
        namespace, _, name = key.partition("/")
        path = path_of(VERSION, PLURAL, namespace, name)
        self._due[key] = float("inf")  # unless a change is told of meanwhile
        try:
            found: _Object = await self._api.get(path, _Object)
            try:
                pause = await self._settle(key, path, found, standing)
            except Denied as denied:
                await self._refuse(path, namespace, name, found, denied)
                pause = CHECK
            self._looked.add(key)
            self.trouble = ""
        except _FAILURES as error:
            pause = AGAIN
            if not (isinstance(error, ApiError) and error.status in (404, 409)):  # gone, or changed: the watch tells
                told = f"the certificate of AccessCert {key} cannot be looked after: {error}"
                if told != self.trouble:
                    log.warning("%s", told)
                self.trouble = told
        if key in self._due:
            self._due[key] = min(self._due[key], trio.current_time() + pause)

    async def _settle(self, key: str, path: str, found: _Object, standing: _Roots) -> float:
        """Make one what it should be. Return the seconds until it is to be looked at again.

        Raise Denied, ApiError, ApiUnreachable, FolderError.
        """
        if found.metadata.deletion_timestamp:
            return CHECK
        namespace, _, name = key.partition("/")
        status = _status(found)
        held = self._secrets.get(key) or status.secret
        end = _time(status.not_after)
        if held.uid:
            self._given[key] = status.roots, end
        wanted = outside.wanted(namespace, bytes(found.spec), standing.trust_domain)
        await self._check(namespace, wanted)
        made = _digest([*wanted.hosts, str(wanted.identity), wanted.secret, standing.roots, standing.issuer])
        ours = bool(held.uid) and held.name == wanted.secret and await self._is_there(namespace, name, found, held)
        left = renewal(_time(status.not_before), end, 0.0) - self._clock()
        if ours and status.made == made and left > 0:
            await self._say(path, found, "True", "Issued", _meaning(wanted))
            return min(CHECK, left)
        if (rest := self._made_at.get(key, -REST) + REST - trio.current_time()) > 0:
            return rest
        if not ours:
            if not _ready(status):  # what is not kept there could not be known again
                await self._say(path, found, "False", "Issuing", "the certificate is being made")
            await self._write(namespace, name, found, wanted.secret, None, "", dry=True)
        try:
            client = await self._authority.certify_client(f"AccessCert {key}", wanted.identity, wanted.hosts)
        except AuthorityRefused as refusal:
            raise Denied("Refused", f"{refusal.error}; {refusal.hint}" if refusal.hint else refusal.error) from refusal
        self._made_at[key] = trio.current_time()
        uid = await self._write(namespace, name, found, wanted.secret, client, held.uid if ours else "")
        self.made += 1
        self._secrets[key] = _Secret(wanted.secret, uid)
        roots = _digest(client.bundle.roots)
        if (roots, client.bundle.issuer) != (standing.roots, standing.issuer):
            made = ""  # the root has changed meanwhile: once more
        self._given[key] = roots, client.not_after
        await self._say(
            path,
            found,
            "True",
            "Issued",
            _meaning(wanted),
            secret={"name": wanted.secret, "uid": uid},
            made=made,
            roots=roots,
            serial=client.serial,
            notBefore=_date(client.not_before),
            notAfter=_date(client.not_after),
        )
        return CHECK

    async def _check(self, namespace: str, wanted: Wanted) -> None:
        """Raise Denied where a name is one of the mesh or of a Service, as the API server says now."""
        if wanted.identity is not None:
            around: _Namespace = await self._api.get(objects.namespace_of(namespace), _Namespace)
            outside.check_namespace(namespace, Marks(around.metadata.labels, around.metadata.annotations))
            if self._has_workloads(namespace):
                raise Denied("MeshWorkload", f"namespace {namespace} has Workloads: its service accounts are theirs")
        for other in wanted.not_namespaces:
            try:
                await self._api.get(objects.namespace_of(other), _Namespace)
            except ApiError as error:
                if error.status == 404:
                    continue
                raise
            raise Denied("ServiceName", f"a name that ends in .{other} may be one of a Service in namespace {other}")

    # the Secret

    async def _is_there(self, namespace: str, name: str, found: _Object, held: _Secret) -> bool:
        """Return whether the Secret that we made is there still. Raise Denied: another one is."""
        try:
            await self._write(namespace, name, found, held.name, None, held.uid, dry=True)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def _write(
        self, namespace: str, name: str, found: _Object, secret: str, client: Client | None, uid: str, dry: bool = False
    ) -> str:
        """Create the Secret, or with `uid` update that one. `dry`: only try. Return its UID.

        Raise Denied; ApiError (404: the one to be updated is gone), ApiUnreachable.
        """
        files = {"tls.crt": b"", "tls.key": b""}
        if client is not None:
            roots = "".join(f"{root.strip()}\n" for root in client.bundle.roots)
            files = {"tls.crt": client.chain.encode(), "tls.key": client.key, "ca.crt": roots.encode()}
        owner = {"apiVersion": VERSION, "kind": "AccessCert", "name": name, "uid": found.metadata.uid}
        metadata = {
            "name": secret,
            "labels": {"app.kubernetes.io/name": "edgemesh"},
            "annotations": {"edgemesh.io/access-cert": name},
            "ownerReferences": [owner],
            **({"uid": uid} if uid else {}),
        }
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": metadata,
            "data": {key: b64encode(value).decode() for key, value in files.items()},
        }
        method, path = (
            ("PUT", path_of("v1", "secrets", namespace, secret))
            if uid
            else ("POST", path_of("v1", "secrets", namespace))
        )
        try:
            answer = await self._api.request(method, path, _DRY if dry else None, body)
        except ApiError as error:
            if error.status == 409:
                raise Denied(
                    "SecretExists",
                    f"Secret {namespace}/{secret} was made by somebody else, and is not overwritten: delete it, or name another",
                ) from error
            if error.status == 403:
                if "cannot " not in error.message:  # a quota, or another controller of admission
                    raise Denied("NotAdmitted", error.message[:500]) from error
                raise Denied("NoRight", self._right(namespace, secret)) from error
            if error.status in (400, 422):
                raise Denied("Invalid", error.message[:500]) from error
            raise
        written: dict[str, Any] = msgspec.json.decode(answer.body)
        return str(written["metadata"].get("uid", ""))

    def _right(self, namespace: str, secret: str) -> str:
        return (
            f"the servers may not write Secret {namespace}/{secret}: kubectl --namespace {namespace} create rolebinding"
            f" {RIGHT} --clusterrole={RIGHT} --serviceaccount={self._namespace}:edgemesh-server lets them write Secrets"
            " there, and read none"
        )

    # what is said of it

    async def _refuse(self, path: str, namespace: str, name: str, found: _Object, denied: Denied) -> None:
        status = _status(found)
        ends = f"; what was given before ends at {status.not_after}" if status.not_after else ""
        if not await self._say(path, found, "False", denied.reason, f"{denied.message}{ends}"):
            return
        log.warning("AccessCert %s/%s: %s", namespace, name, denied.message)
        about = {
            "apiVersion": VERSION,
            "kind": "AccessCert",
            "namespace": namespace,
            "name": name,
            "uid": found.metadata.uid,
        }
        await self._events.tell(about, denied.reason, denied.message)

    async def _say(self, path: str, found: _Object, ready: str, reason: str, message: str, **fields: Any) -> bool:
        """Write the condition Ready, and fields of the status. Return whether something was new.

        Raise Denied: the definition of the kind keeps no status; ApiError, ApiUnreachable.
        """
        status = _status(found)
        before = _ready(status)
        condition = {
            "type": "Ready",
            "status": ready,
            "reason": reason,
            "message": message[:1024],
            "observedGeneration": found.metadata.generation,
        }
        if not fields and all(before.get(name) == value for name, value in condition.items()):
            return False
        since = before.get("lastTransitionTime") if before.get("status") == ready else None
        condition["lastTransitionTime"] = since or _date(self._clock())
        others = [one for one in status.conditions if one.get("type") != "Ready"][:50]
        written = await self._api.patch(f"{path}/status", {"status": {"conditions": [*others, condition], **fields}})
        if not (written.get("status") or {}).get("conditions"):
            raise ApiUnreachable(
                "the definition of AccessCert in this cluster keeps no status of ours: apply that of edgemesh's add-on"
            )
        return True


def _status(found: _Object) -> _Status:
    try:
        return msgspec.json.decode(found.status, type=_Status)
    except msgspec.MsgspecError:
        return _Status()  # as another mesh wrote it


def _ready(status: _Status) -> dict[str, Any]:
    """Return the condition Ready; {} if there is none."""
    return next((one for one in status.conditions if one.get("type") == "Ready"), {})


def _meaning(wanted: Wanted) -> str:
    if wanted.identity is not None:
        return f"Secret {wanted.secret} has a certificate of {wanted.identity}"
    return f"Secret {wanted.secret} has a certificate; it proves no identity of the mesh, whose workloads let nobody in by it"


def _digest(parts: Sequence[str]) -> str:
    return sha256(msgspec.json.encode(sorted(parts))).hexdigest()[:32]


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(said: str) -> float:
    try:
        return datetime.fromisoformat(said).timestamp()
    except ValueError:
        return 0.0
