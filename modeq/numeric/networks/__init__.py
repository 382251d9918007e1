"""Networks that examples, tests and experiments train."""
