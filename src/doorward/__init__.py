"""Doorward: an identity-aware access proxy. This package is the library that all planes share.

What belongs here: the field's nouns (identity, route, policy), one package for each technical concern that
two planes need, and the command line. What does not: anything that one plane alone needs; that lives in
``doorward_<plane>``, which nobody imports.
"""

__version__ = "0.1.0"
