"""Talking to OpenID providers, and believing nothing that they did not sign.

fetch          small JSON documents, with limits
metadata       discovery, compared with the configuration
key_sets       signing keys, refetched seldom
id_token       strict verification, without any I/O
relying_party  the code flow
claims         what a verified token says about a person
"""
