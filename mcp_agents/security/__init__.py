"""Keys, secrets, redaction and the rule for outbound addresses.

Pure decisions and cryptography over kernel values; no storage of its own. The rooms above ask it;
below it is only the kernel.
"""
