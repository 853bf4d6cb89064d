"""Directories: who belongs to which group, and who no longer counts, brought in from where a company keeps it.

    worker ── lease ─► source (port) ─► roster ─► plan: what differs from the records ─► batches ─► the feed
                                                                                └─► sessions of whoever went inactive
    scim   ── the same plan, one request at a time, for directories that push

A process of its own, with the directories' credentials and no others. A source that fails half way writes nothing: what was
known stays, grows old, and then is unknown.

What does not belong here: what a group may do (policy), and how an entry and a person find each other
(``doorward.identity.directory``).
"""
