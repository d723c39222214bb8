"""Arrange the contents of a report and render them as text, Markdown and HTML.

Layout, wording of numbers and escaping belong here; reading files and deciding what is better never do.
"""
