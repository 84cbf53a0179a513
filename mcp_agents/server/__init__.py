"""The top floor: settings, the one composer, the MCP and HTTP doors, rendering, the program.

It composes and serves; what is true about agents and runs is decided below.
"""
