"""Beam graphs and the command line: wiring only."""
