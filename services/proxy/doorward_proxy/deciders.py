"""Asks who does not run a configuration yet, of those who must before Envoy does."""

from doorward.errors import DoorwardError, UnavailableError
from doorward.rpc.planes import Plane
from doorward.runtime.reporter import Reporter, behind

MUST_KNOW = (Plane.AUTHORIZE, Plane.AUTHENTICATE)
"""Authorize decides each request of a new route, and authenticate signs people in for its host."""


class ReportedDeciders:
    """What the planes' reports to the databroker say."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    async def behind(self, generation: str) -> list[str]:
        """See ``publisher.Deciders.behind``."""
        try:
            processes = await self._reporter.report()
        except DoorwardError as error:
            raise UnavailableError(f"the databroker: {error}") from error
        return behind(processes, MUST_KNOW, generation)
