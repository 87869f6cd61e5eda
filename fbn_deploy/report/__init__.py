"""The HTML report of a run, from its directory alone. Needs neither PyTorch nor numpy.

``run.py`` reads what the directory holds, ``verdict.py`` judges it, ``sections/`` has a file for
each part of the page, ``page.py`` puts them together. Everything that is written goes through
``markup.py``, which escapes it.
"""
