"""ASGI middleware: what holds for all requests, whatever their route."""
