"""The stages of a study, each a function from its inputs to its outputs."""
