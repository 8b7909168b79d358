"""Matplotlib figures, each built from tables or arrays and returned as a Figure."""
