"""Charges of symmetries, their laws, and a running training measured against them."""
