"""Numbers of the tokens that fill rows and end sentences: what data of pairs and models that translate agree on."""

PADDING, END = 0, 1
"""The token after the end of a row's text, and the one that ends each target; a decoder's first input is the latter."""
