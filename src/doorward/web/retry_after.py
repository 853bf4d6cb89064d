"""When somebody who got 503 may come again."""

RETRY_AFTER_SECONDS = 5
"""About as long as a plane needs to start again. Clients that ask sooner add to what a busy one has to do."""
RETRY_AFTER = ("retry-after", str(RETRY_AFTER_SECONDS))
"""The header (RFC 9110, section 10.2.3)."""
