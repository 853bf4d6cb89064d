"""The pages that people see: one frame, one look, one set of headers.

    style        the style sheet and its hash; also for authorize and the demo, which carry no template engine
    retry_after  what goes with 503; also for authorize
    pages        templates and headers, for authenticate and proxy

What does not belong here: routes and what a page says.
"""
