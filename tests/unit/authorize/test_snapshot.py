"""A changed configuration is compiled beside the running one, and other work goes on meanwhile."""

import asyncio
import weakref

from tests.unit.authorize.builders import CONFIG, World, world

from doorward_authorize.snapshot import compile_in_slices, compile_snapshot, let_go

__all__ = ["world"]


def many(count: int, group: str = "g") -> str:
    routes = "".join(
        f"  - name: r{number}\n    from: https://r{number}.example.com\n    to: http://127.0.0.1:9000\n"
        f"    policy: [{{allow: {{and: [{{groups: {{has: {group}{number}}}}}]}}}}]\n"
        for number in range(count)
    )
    return CONFIG[: CONFIG.index("routes:")] + "routes:\n" + routes


async def test_what_has_not_changed_is_not_compiled_again(world: World):
    before = compile_snapshot(world.read(CONFIG), None, 0.0)
    after = compile_snapshot(world.read(CONFIG.replace("has: admins", "has: others")), before, 1.0)
    assert after.routes["app"].policy is before.routes["app"].policy
    assert after.routes["admin"].policy is not before.routes["admin"].policy


async def test_a_route_that_has_not_changed_is_the_same_and_one_that_comes_back_is_removed_no_more(world: World):
    before = compile_snapshot(world.read(CONFIG), None, 0.0)
    changed = compile_snapshot(world.read(CONFIG.replace("has: admins", "has: others")), before, 1.0)
    assert changed.routes["app"] is before.routes["app"]
    without = compile_snapshot(world.read(CONFIG[: CONFIG.index("  - name: public")]), before, 1.0)
    assert without.routes["public"].removed_at == 1.0
    back = compile_snapshot(world.read(CONFIG), without, 2.0)
    assert back.routes["public"].removed_at is None


async def test_an_explanation_that_changes_is_part_of_the_next_snapshot(world: World):
    """It is no part of what a route reaches, and so not of its digest."""
    before = compile_snapshot(world.read(CONFIG), None, 0.0)
    after = compile_snapshot(world.read(CONFIG.replace("Ask for <admins>.", "Ask nobody.")), before, 1.0)
    assert after.routes["admin"].route.explanation == "Ask nobody."
    assert after.routes["admin"].policy is before.routes["admin"].policy


class Part:
    """Something that can be seen to go."""


async def test_what_a_snapshot_was_made_of_is_let_go_a_few_at_a_time(world: World):
    snapshot = compile_snapshot(world.read(many(20)), None, 0.0)
    assert len(snapshot.parts()) == 40
    parts: list[object] = [Part() for _ in range(200)]
    there = weakref.WeakSet(parts)
    task = asyncio.create_task(let_go(parts))
    longest, left = 0, len(there)
    while not task.done():
        await asyncio.sleep(0)
        longest, left = max(longest, left - len(there)), len(there)
    assert left == 0
    assert longest == 50


async def test_slices_give_the_same_and_let_others_run(world: World):
    settings = world.read(many(200))
    before = compile_snapshot(world.read(CONFIG), None, 0.0)
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    sliced = await compile_in_slices(settings, before, 1.0)
    done = True
    await running
    whole = compile_snapshot(settings, before, 1.0)
    assert sliced.routes.keys() == whole.routes.keys()
    assert [route.policy.digest for route in sliced.routes.values()] == [
        route.policy.digest for route in whole.routes.values()
    ]
    assert turns >= 40
