"""Turn what a report says into text, Markdown and HTML. Nothing here decides what is said."""
