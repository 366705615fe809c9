"""CHAPTERS: what traffic policies do, as data: the files of the watched folder, and what a client must then see.

Each chapter plays in the village (village.py). To add one: its manifests in manifests/, and a row here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from msgspec import Struct

NO_ANSWER = "none"  # in the place of a status: curl got no response


class Ask(Struct, frozen=True):
    """Calls of one host, one after the other. `want`: how many responses of each status, or of NO_ANSWER."""

    url: str
    want: Mapping[str, int]
    words: tuple[str, ...] = ()  # more arguments of curl; {certificates}: the folder that has those of Gateways
    who: str = "client"
    says: str = ""  # in each response
    served: Mapping[str, tuple[int, int]] = {}  # by server: how many requests reach it, at least and at most
    least: float = 0.0  # seconds that each call takes at least
    after: float = 0.0  # seconds that are waited before

    @property
    def times(self) -> int:
        return sum(self.want.values())

    def __str__(self) -> str:
        what = shlex.join(("curl", *self.words, self.url))
        return f"{self.who}: {what}{f' ({self.times} times)' if self.times > 1 else ''}"


class Scene(Struct, frozen=True):
    title: str
    files: tuple[str, ...]  # of manifests/, beside those of the chapter
    asks: tuple[Ask, ...]


class Chapter(Struct, frozen=True):
    about: str
    files: tuple[str, ...]  # of manifests/
    scenes: tuple[Scene, ...]


WEB, V1 = "http://web.shop", "http://web-v1.shop"
GATE = "http://10.71.0.1/"  # the node's address
_TLS = ("--resolve", "web.example:443:10.71.0.1", "--cacert", "{certificates}/shop/front/tls.crt")
_HOST = ("--header", "Host: web.example")
OUTSIDE = "http://10.71.0.34:14001/"
_MESH = ("chapter-web.yaml", "mesh-smi.yaml")
_TEN = (10, 10)
_NONE = (0, 0)

CHAPTERS: Mapping[str, Chapter] = {
    "canary": Chapter(
        "a new version for testers first, then for a share of all",
        _MESH,
        (
            Scene(
                "no route: both versions serve",
                (),
                (Ask(f"{WEB}/", {"200": 10}, served={"web-v1": (1, 9), "web-v2": (1, 9)}),),
            ),
            Scene(
                "who sends `x-canary: yes` gets v2, everybody else v1",
                ("canary-by-header.yaml",),
                (
                    Ask(f"{WEB}/", {"200": 10}, says="web-v1 GET /", served={"web-v1": _TEN, "web-v2": _NONE}),
                    Ask(
                        f"{WEB}/",
                        {"200": 10},
                        ("--header", "x-canary: yes"),
                        says="web-v2 GET /",
                        served={"web-v1": _NONE, "web-v2": _TEN},
                    ),
                ),
            ),
            Scene(
                "a fifth of all gets v2",
                ("canary-by-weight.yaml",),
                (Ask(f"{WEB}/", {"200": 40}, served={"web-v1": (20, 39), "web-v2": (1, 20)}),),
            ),
        ),
    ),
    "routes": Chapter(
        "a route redirects, rewrites paths and changes fields",
        _MESH,
        (
            Scene(
                "/old is redirected, /api is served as /v2, with a field for the server",
                ("routes.yaml",),
                (
                    Ask(f"{WEB}/old/page", {"301": 1}, served={"web-v1": _NONE, "web-v2": _NONE}),
                    Ask(f"{WEB}/old/page", {"200": 1}, ("--location",), says="GET /new/page"),
                    Ask(f"{WEB}/api/items", {"200": 2}, says="GET /v2/items\nx-edge: shop-1"),
                    Ask(f"{WEB}/other", {"200": 1}, says="GET /other"),
                ),
            ),
        ),
    ),
    "mirror": Chapter(
        "a new version gets copies of all requests, and nobody notices",
        _MESH,
        (
            Scene(
                "v1 serves, v2 gets a copy of each",
                ("mirror.yaml",),
                (
                    Ask(f"{WEB}/", {"200": 10}, says="web-v1 GET /", served={"web-v1": _TEN, "web-v2": _TEN}),
                    Ask(f"{WEB}/status/404", {"404": 5}, says="web-v1", served={"web-v1": (5, 5), "web-v2": (5, 5)}),
                ),
            ),
        ),
    ),
    "ingress": Chapter(
        "the node is a gateway for callers outside the mesh",
        (*_MESH, "gateway.yaml"),
        (
            Scene(
                "the node listens at port 80, and the servers of the mesh let nobody in",
                (),
                (
                    Ask(GATE, {"403": 2}, _HOST, who="outside", served={"web-v1": _NONE, "web-v2": _NONE}),
                    Ask(GATE, {"404": 1}, who="outside"),
                ),
            ),
            Scene(
                "an IngressBackend lets in who comes through the Gateway",
                ("gateway-admits.yaml",),
                (
                    Ask(GATE, {"200": 5}, _HOST, who="outside", says="web-v1 GET /", served={"web-v1": (5, 5)}),
                    Ask(
                        f"{GATE}new",
                        {"200": 5},
                        _HOST,
                        who="outside",
                        says="web-v2 GET /new",
                        served={"web-v2": (5, 5)},
                    ),
                    Ask(GATE, {"404": 1}, ("--header", "Host: other.example"), who="outside"),
                ),
            ),
            Scene(
                "the same over TLS, with HTTP/2",
                ("gateway-tls.yaml",),
                (
                    Ask("https://web.example/", {"200": 5}, (*_TLS, "--http2"), who="outside", says="web-v1 GET /"),
                    Ask("https://web.example/", {NO_ANSWER: 1}, _TLS[:2], who="outside"),
                ),
            ),
        ),
    ),
    "limits": Chapter(
        "a server is asked so many times an hour, and no more",
        _MESH,
        (
            Scene(
                "three an hour and a burst of two for v1; one report of v2",
                ("limits.yaml",),
                (
                    Ask(f"{V1}/", {"200": 5, "429": 3}, served={"web-v1": (5, 5)}),
                    Ask("http://web-v2.shop/reports/a", {"200": 1, "503": 2}, served={"web-v2": (1, 1)}),
                    Ask("http://web-v2.shop/other", {"200": 3}, served={"web-v2": (3, 3)}),
                ),
            ),
        ),
    ),
    "egress": Chapter(
        "what may leave the mesh",
        ("chapter-web.yaml",),
        (
            Scene(
                "as long as nothing is said, workloads call out",
                ("mesh-smi.yaml",),
                (Ask(OUTSIDE, {"200": 2}, says="outside GET /", served={"outside": (2, 2)}),),
            ),
            Scene(
                "enableEgress: false: nothing leaves the mesh",
                ("mesh-closed.yaml",),
                (
                    Ask(OUTSIDE, {NO_ANSWER: 2}, served={"outside": _NONE}),
                    Ask(f"{WEB}/", {"200": 1}),
                ),
            ),
            Scene(
                "an Egress lets one caller out to one host and port",
                ("mesh-closed.yaml", "egress.yaml"),
                (
                    Ask(OUTSIDE, {"200": 2}, says="outside GET /", served={"outside": (2, 2)}),
                    Ask(OUTSIDE, {NO_ANSWER: 1}, who="web-v1", served={"outside": _NONE}),
                    Ask("http://10.71.0.34:14002/", {"403": 1}),
                ),
            ),
        ),
    ),
    "retry": Chapter(
        "what fails is sent again, so many times and no more",
        ("chapter-web.yaml", "mesh-retry.yaml"),
        (
            Scene(
                "no Retry: a failure is told at once",
                (),
                (Ask(f"{V1}/status/503", {"503": 2}, served={"web-v1": (2, 2)}),),
            ),
            Scene(
                "three more attempts where the server answers 5xx or takes longer than half a second",
                ("retry.yaml",),
                (
                    Ask(f"{V1}/status/503", {"503": 2}, served={"web-v1": (8, 8)}),
                    Ask(f"{V1}/status/404", {"404": 2}, served={"web-v1": (2, 2)}),
                    Ask(f"{V1}/", {"200": 3}, served={"web-v1": (3, 3)}),
                    Ask(f"{V1}/slow/700", {"504": 1}, served={"web-v1": (4, 4)}, least=2.0),
                    Ask("http://web-v2.shop/status/503", {"503": 2}, served={"web-v2": (2, 2)}),
                ),
            ),
            Scene(
                "an HTTPRoute: two more attempts after 503, for all callers, by the server that was not asked",
                ("retry-route.yaml",),
                (
                    Ask(f"{WEB}/status/503", {"503": 4}, served={"web-v1": (4, 8), "web-v2": (4, 8)}),
                    Ask(f"{WEB}/status/500", {"500": 4}, served={"web-v1": (0, 4), "web-v2": (0, 4)}),
                ),
            ),
        ),
    ),
    "fault": Chapter(
        "calls are made late and broken, to see what their callers do",
        _MESH,
        (
            Scene(
                "/orders wait, /payments fail, /stock is answered by the mesh, the rest goes on",
                ("fault.yaml",),
                (
                    Ask(f"{WEB}/orders", {"200": 2}, says="GET /orders", least=0.7),
                    Ask(f"{WEB}/payments", {"503": 2}, served={"web-v1": _NONE, "web-v2": _NONE}),
                    Ask(f"{WEB}/stock", {"200": 2}, says="closed for stocktaking", served={"web-v1": _NONE}),
                    Ask(f"{WEB}/", {"200": 2}, says="GET /"),
                ),
            ),
        ),
    ),
    "breaker": Chapter(
        "a server that fails is left alone for a while",
        _MESH,
        (
            Scene(
                "five errors open the circuit, and after two seconds one request decides",
                ("breaker.yaml",),
                (
                    Ask(f"{V1}/status/503", {"503": 5}, served={"web-v1": (5, 5)}),
                    Ask(f"{V1}/", {"520": 5}, says="back soon", served={"web-v1": _NONE}),
                    Ask(f"{V1}/", {"200": 5}, served={"web-v1": (5, 5)}, after=2.5),
                ),
            ),
        ),
    ),
}
