"""The few pages that authorize itself answers with: no template engine, every inserted text escaped."""

import html

from doorward.route.internal import SIGN_OUT_PATH, WHOAMI_PATH
from doorward.web.refusal_page import refusal_page


def page(
    title: str,
    paragraphs: tuple[str, ...],
    decision_id: str,
    who: str | None = None,
    remedies: tuple[str, ...] = (),
) -> str:
    """A small HTML page; every argument is text, not HTML. ``remedies`` are alternatives."""
    parts = "".join(f"<p>{html.escape(text)}</p>" for text in paragraphs)
    if remedies:
        heading = "What would let you in" if len(remedies) == 1 else "One of these would let you in"
        items = "".join(f"<li>{html.escape(text)}</li>" for text in remedies)
        parts += f"<h2>{heading}</h2><ul>{items}</ul>"
    signed_in = (
        f"<p>You are signed in as <strong>{html.escape(who)}</strong>.</p>"
        f'<ul class="links"><li><a href="{WHOAMI_PATH}">Who am I?</a></li>'
        f'<li><a href="{SIGN_OUT_PATH}">Sign out, to come back as somebody else</a></li></ul>'
        if who
        else ""
    )
    return refusal_page(title, parts + signed_in, "Decision", decision_id)
