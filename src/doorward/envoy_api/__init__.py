"""Envoy's API messages, generated from its published descriptors under a package of our own.

Only the proxy plane (configuration) and the authorize plane (checks) may import it.
"""
