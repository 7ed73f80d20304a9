"""The commands, a file for each group: each parses, calls one function, and says what came of it."""
