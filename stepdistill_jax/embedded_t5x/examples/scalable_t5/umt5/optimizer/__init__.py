"""Gin files of T5X's names; a package so that wheels carry them."""
