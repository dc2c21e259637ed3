"""Runtimes behind one protocol; each file imports its own runtime only when it is opened."""
