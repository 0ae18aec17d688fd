"""The embedded benchmark from generation to report, in one command."""
