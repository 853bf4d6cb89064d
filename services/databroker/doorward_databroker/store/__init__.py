"""Where records live.

port     what the databroker needs of a store
codec    sealing, bound to type, id and version
memory   the reference implementation
redis    Redis or Valkey
types    the record types, which of them are in the feed, and their indexes
"""
