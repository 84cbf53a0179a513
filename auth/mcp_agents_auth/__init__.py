"""Who is asking: token verification, and the embedded OAuth authorization server.

Ends at a `Principal`; what a principal may do is asked elsewhere. State lives in NATS through the
`PlatformSpace`, so that any replica can serve any step.
"""
