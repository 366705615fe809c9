"""Secrets by name from an API server: real sockets, and what is asked for, to the letter."""

import base64

import pytest
import trio
import trio.testing

from agent.gateway.content import Ref
from agent.gateway.kept import Kept
from agent.gateway.secrets import Secrets, binding
from tests.agent.kubernetes.fake import api_of, serving, status

TLS = Ref("Secret", "shop", "tls")


def secret(version, **data):
    coded = {name.replace("_", "."): base64.b64encode(value).decode() for name, value in data.items()}
    return {"metadata": {"name": "tls", "resourceVersion": version}, "type": "kubernetes.io/tls", "data": coded}


class Cluster:
    """One Secret; `now` is what GET answers: an object, or a status. Events of its watches come through `tell`."""

    def __init__(self):
        self.now = secret("7", tls_crt=b"one")
        self.send, self.events = trio.open_memory_channel(100)

    async def serve(self, asked, answer):
        if asked.query.get("watch"):
            if "code" in self.now and self.now["code"] == 403:
                await answer.send(403, self.now)
                return
            await answer.begin()
            async for type, object in self.events:
                if type == "END":
                    await answer.end()
                    return
                await answer.event(type, object)
        elif "code" in self.now:
            await answer.send(self.now["code"], self.now)
        else:
            await answer.send(200, self.now)


class Told:
    def __init__(self, secrets, ref=TLS):
        self.secrets, self.ref = secrets, ref
        self.seen = []
        self._event = trio.Event()

    def __call__(self):
        self.seen.append(self.secrets.known(self.ref))
        self._event.set()
        self._event = trio.Event()

    async def until(self, number):
        with trio.fail_after(10):
            while len(self.seen) < number:
                await self._event.wait()
        return self.seen[number - 1]


async def test_a_secret_is_read_and_followed_by_its_name_alone():
    cluster = Cluster()
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0)
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        assert (await told.until(1)).content == {"tls.crt": b"one"}
        await cluster.send.send(("MODIFIED", secret("8", tls_crt=b"two")))
        assert (await told.until(2)).content == {"tls.crt": b"two"}
        await cluster.send.send(("DELETED", secret("9", tls_crt=b"two")))
        assert (await told.until(3)).why == "it does not exist"
        await cluster.send.send(("ADDED", secret("10", tls_crt=b"three")))
        assert (await told.until(4)).content == {"tls.crt": b"three"}
        nursery.cancel_scope.cancel()
    get, watch = server.asked[:2]
    assert (get.method, get.path, get.query) == ("GET", "/api/v1/namespaces/shop/secrets/tls", {})
    assert watch.path == "/api/v1/namespaces/shop/secrets"
    assert watch.query == {
        "watch": "1",
        "fieldSelector": "metadata.name=tls",
        "timeoutSeconds": "300",
        "resourceVersion": "7",
    }


async def test_a_missing_right_names_the_binding_that_gives_it_and_is_taken_up_when_it_comes():
    cluster = Cluster()
    whole, cluster.now = cluster.now, status(403, "Forbidden", "secrets is forbidden")
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: -0.499)  # looks again after 30 ms
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        refused = await told.until(1)
        assert (refused.content, refused.why) == (None, "edgemesh may not read it")
        assert refused.hint == binding(TLS)
        assert "--namespace shop --clusterrole edgemesh-gateway-certificates" in refused.hint
        cluster.now = whole
        assert (await told.until(2)).content == {"tls.crt": b"one"}
        nursery.cancel_scope.cancel()


async def test_a_secret_that_is_not_there_is_waited_for():
    cluster = Cluster()
    cluster.now = status(404, "NotFound")
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0)
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        assert (await told.until(1)).why == "it does not exist"
        await cluster.send.send(("ADDED", secret("8", tls_crt=b"new")))
        assert (await told.until(2)).content == {"tls.crt": b"new"}
        nursery.cancel_scope.cancel()
    assert "resourceVersion" not in server.asked[1].query


async def test_a_server_that_is_away_or_refuses_withdraws_nothing():
    cluster = Cluster()
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0)
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        await told.until(1)
        cluster.now = status(403, "Forbidden")
        asked = len(server.asked)
        server.cut()
        with trio.fail_after(10):
            while len(server.asked) < asked + 1:
                await trio.sleep(0.05)
        assert secrets.known(TLS).content == {"tls.crt": b"one"}
        assert len(told.seen) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("data", [{"tls.crt": "not base64!"}, {"tls.crt": 7}])
async def test_an_answer_that_cannot_be_read_is_no_certificate(data):
    cluster = Cluster()
    cluster.now["data"] = data
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0)
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        known = await told.until(1)
        assert known.content is None
        assert known.why in ("its data is not in base64", "the API server's answer cannot be read")
        nursery.cancel_scope.cancel()


async def test_what_is_wanted_no_longer_is_forgotten_and_its_watch_ends():
    cluster = Cluster()
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0)
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        await told.until(1)
        with trio.fail_after(10):
            while len(server.asked) < 2:
                await trio.sleep(0.01)
        secrets.want(frozenset())
        assert secrets.known(TLS).content is None
        nursery.cancel_scope.cancel()


async def test_a_config_map_is_plain_text():
    async def serve(asked, answer):
        await answer.send(200 if "watch" not in asked.query else 500, {"metadata": {}, "data": {"ca.crt": "roots"}})

    roots = Ref("ConfigMap", "shop", "roots")
    async with serving(serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0)
        secrets.want(frozenset({roots}))
        told = Told(secrets, roots)
        nursery.start_soon(secrets.run, told)
        assert (await told.until(1)).content == {"ca.crt": b"roots"}
        nursery.cancel_scope.cancel()
    assert server.asked[0].path == "/api/v1/namespaces/shop/configmaps/roots"


async def test_a_start_without_the_api_server_has_what_was_read_before(tmp_path):
    cluster = Cluster()
    for leads in (False, True):
        async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
            secrets = Secrets(api_of(server), lambda: 0.0, Kept(tmp_path), lambda leads=leads: leads)
            secrets.want(frozenset({TLS}))
            told = Told(secrets)
            nursery.start_soon(secrets.run, told)
            await told.until(1)
            nursery.cancel_scope.cancel()
        api = api_of(server)  # it is gone
        again = Secrets(api, lambda: 0.0, Kept(tmp_path))
        again.want(frozenset())  # the first snapshot of a start may name nothing yet
        again.want(frozenset({TLS}))
        assert again.known(TLS).content == ({"tls.crt": b"one"} if leads else None)  # who does not lead writes nothing


async def test_what_was_deleted_is_not_kept(tmp_path):
    cluster = Cluster()
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0, Kept(tmp_path))
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        await told.until(1)
        await cluster.send.send(("DELETED", secret("9")))
        await told.until(2)
        nursery.cancel_scope.cancel()
    assert Kept(tmp_path).load() == {}


async def test_what_nobody_wants_any_more_is_not_kept(tmp_path):
    cluster = Cluster()
    async with serving(cluster.serve) as server, trio.open_nursery() as nursery:
        secrets = Secrets(api_of(server), lambda: 0.0, Kept(tmp_path))
        secrets.want(frozenset({TLS}))
        told = Told(secrets)
        nursery.start_soon(secrets.run, told)
        await told.until(1)
        assert Kept(tmp_path).load() != {}
        secrets.want(frozenset())
        await trio.testing.wait_all_tasks_blocked()
        assert Kept(tmp_path).load() == {}
        nursery.cancel_scope.cancel()
