"""The frame of a refusal that is a page: no template engine and no web framework, every inserted text escaped.

Authorize answers with it, and the proxy plane gives it to Envoy for what Envoy must refuse by itself.
"""

import functools
import html

from doorward.web.style import style, style_source

SECURITY_HEADERS = (
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)
"""What every refusal carries, whatever its form."""
UNAVAILABLE_TITLE = "Not available now"
UNAVAILABLE_TEXT = "Access cannot be decided at this moment. Try again soon."


@functools.cache
def content_security_policy() -> str:
    """The policy of these pages: the style sheet and nothing else."""
    return (
        f"default-src 'none'; style-src {style_source()}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def refusal_page(title: str, content: str, named: str, identifier: str) -> str:
    """A small HTML page.

    Args:
        title: text.
        content: HTML.
        named: what ``identifier`` is an id of, text.
        identifier: text; who is asked about the refusal finds it by this.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><style>{style()}</style></head><body><main class="refused">'
        f"<h1>{html.escape(title)}</h1>{content}"
        f'<p class="id">{html.escape(named)} <code>{html.escape(identifier)}</code></p></main></body></html>'
    )
