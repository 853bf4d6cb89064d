"""Decisions while Envoy, or its connections, are behind the configuration, or this authorizer is."""

from tests.unit.authorize.builders import CONFIG, World, passed, set_headers, status, world

from doorward_authorize.snapshot import REMOVED_SECONDS

__all__ = ["world"]


async def test_both_policies_count_while_envoy_asks_by_the_old_digest(world: World):
    old = world.evaluator.snapshot.routes["app"].route.digest
    opened = CONFIG.replace(
        "policy: [{allow: {and: [{authenticated_user: true}]}}]", "policy: [{allow: {or: [{accept: true}]}}]"
    ).replace("127.0.0.1:9000", "127.0.0.1:9999")
    world.reload(opened)
    assert status(await world.check(digest=old)) == 401
    assert passed(await world.check(digest=old, cookie=world.sign_in()))
    assert passed(await world.check())


async def test_the_new_policy_counts_too_while_envoy_asks_by_the_old_digest(world: World):
    """An edit that moves a route and closes it closes the old place as well, in whichever of several edits it was closed."""
    accept, closed = "[{allow: {or: [{accept: true}]}}]", "[{allow: {and: [{groups: {has: nobody}}]}}]"
    cookie, first = world.sign_in(host="public.example.com"), world.evaluator.snapshot.routes["public"].route.digest
    moved = CONFIG.replace("127.0.0.1:9002", "127.0.0.1:9992")
    world.reload(moved)
    assert passed(await world.check("public", digest=first, cookie=cookie))
    world.reload(CONFIG.replace("127.0.0.1:9002", "127.0.0.1:9993").replace(accept, closed))
    assert status(await world.check("public", digest=first, cookie=cookie)) == 403
    world.reload(CONFIG.replace("127.0.0.1:9002", "127.0.0.1:9994"))
    assert status(await world.check("public", digest=first, cookie=cookie)) == 403, "it was closed in between"
    assert passed(await world.check("public", cookie=cookie))


APP = CONFIG[CONFIG.index("  - name: app") : CONFIG.index("  - name: admin")]
EVERYBODY = "[{allow: {or: [{accept: true}]}}]"
SIGNED_IN = "[{allow: {and: [{authenticated_user: true}]}}]"
PART = f"  - name: part\n    from: https://app.example.com\n    prefix: /part\n    to: http://127.0.0.1:9000\n    policy: {SIGNED_IN}\n"
CARVED = CONFIG.replace(APP, PART + APP.replace(SIGNED_IN, EVERYBODY))
"""The host is opened, but for a part of it. To Envoy as it was, that part belongs to `app`."""


async def test_a_part_that_stays_closed_is_not_open_while_envoy_knows_of_no_part(world: World):
    old = world.evaluator.snapshot.routes["app"].route.digest
    world.reload(CARVED)
    assert status(await world.check(digest=old, path="/part")) == 401
    assert passed(await world.check(digest=old, path="/part", cookie=world.sign_in()))
    assert passed(await world.check(path="/other"))


async def test_nor_while_envoy_has_lost_a_part_that_this_authorizer_still_knows_of(world: World):
    new = world.evaluator.snapshot.routes["app"].route.digest
    behind = World(world.folder, CARVED)
    assert status(await behind.check(digest=new, path="/part")) == 503


async def test_an_old_place_gets_its_own_headers_and_nothing_that_is_for_the_new_one(world: World):
    old = world.evaluator.snapshot.routes["app"].route.digest
    cookie = world.sign_in()
    moved = APP.replace(":9000", ":9999").replace("x-who: email", "x-mail: email")
    moved += "    set_request_headers: {authorization: 'Bearer ${assertion}'}\n    extra_methods: [PROPFIND]\n"
    world.reload(CONFIG.replace(APP, moved))
    told = set_headers(await world.check(digest=old, cookie=cookie))
    assert told["x-who"] == "alice@example.com"
    assert not {"x-mail", "authorization"} & told.keys()
    assert set_headers(await world.check(cookie=cookie)).keys() >= {"x-mail", "authorization"}
    assert status(await world.check(digest=old, cookie=cookie, method="PROPFIND")) == 405
    assert passed(await world.check(cookie=cookie, method="PROPFIND"))


async def test_s03_what_another_route_sets_is_refused_where_a_listener_of_before_let_it_pass(world: World):
    """An old connection keeps its listener for a while, and its list of headers to delete. Both routes may share an upstream."""
    world.reload(CONFIG.replace("{x-who: email, x-groups: groups}", "{x-who: email, x-late: groups}"))
    assert status(await world.check("public", x_late="admins")) == 421
    assert passed(await world.check("public", x_groups="admins")), "nobody's any more"
    own = await world.check("app", cookie=world.sign_in(groups=frozenset({"eng"})), x_late="admins")
    assert set_headers(own)["x-late"] == "eng"


async def test_a_change_of_policy_alone_counts_at_once(world: World):
    world.reload(CONFIG.replace("groups: {has: admins}", "groups: {has: nobody}"))
    cookie = world.sign_in(host="admin.example.com")
    assert status(await world.check("admin", cookie=cookie)) == 403


async def test_a_removed_route_lives_on_for_a_moment_and_then_not(world: World):
    digest = world.evaluator.snapshot.routes["public"].route.digest
    world.reload(CONFIG[: CONFIG.index("  - name: public")])
    assert passed(await world.check("public", digest=digest))
    world.clock.advance(REMOVED_SECONDS + 1)
    assert status(await world.check("public", digest=digest)) == 503
