"""Trace a function of tensors once, rewrite its graph of operations, and replay it.

Here belongs what knows operations and graphs, and nothing that knows cells, models or regularizers. ``vmap`` and
``autograd`` decide anew at every call what each operation means; a trace has decided, and its passes then remove work.
"""
