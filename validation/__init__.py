"""Runnable checks of claims, one script each; not part of the wheel."""
