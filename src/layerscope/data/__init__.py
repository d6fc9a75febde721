"""Texts, labelled tables and views of texts: everything that is read before a model runs."""
