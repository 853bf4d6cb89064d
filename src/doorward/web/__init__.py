"""The pages that people see from authenticate and proxy: one frame, one look, one set of headers.

What does not belong here: routes and what a page says; and the pages of authorize, which carries no template engine.
"""
