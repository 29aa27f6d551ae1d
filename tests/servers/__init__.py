"""Real servers: installed at a pinned version, started on loopback, and put through the same 23 steps.

One module a server says how it is installed and started; ``steps`` holds what is done with each,
``counting`` the proxy that counts what a server was asked. ``python -m tests.servers`` runs them.
"""
