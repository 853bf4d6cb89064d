import asyncio

import structlog.testing

from doorward.telemetry.background import watched


async def test_work_that_fails_is_told_of_and_counted():
    async def fails() -> None:
        raise LookupError("a bug")

    failures: list[None] = []
    with structlog.testing.capture_logs() as logs:
        task = watched(asyncio.create_task(fails()), "counting sheep", lambda: failures.append(None))
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert [(line["what"], line["error"]) for line in logs] == [("counting sheep", "a bug")]
    assert len(failures) == 1


async def test_work_that_ends_or_is_given_up_is_nobodys_concern():
    failures: list[None] = []
    with structlog.testing.capture_logs() as logs:
        done = watched(asyncio.create_task(asyncio.sleep(0)), "done", lambda: failures.append(None))
        given_up = watched(asyncio.create_task(asyncio.sleep(60)), "given up", lambda: failures.append(None))
        await done
        given_up.cancel()
        await asyncio.wait({given_up})
        await asyncio.sleep(0)
    assert logs == []
    assert not failures
