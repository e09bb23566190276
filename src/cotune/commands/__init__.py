"""The commands, one file for each kind. What is heavy is imported inside the command that needs it."""
