"""The proxy plane: Envoy's configuration and life, and our few pages on protected hosts.

    Settings ──resources──► Snapshot ──gate──► publisher ──xds──► Envoy (envoy/)
                                                  ▲                  │ /.doorward/…
                                     authorize's generation          ▼
                                                               endpoints/ ──► authenticate

    resources/   pure functions from settings to Envoy's messages
    gate         the allow-list that every snapshot must pass before Envoy sees it
    xds/         snapshots and the delta discovery protocol
    publisher    the order of a change: gate, authorize first, then Envoy; isolation of a host that Envoy refuses
    envoy/       the binary, its bootstrap, its process
    endpoints/   callback, who am I, sign-out, key set

What does not belong here: decisions (authorize), sign-in and tokens (authenticate), records (databroker). The plane
has no state: everything is made again from the configuration and the keys.
"""
