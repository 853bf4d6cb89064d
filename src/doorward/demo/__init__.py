"""The demo's surroundings: an identity provider and upstreams, for development on loopback and nothing else.

    configuration      an ordinary configuration file
    users              the demo's people and their published passwords
    identity_provider  a small OpenID provider that enforces PKCE
    upstreams          three sample applications

What does not belong here: anything that a deployment runs.
"""
