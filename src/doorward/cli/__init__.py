"""The command line: thin commands over the library, each loading only what it needs.

What does not belong here: anything that a test would want to call without a terminal.
"""
