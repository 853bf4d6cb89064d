"""A guard that stands still ends, and with it every stream that it could not cut."""

import asyncio
import threading
import time

from doorward_proxy.guard.watchdog import Watchdog


async def test_a_loop_that_stands_still_ends_the_process():
    ended = threading.Event()
    task = asyncio.create_task(Watchdog(still_seconds=0.3, end=ended.set).run())
    await asyncio.sleep(0)
    time.sleep(1.0)  # noqa: ASYNC251  # the loop stands still: that is what is tested
    assert ended.is_set()
    task.cancel()


async def test_a_loop_that_runs_is_left_alone():
    ended = threading.Event()
    task = asyncio.create_task(Watchdog(still_seconds=0.4, end=ended.set).run())
    await asyncio.sleep(1.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not ended.is_set()
