"""Imports and exports from the client's side: files, Arrow, and a server's system operations.

`importing` and `exporting` do the whole of it; `conversion` and `texts` go from Arrow to raw
columns, `writing` back. They need pyarrow, which is an extra.
"""
