"""settle.py, through build(): what fails its check, and the last good version that stays in force."""

from tests.policy.test_build import allowed, changed, made, raws


def test_a_dangling_reference_keeps_the_last_good_one_while_it_resolves():
    good = made(raws())
    dangling = changed(raws(), "TrafficTarget", rules=[{"kind": "HTTPRouteGroup", "name": "gone"}])
    kept = made(dangling, good.accepted)
    assert allowed(kept)
    assert any(p.severity == "error" and "gone" in p.message for p in kept.problems)
    assert not allowed(made(dangling))
    without = [raw for raw in dangling if raw.data["kind"] != "HTTPRouteGroup"]
    assert not allowed(made(without, kept.accepted))


def test_a_removed_route_grants_nothing_and_its_return_does():
    good = made(raws())
    without = made([raw for raw in raws() if raw.data["kind"] != "HTTPRouteGroup"], good.accepted)
    assert not allowed(without)
    assert allowed(made(raws(), without.accepted))


def test_a_bad_version_keeps_the_last_good_one():
    good = made(raws())
    assert allowed(good)
    bad = made(changed(raws(), "HTTPRouteGroup", matches=[{"name": "a", "pathRegex": "("}]), good.accepted)
    assert allowed(bad)
    (problem,) = [p for p in bad.problems if p.severity == "error"]
    assert problem.object == "HTTPRouteGroup shop/r"
    assert "last good" in problem.hint
    assert bad.accepted == good.accepted
    assert not allowed(made(changed(raws(), "HTTPRouteGroup", matches=[{"name": "a", "pathRegex": "("}])))
