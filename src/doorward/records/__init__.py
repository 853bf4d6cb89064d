"""Records as the planes use them.

    record    a record as a value, and its version
    client    the databroker's calls, typed
    replica   a consistent copy in memory, fed by Watch, that knows how fresh it is
    lease     a lease held while a piece of work runs

What does not belong here: how records are stored (the databroker's matter), and what a record means.
"""
