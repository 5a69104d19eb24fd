"""Builders, fakes and contract suites, shipped so that extenders can test what they add.

`builders` makes jobs, checkpoints, reports and whole worlds in a line; `fakes` holds a journal
in memory, a clock that stands still and a cluster of obedient hosts, so that the engine can be
driven without Dask; `contracts` says what every `Journal` and every `World` must keep, and
`store_contract` what every `ObjectStore` must; `s3` is a server to try one against; `faults`
are disks that fail at any call, and what a power loss may leave of a store;
`entries` are light rank processes for the real supervisor. May import anything below
`resilient_nb.notebook`; nothing of the package imports it.
"""
