"""What is measured, a module a subject; `bench.suite.command` chooses among them."""
