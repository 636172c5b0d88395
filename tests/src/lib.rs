//! Whole-machine tests: the harness that the files beside it share.
