"""The benchmark suite: Diptych beside its peers, on one machine, in one run, with a report.

`python -m bench --help` is its command line. `peers` are systems that run the exchange's logic,
`loads` put load on them, `sections` say what is measured, `report` writes it down.
"""
