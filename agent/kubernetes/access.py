"""Where an API server is, and how we prove who we are to it: a pod's token, or a kubeconfig.

Files are named, not kept: tokens, certificates and roots are renewed in place, so each is read again when it is due
(agent/kubernetes/api.py). What a kubeconfig asks for and edgemesh does not do is an error that names it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from agent.config.settings import Environment

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
K3S = Path("/etc/rancher/k3s/k3s.yaml")  # where k3s puts the kubeconfig of its administrator
MAX_BYTES = 1024 * 1024  # bytes of one file
_HINT = "a token or a client certificate works: kubectl create token edgemesh-agent --namespace edgemesh-system"
_S = TypeVar("_S", bound=Struct)


class AccessError(Exception):
    """There is no usable access to a cluster. `hint`: what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NoAccess(AccessError):  # noqa: N818 - nothing is out of order
    """Nothing names a cluster here."""


class Material(Struct, frozen=True):
    """Something secret or trusted: inline, or in a file that may be renewed."""

    inline: bytes = b""
    file: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.inline) or self.file is not None

    def __repr__(self) -> str:
        return f"<Material {self.file or f'inline, {len(self.inline)} bytes'}>"

    def read(self) -> bytes:
        """Return what it is now. Raise AccessError."""
        return self.inline if self.file is None else _read(self.file)


