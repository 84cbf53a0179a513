"""The ground floor: the words of the house and its ports.

Values (ids, errors, principal, messages, events), the ports that adapters fill (store, log, queue,
bus, objects, model, toolset, egress, clock, faults), and `tenancy`, the only door to a tenant's data.
It knows no protocol, no broker and no provider; everything else stands above it.
"""
