"""The Model Context Protocol: an agent's connectors as tools, over HTTP and over stdio.

    endpoint.py       POST /mcp, a small ASGI application; both protocol eras, no sessions
    stdio.py          the same messages as lines on stdin and stdout
    protocol.py       JSON-RPC and the two eras: what a message must hold, and its answer
    tools.py          which tools there are, and calling one; compact.py and single.py are the two sets
    results.py        results made for a model: forms, budgets, cursors, untrusted data marked as such
    agent.py          one agent's view of the service

It shares the execute path of the HTTP API: the same `target`, `plan` and `run`.
"""
