"""The measures: pure functions of arrays, and the catalogue of what is true of each."""
