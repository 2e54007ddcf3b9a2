"""One module a command. They know the command line and the terminal; the work is done elsewhere."""
