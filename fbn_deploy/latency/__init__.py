"""Latency: timed, recorded with its story, cached, profiled. Importing it loads no runtime."""
