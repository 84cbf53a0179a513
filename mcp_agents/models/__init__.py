"""From a virtual model name to a call with a price.

Names, choice and cost stand here; the wire to a provider is an adapter behind the kernel's `Model` port.
"""
