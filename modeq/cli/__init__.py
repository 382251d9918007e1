"""The command line: a thin shell over the public functions, a module for each command."""
