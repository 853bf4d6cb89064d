"""A changed configuration is compiled beside the running one, and other work goes on meanwhile."""

import asyncio

from tests.unit.authorize.builders import CONFIG, World, world

from doorward_authorize.snapshot import compile_in_slices, compile_snapshot

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
