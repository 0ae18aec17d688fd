"""Networks, and the gin files that size them."""