class Access(Struct, frozen=True):
    """How to reach one API server."""

    host: str
    port: int
    where: str  # who says so, for people: "this pod", or a kubeconfig
    prefix: str = ""  # path in front of every path: "" or "/clusters/one"
    plain: bool = False  # without TLS, on this machine only
    server_name: str = ""  # name that the server's certificate must have, if not `host`
    roots: Material = Material()  # PEM; none: those of the system
    token: Material = Material()
    certificate: Material = Material()  # PEM
    key: Material = Material()  # PEM
    namespace: str = "default"  # of the context, or of the pod
    files: tuple[Path, ...] = ()  # the kubeconfigs that say so; none: a pod's service account
    context: str = ""  # of these

    @property
    def place(self) -> str:
        """The address of the API server, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.plain else 'https'}://{host}:{self.port}{self.prefix}"


def in_cluster(host: str, port: str, folder: Path = SERVICE_ACCOUNT) -> Access:
    """Return the access that a pod has by its service account. Raise AccessError.

    `host`, `port`: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT of the environment.
    """
    token = folder / "token"
    if not host or not token.exists():
        what = f"there is no {token}" if host else "KUBERNETES_SERVICE_HOST is not set"
        raise AccessError(f"this is no pod with a service account: {what}", "--kubeconfig FILE names another access")
    try:
        number = int(port or "443")
    except ValueError as error:
        raise AccessError(f"KUBERNETES_SERVICE_PORT is no port: {port!r}") from error
    try:
        namespace = _read(folder / "namespace").decode("ascii", "replace").strip()
    except AccessError:
        namespace = ""
    return Access(
        host,
        number,
        "this pod's service account",
        roots=Material(file=folder / "ca.crt"),
        token=Material(file=token),
        namespace=namespace or "default",
    )


def chosen(given: str, variables: Environment, context: str = "", k3s: Path = K3S) -> Access:
    """Return the access that is meant: where kubectl looks, in its order, then k3s's own. Raise AccessError.

    `given`: the file that an option names, "" for none. Then KUBECONFIG, ~/.kube/config, the pod's service account and
    the file of k3s's administrator, of which the first that is there counts, also when it is out of order: nobody is
    led to another cluster by a file that cannot be read.
    """
    if given:
        return kubeconfig([Path(given)], context)
    if named := [Path(name) for name in variables.kubeconfig.split(":") if name]:
        there = [path for path in named if path.exists()]  # as kubectl does it
        return kubeconfig(there or named[:1], context)
    home = Path(os.path.expanduser("~/.kube/config"))
    if home.is_absolute() and home.exists():
        return kubeconfig([home], context)
    if variables.kubernetes_host:
        return in_cluster(variables.kubernetes_host, variables.kubernetes_port)
    if k3s.exists():
        return kubeconfig([k3s], context)
    raise NoAccess(
        f"no access to a cluster was found: KUBECONFIG is not set, there is no {home} and no {k3s}, and this is no pod",
        "name a kubeconfig: --kubeconfig FILE",
    )


class _Cluster(Struct, rename="kebab"):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""


class _User(Struct, rename="kebab"):
    token: str = ""
    token_file: str = field(name="tokenFile", default="")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    exec: dict[str, Any] | None = None
    auth_provider: dict[str, Any] | None = None
    username: str = ""
    impersonate: str = field(name="as", default="")


class _Context(Struct):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _Named(Struct):
    name: str = ""
    cluster: dict[str, Any] | None = None
    user: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


class _File(Struct, rename="kebab"):
    current_context: str = ""
    clusters: list[_Named] | None = None
    users: list[_Named] | None = None
    contexts: list[_Named] | None = None


def kubeconfig(paths: Sequence[Path], context: str = "") -> Access:
    """Return the access that kubeconfigs give. Raise AccessError.

    `context`: "" for the current one. Of several files the first that has a name says what it is, as with kubectl.
    """
    files = [(path, _load(path)) for path in paths]
    names = ", ".join(str(path) for path in paths)
    context = context or next((file.current_context for _, file in files if file.current_context), "")
    if not context:
        raise AccessError(f"{names}: no context is current", "kubectl config use-context NAME sets one")
    chosen, _ = _find(files, "context", context, names, _Context)
    cluster, cluster_from = _find(files, "cluster", chosen.cluster, names, _Cluster)
    user, user_from = _find(files, "user", chosen.user, names, _User) if chosen.user else (_User(), paths[0])
    if cluster.insecure_skip_tls_verify:
        raise AccessError(
            f"{cluster_from}: cluster {chosen.cluster} has insecure-skip-tls-verify: anybody could pass for its API server",
            "put the cluster's root into certificate-authority-data, and take that line away",
        )
    if cluster.proxy_url:
        raise AccessError(f"{cluster_from}: cluster {chosen.cluster} has a proxy-url, which edgemesh does not use")
    for present, what in (
        (user.exec is not None, f"from a program (exec: {(user.exec or {}).get('command', '?')})"),
        (user.auth_provider is not None, f"from a plug-in (auth-provider: {(user.auth_provider or {}).get('name')})"),
        (bool(user.username), "as a user name and password, which Kubernetes knows no more"),
        (bool(user.impersonate), "of somebody else (as)"),
    ):
        if present:
            raise AccessError(
                f"{user_from}: user {chosen.user} has its credentials {what}, which edgemesh does not use", _HINT
            )
    token = (
        Material(file=_beside(user_from, user.token_file)) if user.token_file else Material(user.token.strip().encode())
    )
    certificate = _material(user_from, "client-certificate", user.client_certificate, user.client_certificate_data)
    key = _material(user_from, "client-key", user.client_key, user.client_key_data)
    if bool(certificate) != bool(key):
        raise AccessError(
            f"{user_from}: user {chosen.user} has {'a certificate and no key' if certificate else 'a key and no certificate'}",
            _HINT,
        )
    host, port, prefix, plain = _server(cluster_from, cluster.server)
    return Access(
        host,
        port,
        f"{names}, context {context}",
        prefix=prefix,
        plain=plain,
        server_name=cluster.tls_server_name,
        roots=_material(
            cluster_from,
            "certificate-authority",
            cluster.certificate_authority,
            cluster.certificate_authority_data,
        ),
        token=token,
        certificate=certificate,
        key=key,
        namespace=chosen.namespace or "default",
        files=tuple(path.absolute() for path in paths),
        context=context,
    )


def _server(path: Path, url: str) -> tuple[str, int, str, bool]:
    """Return host, port, path in front of all paths, and whether it is plain HTTP. Raise AccessError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise AccessError(f"{path}: {url!r} is no address of a server: {error}") from error
    if parts.scheme not in ("https", "http") or not host or parts.username or parts.query or not url.isascii():
        raise AccessError(f"{path}: {url!r} is no address of a server", "https://HOST:PORT is one")
    plain = parts.scheme == "http"
    if plain and not _is_loopback(host):
        raise AccessError(f"{path}: {url} is not encrypted: anybody on the way could read the token", "use https://")
    return host, port or (80 if plain else 443), parts.path.rstrip("/"), plain


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _find(files: Iterable[tuple[Path, _File]], what: str, name: str, names: str, shape: type[_S]) -> tuple[_S, Path]:
    for path, file in files:
        for item in getattr(file, f"{what}s") or ():
            if item.name == name:
                try:
                    return msgspec.convert(getattr(item, what) or {}, shape), path
                except msgspec.ValidationError as error:
                    raise AccessError(f"{path}: {what} {name} cannot be read: {error}") from error
    raise AccessError(f"{names}: there is no {what} {name!r}", "kubectl config get-contexts shows what there is")


def _material(path: Path, what: str, file: str, inline: str) -> Material:
    """Return what is named by its file or written in base64; the latter counts, as with kubectl. Raise AccessError."""
    if inline:
        try:
            return Material(base64.b64decode(inline, validate=True))
        except (binascii.Error, ValueError) as error:
            raise AccessError(f"{path}: {what}-data is no base64") from error
    return Material(file=_beside(path, file)) if file else Material()


def _beside(path: Path, name: str) -> Path:
    return path.parent / name


def _load(path: Path) -> _File:
    import yaml  # not for a pod, which has no kubeconfig

    text = _read(path)
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
        return msgspec.convert(data if data is not None else {}, _File)
    except msgspec.ValidationError as error:
        raise AccessError(f"{path}: is no kubeconfig: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)  # without the text around it, which may be a secret
        raise AccessError(f"{path}: is not valid YAML{f', line {mark.line + 1}' if mark else ''}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AccessError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise AccessError(f"{path}: is larger than {MAX_BYTES // 1024} KiB")
    return data
