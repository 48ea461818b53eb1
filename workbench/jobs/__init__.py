"""Threads that read files, and processes that are started: they touch no widget, and speak by posting messages."""
