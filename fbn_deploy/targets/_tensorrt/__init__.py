"""One adapter for three packages with one API: ``tensorrt`` 10, ``tensorrt`` 11, ``tensorrt_rtx``.

Building runs in a process of its own (``builder.py`` speaks to ``worker.py``), because a builder
that runs out of memory, or meets a driver that it does not like, ends its process. Running happens
here (``session.py``), after the driver was asked, on ``cuda-bindings`` and without PyTorch.
"""
