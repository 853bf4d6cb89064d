"""No request that begins after `applied` is let in, whatever is killed or stopped meanwhile; a short history in every run.

By hand, also over a store that fails over and is cut: ``python bench/history.py --stage apart --seconds 600``.
"""

import secrets

import pytest
from tests.support.deployment import short_folder
from tests.support.echo import echo_server
from tests.support.history import Driver, History
from tests.support.site import signed_in, site
from tests.support.stages import OneMachine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]


async def test_s43_no_request_that_begins_after_applied_is_let_in():
    history = History(seed=secrets.randbits(32))
    with echo_server("live") as upstream, short_folder() as folder:
        routes = [
            {"name": "live", "from": "live", "to": f"http://127.0.0.1:{upstream.port}", "policy": signed_in()},
        ]
        with site(folder, routes) as made:
            driver = Driver(OneMachine(made), history)
            await driver.run(4.0, faults=False)
            await driver.run(12.0, faults=True)
    assert history.violations == [], f"seed {history.seed}: {history.faults}"
    assert history.lost == [], f"seed {history.seed}: {history.faults}"
    assert history.allowed > 20
    assert history.applied
