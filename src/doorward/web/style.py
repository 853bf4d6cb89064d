"""The one style sheet of all pages of ours, and the source by which a content security policy allows it.

No template engine and no web framework is needed for it, so authorize's pages look like all others.
"""

import base64
import functools
import hashlib
from importlib import resources


@functools.cache
def style() -> str:
    """The text of the style sheet, for an inline ``<style>``."""
    return resources.files("doorward.web").joinpath("pages.css").read_text()


@functools.cache
def style_source() -> str:
    """What ``style-src`` must list for it: ``'sha256-…'``, so that no other inline style counts."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()}'"
