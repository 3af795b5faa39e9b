"""The network as events: links, routes, flows that share links fairly, collectives as flows."""
