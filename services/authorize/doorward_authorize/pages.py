"""The few pages that authorize itself answers with: no template engine, every inserted text escaped."""

import functools
import html

from doorward.route.internal import SIGN_OUT_PATH, WHOAMI_PATH
from doorward.web.style import style, style_source


@functools.cache
def content_security_policy() -> str:
    """The policy of these pages: the style sheet and nothing else."""
    return (
        f"default-src 'none'; style-src {style_source()}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


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
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><style>{style()}</style></head><body><main class="refused">'
        f"<h1>{html.escape(title)}</h1>{parts}{signed_in}"
        f'<p class="id">Decision <code>{html.escape(decision_id)}</code></p></main></body></html>'
    )
