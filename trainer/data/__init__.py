"""Synthetic price data, and the script that makes it."""
