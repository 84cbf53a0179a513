"""Who may do what beyond scopes: a tenant's rules, decided by Cedar.

`rules` says what a rule is and turns it into a Cedar policy, `paths` compares paths in arguments, `engine` decides,
`book` stores rules and their versions. Above: the gates and the governance plugin.
"""
