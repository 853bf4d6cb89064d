"""The few pages that authorize itself answers with: no template engine, every inserted text escaped."""

import base64
import hashlib
import html

_STYLE = """\
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0;display:grid;min-height:100vh;place-items:center;
background:Canvas;color:CanvasText}
main{max-width:34rem;padding:2rem}
h1{font-size:1.5rem;margin:0 0 .75rem}
p{margin:0 0 .75rem}
code{font:.9rem ui-monospace,monospace;overflow-wrap:anywhere}
.quiet{opacity:.75;font-size:.9rem}
a{color:LinkText}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(title: str, paragraphs: tuple[str, ...], decision_id: str, who: str | None = None) -> str:
    """A small HTML page; every argument is text, not HTML."""
    parts = "".join(f"<p>{html.escape(text)}</p>" for text in paragraphs)
    signed_in = (
        f'<p class="quiet">You are signed in as {html.escape(who)}. <a href="/.doorward/sign_out">Sign out</a></p>'
        if who
        else ""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1>{parts}{signed_in}"
        f'<p class="quiet">Decision <code>{html.escape(decision_id)}</code></p></main></body></html>'
    )
