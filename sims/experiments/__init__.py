"""One file an experiment: a question, its simulation, its prediction, and the claims that compare them.

The contract is described in `sims.contract`; a new file here is found by the command line, the tests and the
book.
"""
