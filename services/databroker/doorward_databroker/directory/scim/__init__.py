"""SCIM 2.0 (RFC 7643, 7644): directories that push.

    listener ─► app: whose token? which directory? ─► protocol (scim2-server) ─► storage
    storage    everything in memory, for filters and pages; each change is one fenced write of
                 the resource  +  what it means for policy (``members``): people, groups, their numbers
    keeper     holds the lease of a directory; whoever does not hold it answers 503, and clients come again

What does not belong here: what a group may do.
"""
