"""What listeners name becomes certificates of the data plane: renewed, broken, gone, too many."""

import time

from agent.gateway.content import MOST, Followed, Ref
from agent.gateway.keeper import Keeper, named_by
from nodeproxy.tls.certificates import Certificates
from policy.gateway import ClientCheck, Listener

TLS = Ref("Secret", "shop", "tls")
ROOTS = Ref("ConfigMap", "shop", "roots")


class Holder:
    def __init__(self):
        self.refs = frozenset()
        self.all = {}

    def want(self, refs):
        self.refs = refs

    def known(self, ref):
        return self.all.get(ref, Followed())

    async def run(self, told):
        raise NotImplementedError


def listener(*certificates, roots=()):
    clients = ClientCheck(roots) if roots else None
    return Listener("shop/front", "web", 443, "HTTPS", "Gateway shop/front", certificates=certificates, clients=clients)


def pair(mint, **more):
    made = mint.credentials(dns=("www.shop.example",), **more)
    return Followed({"tls.crt": made.chain, "tls.key": made.key}, "")


def keeper(holder):
    held = Certificates()
    return Keeper(holder, held, time.time), held


def told(keeper):
    return [(problem.severity, problem.object, problem.message) for problem in keeper.problems]


def test_what_a_listener_names_is_followed_and_given_to_the_data_plane(mint):
    holder = Holder()
    one, held = keeper(holder)
    one.follow([listener("shop/tls", roots=("ConfigMap shop/roots",))])
    assert holder.refs == {TLS, ROOTS}
    assert told(one)[0] == (
        "error",
        "Gateway shop/front, listener web",
        "Secret shop/tls cannot be used: it was not read yet",
    )
    holder.all = {TLS: pair(mint), ROOTS: Followed({"ca.crt": mint.root.pem}, "")}
    one.take()
    assert held.choose(("shop/tls",), "www.shop.example").hosts == ("www.shop.example",)
    assert held.cas(("ConfigMap shop/roots",), required=True).roots == mint.root.pem
    assert told(one) == []


def test_a_renewed_certificate_that_cannot_be_used_leaves_the_one_before(mint):
    holder = Holder()
    one, held = keeper(holder)
    holder.all[TLS] = before = pair(mint)
    one.follow([listener("shop/tls")])
    broken = Followed({**before.content, "tls.key": pair(mint).content["tls.key"]}, "")
    holder.all[TLS] = broken
    one.take()
    assert held.choose(("shop/tls",), "").key == before.content["tls.key"]
    ((severity, _, message),) = told(one)
    assert severity == "error"
    assert message.endswith("the one before is presented on")
    one.follow([listener("shop/tls")])  # another snapshot changes nothing of that
    assert told(one) == [(severity, "Gateway shop/front, listener web", message)]
    holder.all[TLS] = renewed = pair(mint)
    one.take()
    assert held.choose(("shop/tls",), "").key == renewed.content["tls.key"]
    assert told(one) == []


def test_a_secret_that_is_gone_takes_its_certificate_with_it(mint):
    holder = Holder()
    one, held = keeper(holder)
    holder.all[TLS] = pair(mint)
    one.follow([listener("shop/tls")])
    holder.all[TLS] = Followed(None, "it does not exist")
    one.take()
    assert held.choose(("shop/tls",), "") is None
    holder.all[TLS] = Followed({"tls.crt": b"", "tls.key": b""}, "")
    one.take()
    assert held.choose(("shop/tls",), "") is None


def test_a_certificate_that_ends_soon_is_a_warning(mint):
    holder = Holder()
    one, _ = keeper(holder)
    holder.all[TLS] = pair(mint, not_before=time.time() - 80 * 86400, not_after=time.time() + 3 * 86400)
    one.follow([listener("shop/tls")])
    ((severity, _, message),) = told(one)
    assert severity == "warning"
    assert "ends in" in message


def test_without_a_place_to_read_from_the_problem_says_so():
    one, _ = keeper(None)
    one.follow([listener("shop/tls")])
    (problem,) = one.problems
    assert problem.hint == "set gateway.certificates in NodeConfig"


def test_more_than_are_followed_are_told():
    holder = Holder()
    one, _ = keeper(holder)
    one.follow([listener(*(f"shop/tls-{number}" for number in range(MOST + 3)))])
    assert len(holder.refs) == MOST
    assert "3 certificates more than" in told(one)[-1][2]


def test_roots_that_cannot_be_read_let_nobody_in(mint):
    holder = Holder()
    one, held = keeper(holder)
    holder.all[ROOTS] = Followed({"ca.crt": b"no roots"}, "")
    one.follow([listener(roots=("ConfigMap shop/roots",))])
    assert held.cas(("ConfigMap shop/roots",), required=True) is None
    assert held.cas((), required=True) is None


def test_what_a_listener_names():
    assert list(named_by(listener("a/b", roots=("ConfigMap c/d", "Secret e/f")))) == [
        Ref("Secret", "a", "b"),
        Ref("ConfigMap", "c", "d"),
    ]
