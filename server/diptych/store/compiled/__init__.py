"""The compiled lane: a handler's body, unchanged, as machine code over the same kernels.

Numba is taught the database, its tables, rows, indexes and text as value types. All its
half-private hooks are used in this package and nowhere else, and a contract test names the one
that breaks. Compiled is a subset: what compiles gives the interpreted result, or the interpreter is
asked.

`types` and `values` say what values are, `rows`, `tables` and `indexes` what handlers do with them;
`exact`, `comparisons`, `records` and `rejections` replace operators, calls and raises; `source`
refuses what never compiles; `pipeline` puts that into Numba's compiler; `shapes` and `handlers`
make callables of it, over `native`, which reaches words and kernels.
"""
