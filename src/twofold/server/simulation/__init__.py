"""Deterministic simulation of the server's request lifecycle: the real dispatcher, router, worker loop and
engine, under virtual time and faults."""
